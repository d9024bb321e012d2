"""Loss and attention that keep little for the backward pass: the same numbers as the libraries', from fewer bytes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tuning_runner import document_attention
from tuning_runner.likelihood import TILE, unlikelihood

pytestmark = pytest.mark.tuning
TOKENS, VOCABULARY = 40, TILE // 16
"""Three tiles, the last of them not full."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outer", [1.0, 0.25], ids=["as it is", "of a step in four parts"])
def test_the_loss_and_its_gradient_are_those_of_cross_entropy(dtype: torch.dtype, outer: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(TOKENS, VOCABULARY).to(dtype).requires_grad_()
    tokens = torch.randint(VOCABULARY, (TOKENS,))
    theirs = cross_entropy(logits.float(), tokens, reduction="sum") / TOKENS
    (by_theirs,) = torch.autograd.grad(theirs * outer, logits)
    ours = unlikelihood(logits, tokens, share=1 / TOKENS)
    (by_ours,) = torch.autograd.grad(ours * outer, logits)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(by_ours, by_theirs)


def kept(compute: Any) -> int:
    """Bytes that autograd keeps of a computation, each storage once."""
    storages: dict[int, int] = {}

    def seen(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        held = compute()
    assert held.requires_grad
    return sum(storages.values())


def test_of_the_logits_one_copy_is_kept() -> None:
    logits = torch.randn(TOKENS, VOCABULARY, dtype=torch.bfloat16, requires_grad=True)
    tokens = torch.randint(VOCABULARY, (TOKENS,))
    assert kept(lambda: unlikelihood(logits, tokens, share=1.0)) == 2 * TOKENS * VOCABULARY
    assert kept(lambda: cross_entropy(logits.float(), tokens)) > 4 * TOKENS * VOCABULARY


def test_attention_over_a_short_document_keeps_what_it_is_given_and_no_more() -> None:
    query, key, value = (torch.randn(1, heads, 64, 32, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2))
    module = SimpleNamespace(num_key_value_groups=2)
    given = sum(each.untyped_storage().nbytes() for each in (query, key, value))
    options = {"cu_seq_lens_q": torch.tensor([0, 64]), "dropout": 0.0}
    assert kept(lambda: document_attention.by_document(module, query, key, value, None, **options)[0]) == given

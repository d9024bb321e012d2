"""Examples side by side: as if each were alone, shown by logits, losses and gradients of real models."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from tests.support.tiny_model import write_tiny_model
from tuning_runner import document_attention
from tuning_runner.adapter_trainer import AdapterTrainer
from tuning_runner.batches import Batches, keeps_apart, shortened, step

pytestmark = [
    pytest.mark.tuning,
    pytest.mark.filterwarnings("ignore:`?is_gradient_checkpointing:FutureWarning"),  # peft asks by the old name
]
ROWS = [{"prompt": f"w{i} w{i + 1}" + " w3" * i, "completion": f" w{i + 2} w5"} for i in range(8)]
EXAMPLES = [
    {"input_ids": [7, 8, 9, 10, 11], "labels": [-100, -100, 9, 10, 11]},
    {"input_ids": [20, 21, 22], "labels": [-100, 21, 22]},
    {"input_ids": [30, 31, 32, 33], "labels": [-100, 31, 32, 33]},
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


OWN_ATTENTION = pytest.mark.parametrize("by_document", [False, True], ids=["transformers", "by document"])


def model(directory: Path, *, by_document: bool = False) -> Any:
    made = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    if by_document:
        document_attention.use(made)
        assert made.config._attn_implementation == document_attention.NAME
    return made


def logits(of: Any, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = of(**inputs, use_cache=False).logits
    return found


@OWN_ATTENTION
def test_logits_of_examples_in_one_row_are_those_of_each_alone(directory: Path, by_document: bool) -> None:
    tiny = model(directory, by_document=by_document)
    row = Batches(pad_token_id=2, longest=64, fills=True)(EXAMPLES)
    assert row["input_ids"].shape == (1, 16)
    assert row.pop("labels")[0, 12:].tolist() == [-100] * 4
    together = logits(tiny, **row)[0, :12]
    plain = model(directory)
    alone = torch.cat([logits(plain, input_ids=torch.tensor([each["input_ids"]]))[0] for each in EXAMPLES])
    torch.testing.assert_close(together, alone)


def test_logits_of_texts_packed_by_trl_are_those_of_each_alone(directory: Path, tmp_path: Path) -> None:
    """Rows of the trainer itself, as the configuration makes them: best fit, long texts split."""
    texts = [" ".join(f"w{(i + j) % 20}" for j in range(3 + 5 * i)) for i in range(6)]
    rows = Dataset.from_list([{"text": text} for text in texts])
    trainer = trainer_of(
        AdapterTrainer, directory, tmp_path, rows, packing=True, packing_strategy="bfd_split", max_length=16
    )
    seen = 0
    for batch in trainer.get_train_dataloader():
        tokens, places = batch["input_ids"][0], batch["position_ids"][0]
        starts = [*(places == 0).nonzero().flatten().tolist(), len(tokens)]
        alone = [logits(trainer.model, input_ids=tokens[a:b][None])[0] for a, b in pairwise(starts)]
        del batch["labels"]
        torch.testing.assert_close(logits(trainer.model, **batch)[0], torch.cat(alone))
        seen += len(alone)
    assert seen > len(texts), "a text longer than a row goes on in another"
    tokens_of_all = sum(len(trainer.processing_class(text + "</s>").input_ids) for text in texts)
    assert sum(len(row["input_ids"]) for row in trainer.train_dataset) == tokens_of_all, "nothing is lost"


@pytest.mark.parametrize("lengths", [(3, 5), (document_attention.SHORT + 1, 2)], ids=["short", "long"])
def test_attention_by_document_is_that_of_a_masked_row_forward_and_backward(lengths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ends = torch.tensor([0, lengths[0], sum(lengths)])
    given = query, key, value = [torch.randn(1, n, sum(lengths), 8, requires_grad=True) for n in (4, 2, 2)]
    which = torch.arange(2).repeat_interleave(torch.tensor(lengths))
    mask = (which[:, None] == which[None]).tril()[None, None]
    grouped = SimpleNamespace(num_key_value_groups=2)
    ours, _ = document_attention.by_document(
        grouped, query, key, value, mask, cu_seq_lens_q=ends, dropout=0.0, scaling=0.3
    )
    theirs, _ = document_attention.by_document(grouped, query, key, value, mask, dropout=0.0, scaling=0.3)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), given),
        torch.autograd.grad((theirs * weights).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def test_where_a_window_cuts_what_is_read_the_mask_decides() -> None:
    query, key, value = (torch.randn(1, 2, 4, 8) for _ in range(3))
    nothing_before = torch.eye(4, dtype=torch.bool)[None, None]
    alone = SimpleNamespace(num_key_value_groups=1)
    found, _ = document_attention.by_document(
        alone, query, key, value, nothing_before, cu_seq_lens_q=torch.tensor([0, 2, 4]), sliding_window=1
    )
    torch.testing.assert_close(found, value.transpose(1, 2))


def test_a_batch_that_is_too_long_for_one_row_is_padded() -> None:
    batch = Batches(pad_token_id=2, longest=11, fills=True)(EXAMPLES)
    assert batch["input_ids"].shape == (3, 5)
    assert batch["attention_mask"].sum() == 12


def test_rows_have_few_lengths_and_little_that_fills_them() -> None:
    """Of a batch whose lengths vary by a factor of eight."""
    filled = {tokens: tokens + -tokens % step(tokens) for tokens in range(128, 1025)}
    assert len(set(filled.values())) == 4 + 4 + 8 + 1
    assert all(whole - tokens < tokens / 4 for tokens, whole in filled.items())
    row = Batches(pad_token_id=2, longest=64, fills=False)(EXAMPLES)
    assert row["input_ids"].shape == (1, 12), "a GPU has no use for it"


class Mixing(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A model whose documents read each other: what it says depends on all of the row."""

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.inner, self.config, self.device = of, of.config, of.device

    def forward(self, input_ids: torch.Tensor, use_cache: bool, **_: object) -> Any:
        return self.inner(input_ids=input_ids, use_cache=use_cache)


class Narrow(Mixing):
    """A model whose forward does not take what says where documents begin."""

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:  # type: ignore[override]
        return self.inner(input_ids=input_ids, use_cache=use_cache)


def test_whether_a_model_keeps_examples_apart_is_tried(directory: Path) -> None:
    batches = Batches(pad_token_id=2, longest=64, fills=True)
    assert keeps_apart(model(directory), batches)
    assert not keeps_apart(Mixing(model(directory)), batches)
    assert not keeps_apart(Narrow(model(directory)), batches)


def trainer_of(kind: type[SFTTrainer], directory: Path, to: Path, rows: Dataset, **arguments: Any) -> Any:
    collator = arguments.pop("data_collator", None)
    by_document = arguments.pop("by_document", False)
    given = {"per_device_train_batch_size": 4, "use_cpu": True, "bf16": False, "seed": 1, "report_to": "none"}
    return kind(
        model=model(directory, by_document=by_document),
        args=SFTConfig(output_dir=str(to), activation_checkpointing=False, **{**given, **arguments}),
        train_dataset=rows,
        data_collator=collator,
        processing_class=AutoTokenizer.from_pretrained(directory),
        peft_config=LoraConfig(
            r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
        ),
    )


@pytest.mark.parametrize("items", [None, 20])
def test_loss_and_gradients_are_those_of_trl_on_padded_rows(directory: Path, tmp_path: Path, items: int | None) -> None:
    rows = Dataset.from_list(ROWS[:4])
    torch.manual_seed(3)
    theirs = trainer_of(SFTTrainer, directory, tmp_path / "a", rows)
    torch.manual_seed(3)
    batches = Batches(pad_token_id=2, longest=99, fills=True)
    ours = trainer_of(AdapterTrainer, directory, tmp_path / "b", rows, data_collator=batches, by_document=True)
    losses, gradients = [], []
    for trainer in (theirs, ours):
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(
            trainer.model, batch, num_items_in_batch=None if items is None else torch.tensor(20)
        )
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad for p in trainer.model.parameters() if p.grad is not None])
    assert len(next(iter(ours.get_train_dataloader()))["input_ids"]) == 1
    torch.testing.assert_close(losses[1], losses[0])
    assert len(gradients[0]) == len(gradients[1]) == 8
    torch.testing.assert_close(gradients[1], gradients[0])


def test_only_what_is_learnt_is_projected(directory: Path, tmp_path: Path) -> None:
    rows = Dataset.from_list(ROWS[:4])
    trainer = trainer_of(
        AdapterTrainer, directory, tmp_path, rows, data_collator=Batches(pad_token_id=2, longest=99, fills=True)
    )
    projected: list[int] = []
    trainer.model.get_output_embeddings().register_forward_hook(
        lambda _, given, __: projected.append(given[0].shape[1])
    )
    batch = next(iter(trainer.get_train_dataloader()))
    learnt = int((batch["labels"] != -100).sum())
    trainer.compute_loss(trainer.model, batch)
    assert projected == [learnt]
    assert learnt < batch["input_ids"].numel() / 2


def test_long_examples_are_cut_at_either_end_and_counted() -> None:
    rows = Dataset.from_list(EXAMPLES)
    cut, long = shortened(rows, longest=3, keep_end=False)
    assert (long, cut["input_ids"]) == (2, [[7, 8, 9], [20, 21, 22], [30, 31, 32]])
    cut, long = shortened(rows, longest=3, keep_end=True)
    assert (long, cut["labels"]) == (2, [[9, 10, 11], [-100, 21, 22], [31, 32, 33]])


def test_an_example_whose_answer_is_cut_off_is_left_out() -> None:
    cut, long = shortened(Dataset.from_list(EXAMPLES), longest=2, keep_end=False)
    assert (long, cut["input_ids"]) == (3, [[20, 21], [30, 31]])

"""What a decoder model is made of, and what follows: its parameters, and what each token leaves in the KV cache.

Pure arithmetic on the numbers of a ``config.json``. Norms and biases are left out: they are under 0.1 % of the
parameters of every model of the catalogue.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

EXACT = ConfigDict(extra="forbid")
Positive = Annotated[int, Field(gt=0, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Attention = Literal["MHA", "GQA", "MQA", "MLA"]


@dataclass(frozen=True, slots=True, kw_only=True, config=EXACT)
class Experts:
    """Mixture of experts: which MLPs a layer has instead of one."""

    count: Positive
    per_token: Positive
    intermediate: Positive
    """Of each expert."""
    shared_intermediate: Count = 0
    """Of the experts every token goes through, together; 0 where there is none."""
    dense_layers: Count = 0
    """How many layers, from the first, have an ordinary MLP."""


@dataclass(frozen=True, slots=True, kw_only=True, config=EXACT)
class LatentAttention:
    """Multi-head latent attention (arXiv:2405.04434, section 2.1): keys and values share one small vector."""

    kv_rank: Positive
    query_rank: Count = 0
    """0 where queries are not compressed."""
    rope_head_size: Positive
    value_head_size: Positive


@dataclass(frozen=True, slots=True, kw_only=True, config=EXACT)
class Architecture:
    """A decoder-only transformer. Sizes in elements, ``context`` and ``window`` in tokens."""

    layers: Positive
    hidden: Positive
    heads: Positive
    kv_heads: Positive
    head_size: Positive
    intermediate: Positive
    vocabulary: Positive
    context: Positive
    tied: StrictBool = False
    """Whether input and output embeddings are one matrix."""
    gated: StrictBool = True
    """Whether the MLP has three matrices (SwiGLU and its kin) or two."""
    window: Count = 0
    """Tokens a windowed layer looks back; 0 where no layer has a window."""
    windowed_layers: Count = 0
    experts: Experts | None = None
    latent: LatentAttention | None = None
    other_parameters: Count = 0
    """What is loaded besides the text model: the vision tower of a model that also reads images."""

    @property
    def attention(self) -> Attention:
        """The kind of attention, by how many heads share their keys and values."""
        if self.latent:
            return "MLA"
        return "MHA" if self.kv_heads == self.heads else "MQA" if self.kv_heads == 1 else "GQA"


def parameters(of: Architecture) -> int:
    """All parameters, embeddings included."""
    return linear_parameters(of) + embedding_parameters(of) + of.other_parameters


def active_parameters(of: Architecture) -> int:
    """Those one token is computed with: all but the experts it does not go to, and but the input embedding, of which
    one row is read."""
    if not of.experts:
        mlp = of.layers * _mlp(of, of.intermediate)
    else:
        moe = of.experts
        each = moe.per_token * _mlp(of, moe.intermediate) + _mlp(of, moe.shared_intermediate) + of.hidden * moe.count
        mlp = (of.layers - moe.dense_layers) * each + moe.dense_layers * _mlp(of, of.intermediate)
    return of.layers * attention_parameters(of) + mlp + of.hidden * of.vocabulary


def embedding_parameters(of: Architecture) -> int:
    """The embeddings: of the input and, where it is a matrix of its own, of the output."""
    return of.hidden * of.vocabulary * (1 if of.tied else 2)


def linear_parameters(of: Architecture) -> int:
    """The matrices of the layers: those that quantisation packs."""
    if not of.experts:
        mlp = of.layers * _mlp(of, of.intermediate)
    else:
        moe = of.experts
        each = expert_parameters(of) + _mlp(of, moe.shared_intermediate) + of.hidden * moe.count
        mlp = (of.layers - moe.dense_layers) * each + moe.dense_layers * _mlp(of, of.intermediate)
    return of.layers * attention_parameters(of) + mlp


def expert_parameters(of: Architecture) -> int:
    """The routed experts of one layer; 0 in a dense model."""
    return of.experts.count * _mlp(of, of.experts.intermediate) if of.experts else 0


def attention_parameters(of: Architecture) -> int:
    """The projections of one layer's attention."""
    if of.latent:
        return _latent(of, of.latent)
    queries, keys = of.heads * of.head_size, of.kv_heads * of.head_size
    return of.hidden * (2 * queries + 2 * keys)


def _latent(of: Architecture, by: LatentAttention) -> int:
    """Its projections (arXiv:2405.04434, appendix C); ``head_size`` is of the part without rotary position."""
    query_size = of.heads * (of.head_size + by.rope_head_size)
    queries = of.hidden * by.query_rank + by.query_rank * query_size if by.query_rank else of.hidden * query_size
    down = of.hidden * (by.kv_rank + by.rope_head_size)
    up = by.kv_rank * of.heads * (of.head_size + by.value_head_size)
    return queries + down + up + of.heads * by.value_head_size * of.hidden


def _mlp(of: Architecture, intermediate: int) -> int:
    return of.hidden * intermediate * (3 if of.gated else 2)


def kv_elements(of: Architecture, tokens: int) -> int:
    """Elements in the KV cache of one sequence of ``tokens`` tokens, in all layers.

    A key and a value for each KV head (arXiv:2305.13245, section 2); with latent attention one compressed vector and
    one rotary key (arXiv:2405.04434, table 1). A windowed layer keeps the last ``window`` tokens.
    """
    if of.latent:
        return of.layers * tokens * (of.latent.kv_rank + of.latent.rope_head_size)
    each = 2 * of.kv_heads * of.head_size
    windowed = of.windowed_layers * min(tokens, of.window) if of.window else 0
    full = (of.layers - (of.windowed_layers if of.window else 0)) * tokens
    return each * (full + windowed)

"""What an adapter lies beside where its configuration names nothing: the linear layers of attention and MLP.

The trainer looks them up in the model that it has, the estimates in the catalogue: both in this table. All of them, for
an adapter beside attention alone learns less (arXiv:2305.14314, section 4; arXiv:2405.09673).
"""

from collections.abc import Iterable, Mapping

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    "falcon": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
}
"""Family → its layers, named as transformers does. Most families after llama have llama's names."""
KNOWN = tuple(dict.fromkeys(name for names in FAMILIES.values() for name in names))


def among(modules: Iterable[str]) -> tuple[str, ...]:
    """Those of a model whose modules end in these names; nothing for a family with names of its own."""
    there = set(modules)
    return tuple(name for name in KNOWN if name in there)

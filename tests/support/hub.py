"""A recorded Hub: repositories with a config and the headers of weights, served as the Hub serves them."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.faulty_http import Fault, Site

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BYTES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1}


def header(tensors: dict[str, list[int]], *, dtype: str = "BF16") -> tuple[bytes, int]:
    """The beginning of a safetensors file with such tensors, and the size of the whole file."""
    described, offset = {}, 0
    for name, shape in tensors.items():
        size = BYTES[dtype]
        for length in shape:
            size *= length
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(described).encode()
    start = struct.pack("<Q", len(text)) + text
    return start, len(start) + offset


def tensors(config: dict[str, Any]) -> dict[str, list[int]]:
    """Those of a llama of this config, as its files have them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    size = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    made = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        made |= {
            f"{at}.self_attn.q_proj.weight": [queries, hidden],
            f"{at}.self_attn.k_proj.weight": [keys, hidden],
            f"{at}.self_attn.v_proj.weight": [keys, hidden],
            f"{at}.self_attn.o_proj.weight": [hidden, queries],
            f"{at}.mlp.gate_proj.weight": [inner, hidden],
            f"{at}.mlp.up_proj.weight": [inner, hidden],
            f"{at}.mlp.down_proj.weight": [hidden, inner],
            f"{at}.input_layernorm.weight": [hidden],
            f"{at}.post_attention_layernorm.weight": [hidden],
        }
    return made if config.get("tie_word_embeddings") else made | {"lm_head.weight": [config["vocab_size"], hidden]}


@dataclass
class Repository:
    """One model on the Hub."""

    id: str
    config: dict[str, Any] | bytes
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Beginning and size of each weight file."""
    gated: bool | str = False
    more: tuple[str, ...] = ()
    texts: dict[str, bytes] = field(default_factory=dict)
    """Whole files beside the weights."""
    info: dict[str, Any] = field(default_factory=dict)

    def put_on(self, site: Site) -> None:
        """Serves it."""
        text = self.config if isinstance(self.config, bytes) else json.dumps(self.config).encode()
        siblings = [{"rfilename": "config.json", "size": len(text), "blobId": "x"}]
        siblings += [{"rfilename": name, "size": size} for name, (_, size) in self.files.items()]
        siblings += [{"rfilename": name, "size": 1} for name in self.more]
        siblings += [{"rfilename": name, "size": len(whole)} for name, whole in self.texts.items()]
        info = {"id": self.id, "sha": COMMIT, "gated": self.gated, "siblings": siblings, **self.info}
        for revision in ("main", COMMIT):
            site.files[f"/api/models/{self.id}/revision/{revision}"] = json.dumps(info).encode()
        parts = {"config.json": text, **{name: begin for name, (begin, _) in self.files.items()}, **self.texts}
        for name, content in parts.items():
            path = f"/{self.id}/resolve/{COMMIT}/{name}"
            site.files[path] = content
            site.headers[path] = {"x-repo-commit": COMMIT, "etag": f'"{name}"'}


def of_directory(id: str, directory: Path, **more: Any) -> Repository:
    """A repository with a model that lies in a directory, whole."""
    whole = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    config = whole.pop("config.json")
    weights = {name: (text, len(text)) for name, text in whole.items() if name.endswith(".safetensors")}
    texts = {name: text for name, text in whole.items() if name not in weights}
    return Repository(id, config, weights, texts=texts, **more)


def refused(status: int, code: str = "", message: str = "", *, path: str = "/api/models") -> Fault:
    """An answer of the Hub that is none."""
    return Fault(status=status, path=path, headers={"x-error-code": code, "x-error-message": message})

"""Any model of the Hugging Face Hub as a row of the catalogue: its config and the headers of its weights, no weights.

Answers are kept on disk for each id, revision and holder of a token, so that one who may not see a gated model does not
see it out of the cache of one who may.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from presets.architecture import parameters
from presets.catalog import Model
from presets.hub import config as configs
from presets.hub.row import as_row, of_json

ENDPOINT = "https://huggingface.co"
KEPT_FOR = 24 * 3600
"""Seconds until a branch is looked up again. A commit never changes."""
COMMIT = re.compile(r"[0-9a-f]{40}")
SHARD = re.compile(r"(?:model|consolidated)(?:[-.]\d{2,5}(?:-of-\d{5})?)?\.safetensors")
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
LARGEST_HEADER = 25_000_000
"""Bytes; huggingface-hub reads no larger one."""
LARGEST_CONFIG = 1 << 20
PATIENCE = 10.0
OF_USE_WITHOUT_A_GPU = 4_100_000_000
"""Parameters of the largest model that the catalogue calls of use on processors."""
AT_ONCE = 8


class HubError(Exception):
    """The Hub gave no model that can be served; the message is one line that says what to do."""


class Gated(HubError):
    """Its terms have not been agreed to, or no token says by whom."""


class Missing(HubError):
    """There is none of this id or revision, or it is private."""


class Unsupported(HubError):
    """It is there, but nothing here could load it."""


class Unreachable(HubError):
    """Nobody answered, or only that it is too much."""


class Broken(HubError):
    """What came is not what a model is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """The Hub as one holder of a token sees it."""

    cache: Path
    token: str = ""
    endpoint: str = ENDPOINT

    def model(self, id: str, *, revision: str = "main") -> Model:
        """The model of this id. Raises HubError."""
        if not ID.fullmatch(id):
            raise Missing(f"{id!r} is no id of the Hub: write org/name")
        kept = self._kept(id, revision)
        if kept is not None and kept[1]:
            return kept[0]
        try:
            found = self._asked(id, revision)
        except Unreachable:
            if kept is not None:
                return kept[0]
            raise
        self._keep(id, revision, found)
        return found

    def _asked(self, id: str, revision: str) -> Model:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self.token or False, library_name="kaito")
        with told(id, revision):
            info = api.model_info(id, revision=revision, files_metadata=True, timeout=PATIENCE)
            files = {each.rfilename: each.size or 0 for each in info.siblings or ()}
            config = self._config(api, id, info.sha or revision, files)
            headers = self._headers(api, id, info.sha or revision, shards(id, files))
        return _row(id, config, files, headers, info=info)

    def _config(self, api: Any, id: str, commit: str, files: Mapping[str, int]) -> dict[str, Any]:
        if "config.json" not in files:
            raise Unsupported(f"{id} has no config.json: it is not in the form of transformers")
        if files["config.json"] > LARGEST_CONFIG:
            raise Broken(f"the config.json of {id} has {files['config.json']} bytes")
        path = api.hf_hub_download(id, "config.json", revision=commit, cache_dir=self.cache / "files")
        try:
            config = json.loads(Path(path).read_bytes())
        except ValueError as error:
            raise Broken(f"the config.json of {id} is no JSON") from error
        if not isinstance(config, dict):
            raise Broken(f"the config.json of {id} holds no settings by name")
        return config

    def _headers(self, api: Any, id: str, commit: str, shards: Mapping[str, int]) -> dict[str, Any]:
        """The headers of all weight files, read a few at once."""

        def read(name: str) -> Any:
            return api.parse_safetensors_file_metadata(id, name, revision=commit, timeout=PATIENCE)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(shards, pool.map(read, shards), strict=True))
        for name, header in found.items():
            _check(id, name, header, size=shards[name])
        return found

    def _kept(self, id: str, revision: str) -> tuple[Model, bool] | None:
        """What was found before, and whether it is fresh."""
        file = self._file(id, revision)
        try:
            found = of_json(file.read_bytes())
            age = time.time() - file.stat().st_mtime
        except (OSError, ValidationError):
            return None
        return found, bool(COMMIT.fullmatch(revision)) or 0 <= age < KEPT_FOR

    def _keep(self, id: str, revision: str, found: Model) -> None:
        """A cache that cannot be written is none."""
        file = self._file(id, revision)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(as_row(found)))
            part.replace(file)
        except OSError:
            return

    def _file(self, id: str, revision: str) -> Path:
        holder = hashlib.sha256(self.token.encode()).hexdigest()[:16] if self.token else "anybody"
        site = hashlib.sha256(self.endpoint.encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.-]", "-", revision)
        return self.cache / "models" / site / holder / id.lower().replace("/", "--") / f"{name}.json"


def shards(id: str, files: Mapping[str, int]) -> dict[str, int]:
    """The weight files; of two forms the one that transformers loads."""
    found = {name: size for name, size in files.items() if SHARD.fullmatch(name)}
    ours = {name: size for name, size in found.items() if name.startswith("model")} or found
    if ours:
        return dict(sorted(ours.items()))
    if any(name.endswith(PICKLED) for name in files):
        raise Unsupported(f"{id} has pickled weights alone, which can run code: only safetensors are loaded")
    raise Unsupported(f"{id} has no safetensors files")


def _check(id: str, name: str, header: Any, *, size: int) -> None:
    """A header that promises other bytes than the file has lies about the model's size."""
    end = max((tensor.data_offsets[1] for tensor in header.tensors.values()), default=0)
    if not end <= size <= end + LARGEST_HEADER + 8:
        raise Broken(f"{name} of {id} has {size} bytes, its header speaks of {end}")


def _row(id: str, config: dict[str, Any], files: Mapping[str, int], headers: Mapping[str, Any], *, info: Any) -> Model:
    try:
        architecture = configs.architecture(config)
        kind, packed = configs.dtype(config), configs.quantisation(config)
    except configs.UnreadableConfig as error:
        raise Unsupported(f"{id} cannot be served: {error}") from error
    card = getattr(info, "card_data", None)
    counted = sum(sum(header.parameter_count.values()) for header in headers.values())
    number = parameters(architecture) if packed else counted  # of packed weights headers count bytes
    gated = bool(info.gated)
    return Model(
        name=id,
        hub=id,
        access="private" if gated else "public",
        architecture=architecture,
        license=str((card.get("license") if card is not None else None) or "unknown"),
        parameters=number,
        cpu=number <= OF_USE_WITHOUT_A_GPU and not packed,
        revision=info.sha or "",
        weight_bytes=sum(files[name] for name in headers),
        gated=gated,
        dtype=kind,
        quantisation=packed,
        tuning=architecture.experts is None and not config.get("quantization_config"),  # as of the catalogue's own
        chat=_has_chat_template(info, files),
    )


def _has_chat_template(info: Any, files: Mapping[str, int]) -> bool:
    told = (info.config or {}).get("tokenizer_config") or {}
    return "chat_template" in told or any(name.startswith("chat_template.") for name in files)


@contextmanager
def told(id: str, revision: str) -> Iterator[None]:
    """The library's errors in our words: one line, and what to do."""
    import httpx2  # huggingface-hub's own HTTP library
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise Gated(f"{id} is gated: agree to its terms on the Hub and give a token of yours in HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise Missing(f"{id} has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise Missing(f"the Hub has no {id}, or it is private and the token in HF_TOKEN may not read it") from error
    except (errors.SafetensorsParsingError, errors.NotASafetensorsRepoError) as error:
        raise Broken(f"the weights of {id} have a header that cannot be read") from error
    except errors.HfHubHTTPError as error:
        raise _refused(id, error.response.status_code, error.server_message or "") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, httpx2.HTTPError) as error:
        raise Unreachable("the Hub cannot be reached; `kaito models` lists what is known without it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Broken(f"the Hub's answer on {id} has a form that is not known ({type(error).__name__})") from error


def _refused(id: str, status: int, told: str) -> HubError:
    if status == 401 and "Invalid credentials" in told:
        return Gated(f"the Hub does not know the token in HF_TOKEN (HTTP 401 for {id})")
    if status == 403:
        return Gated(f"the token in HF_TOKEN may not read {id}: ask for access on the Hub (HTTP 403)")
    if status in (401, 404):  # to strangers the Hub says 401 of what is not there, and of what is private
        return Missing(f"the Hub has no {id}, or it is private and the token in HF_TOKEN may not read it")
    if status == 429 or status >= 500:
        return Unreachable(f"the Hub cannot answer now (HTTP {status}): try again in some minutes")
    return Broken(f"the Hub refuses to tell of {id} (HTTP {status})")

"""``python -m presets.hub.download --id org/name --to DIR``: a model of the Hub into a directory, safetensors only.

HF_TOKEN and HF_ENDPOINT are the Hub's own words for the token and for a mirror. What is there already is not fetched
again.
"""

import argparse
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from presets.estimate import GIB
from presets.hub.reader import ENDPOINT, PATIENCE, Broken, Gated, HubError, Missing, Unreachable, shards, told
from presets.tuning_steps import ExitCode

log = logging.getLogger("model")

BESIDE_WEIGHTS = re.compile(r"(?!pytorch_model)[\w.-]+\.(json|jinja|model|txt|tiktoken)|LICENSE|NOTICE")
"""Settings, tokenizer, chat template: what lies beside the weights and is read with them. No code."""
AT_ONCE = 4
EVERY_SECONDS = 10.0
PAUSES = (2.0, 5.0, 15.0, 30.0)
"""Seconds before another try, where the Hub did not answer."""
CODES: Mapping[type[Exception], ExitCode] = {
    Gated: ExitCode.HUB_GATED,
    Missing: ExitCode.HUB_MODEL_MISSING,
    Unreachable: ExitCode.HUB_UNREACHABLE,
}
"""What the operator is told; anything else the Hub says is of a model that cannot be served."""


class NoRoom(Exception):
    """The model is larger than what is free."""


def download(
    id: str,
    to: Path,
    *,
    revision: str = "main",
    token: str = "",
    endpoint: str = ENDPOINT,
    say: Callable[[str], None] = log.info,
) -> None:
    """Brings the model. ``say`` gets a line every ten seconds. Raises HubError, NoRoom, OSError."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    api = HfApi(endpoint=endpoint, token=token or False, library_name="kaito")
    with told(id, revision):
        info = api.model_info(id, revision=revision, files_metadata=True, timeout=PATIENCE)
    files = wanted(id, {each.rfilename: each.size or 0 for each in info.siblings or ()})
    to.mkdir(parents=True, exist_ok=True)
    _must_have_room(id, files, to)
    commit = info.sha or revision

    def fetch(name: str) -> None:
        with told(id, revision):
            api.hf_hub_download(id, name, revision=commit, local_dir=to)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        _follow([pool.submit(fetch, name) for name in files], to, total=sum(files.values()), say=say)
    say(f"{id} at {commit} is in {to}: {_gib(sum(files.values()))}")


def wanted(id: str, files: Mapping[str, int]) -> dict[str, int]:
    """The files to fetch with their sizes: weights last. Raises Unsupported where there are no safetensors."""
    weights = shards(id, files)
    beside = {name: size for name, size in files.items() if BESIDE_WEIGHTS.fullmatch(name)}
    if "config.json" not in beside:
        raise Broken(f"{id} has no config.json: it is not in the form of transformers")
    return {**dict(sorted(beside.items())), **weights}


def _must_have_room(id: str, files: Mapping[str, int], to: Path) -> None:
    missing, free = sum(files.values()) - _size(to), shutil.disk_usage(to).free
    if missing > free:
        raise NoRoom(
            f"{id} takes {_gib(missing)} more, and {to} has {_gib(free)} free: take a machine with a larger disk"
        )


def _follow(jobs: Sequence[Future[None]], to: Path, *, total: int, say: Callable[[str], None]) -> None:
    """Says how far the files are until all are there. The first error ends it; what has not begun then never does."""
    began, before = time.monotonic(), _size(to)
    pending: set[Future[None]] = set(jobs)
    while pending:
        done, pending = wait(pending, timeout=EVERY_SECONDS, return_when="FIRST_EXCEPTION")
        if failed := next((error for job in done if (error := job.exception())), None):
            for job in pending:
                job.cancel()
            raise failed
        if pending:
            say(_far(_size(to), total=total, rate=(_size(to) - before) / (time.monotonic() - began)))


def _far(size: int, *, total: int, rate: float) -> str:
    left = f", about {(total - size) / rate:.0f} s left" if rate > 0 and total > size else ""
    return f"{_gib(min(size, total))} of {_gib(total)}, {rate / 1e6:.0f} MB/s{left}"


def _size(directory: Path) -> int:
    """Bytes in it, those of unfinished files too: the library keeps them below it."""
    found = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                found += (Path(place) / name).stat().st_size
            except FileNotFoundError:
                continue  # finished and renamed a moment ago
    return found


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.1f} MiB"


@dataclass
class Words:
    """The last thing said, for the log and for whoever asks at ``/readyz``, where the model's server will answer."""

    last: str = "asking the Hub"

    def say(self, line: str) -> None:
        """Says it."""
        self.last = line
        log.info(line)


@contextmanager
def told_at(port: int, words: Words) -> Iterator[int]:
    """Tells the last words to whoever asks, on this port; 0 takes a free one. Yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = json.dumps({"status": "loading", "progress": words.last}).encode()
            self.send_response(503)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Nothing: being asked is no news."""

    with ThreadingHTTPServer(("", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _patiently(asked: argparse.Namespace, words: Words) -> None:
    token, endpoint = os.environ.get("HF_TOKEN", ""), os.environ.get("HF_ENDPOINT", "") or ENDPOINT
    for pause in (*PAUSES, None):
        try:
            download(asked.id, asked.to, revision=asked.revision, token=token, endpoint=endpoint, say=words.say)
            return
        except Unreachable as error:
            if pause is None:
                raise
            words.say(f"{error}; again in {pause:.0f} s")
            threading.Event().wait(pause)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or the code of what went wrong, which the last line says."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("httpx", "httpx2", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of every request
    parser = argparse.ArgumentParser(prog="python -m presets.hub.download", description=__doc__)
    parser.add_argument("--id", required=True, help="org/name")
    parser.add_argument("--revision", default="main", help="a branch, a tag or a commit")
    parser.add_argument("--port", type=int, default=0, help="where to tell how far it is, at /readyz; 0 nowhere")
    parser.add_argument("--to", required=True, type=Path, help="the directory")
    code, said = _ended(parser.parse_args(arguments))
    if said:
        log.error("%s: %s", code.reason, said)
    return code


def _ended(asked: argparse.Namespace) -> tuple[ExitCode, str]:
    words = Words()
    try:
        with told_at(asked.port, words) if asked.port else nullcontext():
            _patiently(asked, words)
    except HubError as error:
        return CODES.get(type(error), ExitCode.HUB_MODEL_UNSUPPORTED), str(error)
    except NoRoom as error:
        return ExitCode.DISK_FULL, str(error)
    except OSError as error:
        if error.errno is None:  # the library's own, of a file that came short
            return ExitCode.HUB_UNREACHABLE, f"{asked.id} has not come whole: {error}"
        return ExitCode.DISK_FULL, f"{asked.to} cannot be written: {error.strerror}"
    return ExitCode.DONE, ""


if __name__ == "__main__":
    sys.exit(main())

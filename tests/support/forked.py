"""Processes of the real program that start in a tenth of a second: forked from one that has imported it already."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support.fork_server import processes


@contextmanager
def forked(arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> Iterator[BaseProcess]:
    """``python -m kaito_operator ARGUMENTS``; ended by SIGKILL, if not before."""
    process = processes().Process(target=_run, args=(list(arguments), dict(environment), str(log)), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def _run(arguments: list[str], environment: dict[str, str], log: str) -> None:
    from kaito_operator.__main__ import main

    os.environ.clear()
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = ["kaito_operator", *arguments]
    os._exit(main())

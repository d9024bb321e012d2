"""Processes of their own for the trainer, forked from one that has torch loaded and has not used it.

A start of torch takes seconds, and dozens of processes are killed or stopped here.
"""

import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.support.fork_server import processes

GIVEN = {"pretrained_model_name_or_path": "model", "config": "config.yaml", "data": "data", "results": "results"}
"""Options of the trainer, and what they are called in the place of a test."""


def started(what: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """A process that runs it, and ends with the exit code that it gives to ``sys.exit``."""
    process = processes().Process(target=what, args=arguments)
    process.start()
    return process


def ended(what: Callable[..., object], *arguments: object) -> int:
    """Its exit code; below zero the signal that ended it."""
    process = started(what, *arguments)
    process.join(180)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("it does not end")
    return process.exitcode


def run_tuning(place: str, port: int = 0) -> None:
    """The trainer's step in a place with ``model``, ``data`` and ``config.yaml``; its last words are in ``words``."""
    import torch

    torch.set_num_threads(1)
    os.environ["TERMINATION_LOG"] = f"{place}/words"
    from tuning_runner.__main__ import main

    paths = [f"--{name}={Path(place) / file}" for name, file in GIVEN.items()]
    sys.exit(main([*paths, "--method=lora", f"--port={port}", "--preset=tiny"]))

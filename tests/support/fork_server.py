"""The one fork server of a test process: what it has imported, its children need not import again.

multiprocessing keeps a single one, which takes no more modules once it runs; so all of them are named here.
"""

import multiprocessing
import sys
from functools import cache
from multiprocessing.context import ForkServerContext

OPERATORS = (
    "kaito_operator.__main__",
    "kaito_operator.gpu_provisioner.controller",
    "kaito_operator.gpu_provisioner.azure",
    "kaito_operator.workspace.controller",
)
TRAINER = ("tuning_runner.train", "tests.support.tiny_model")


@cache
def processes() -> ForkServerContext:
    """Where to start processes. Torch, which takes seconds, is in it only where this run tests the trainer."""
    context = multiprocessing.get_context("forkserver")
    trains = any(module.startswith("tests.tuning_runner.") for module in sys.modules)
    context.set_forkserver_preload([*OPERATORS, *(TRAINER if trains else ())])
    return context

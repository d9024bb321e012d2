"""What processes take, compared with processes whose needs are known."""

import subprocess
import sys

from local_cluster.container_usage import Usage, usage

GROW = """
import subprocess, sys
held = bytearray(30_000_000)
child = subprocess.Popen(["sleep", "1000"])
print("up", flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


def test_memory_and_children_are_counted() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", GROW], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        taken = usage(process.pid)
        process.communicate()
    assert taken.processes == 2
    assert 30_000_000 < taken.memory < 100_000_000


def test_what_has_gone_takes_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert usage(process.pid) == Usage()

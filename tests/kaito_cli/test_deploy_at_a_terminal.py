"""``kaito deploy`` where a person sits: it asks for what is missing, shows what it made, and asks before it applies."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from presets.catalog import load_catalog
from presets.fit import smallest
from tests.support.control_plane import ApiServer

PRESET = "smollm2-135m-instruct"
SIZE = "Standard_D2s_v5"


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process, self._end, self.seen = process, end, ""

    def answers(self, question: str, answer: str) -> None:
        """Waits until the question is on the screen after what was seen before, and types the answer."""
        before = len(self.seen)
        while question not in self.seen[before:]:
            more = self._read()
            assert more, f"{question!r} was never asked:\n{self.seen}"
        os.write(self._end, f"{answer}\n".encode())

    def finish(self) -> int:
        """Reads to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(120)

    def _read(self) -> str:
        try:
            text = os.read(self._end, 65536).decode(errors="replace")
        except OSError:  # Linux says so when the last one has left the terminal
            return ""
        self.seen += text.replace("\r\n", "\n")
        return text


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kaito_cli", "deploy", *arguments]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "200"}
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_what_is_missing_is_asked_for_and_the_smallest_machine_is_suggested() -> None:
    catalog = load_catalog()
    suggested, *_ = smallest(catalog.model(PRESET), 1, catalog=catalog)
    with terminal("--dry-run") as person:
        person.answers("Name of the Workspace: ", "chat")
        person.answers("Model (kaito models lists them): ", PRESET)
        person.answers(f"Instance type [{suggested}]: ", "")
        assert person.finish() == 0
    assert re.search(rf"name: chat\n.*instanceType: {suggested}\n.*name: {PRESET}\n", person.seen, re.DOTALL)


@pytest.mark.controlplane
@pytest.mark.usefixtures("crds")
@pytest.mark.parametrize(("answer", "code", "stored"), [("n", 1, False), ("y", 0, True)])
def test_nothing_is_applied_before_the_person_says_yes(
    api_server: ApiServer, namespace: str, answer: str, code: int, stored: bool
) -> None:
    cluster = ("-n", namespace, "--kubeconfig", str(api_server.kubeconfig("admin")))
    with terminal("chat", "--preset", PRESET, "--instance-type", SIZE, *cluster) as person:
        person.answers("Apply it? [y/N]: ", answer)
        assert person.finish() == code
    assert f"Workspace {namespace}/chat serves {PRESET} on 1 machine of {SIZE}" in person.seen
    path = f"/apis/kaito.sh/v1alpha1/namespaces/{namespace}/workspaces/chat"
    assert (api_server.get(path) is not None) is stored

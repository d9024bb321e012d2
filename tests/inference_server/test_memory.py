"""What serving takes is what the catalogue said it would take."""

import re
from pathlib import Path

import httpx
import pytest

from presets.catalog import load_catalog
from presets.estimate import Load, serving_on_cpu
from tests.support.serving import serving

pytestmark = pytest.mark.server

WORDS = 2000
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
pages_for_who_asks = pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(),
    reason="measured where huge pages go to who asks for them; with none, or with all, other memory is resident",
)


@pages_for_who_asks
def test_the_embedded_model_takes_what_was_estimated(smollm2: Path, tmp_path: Path) -> None:
    model = load_catalog().model("smollm2-135m-instruct")
    flags = [f"--{key}={value}" for key, value in sorted(model.arguments.items())]
    with serving(smollm2, *flags, log=tmp_path / "log") as server:
        server.wait_until("/readyz")
        body = {"prompt": "word " * WORDS, "generate_kwargs": {"do_sample": False, "max_new_tokens": 8}}
        assert httpx.post(f"{server.url}/chat", json=body, timeout=600).status_code == 200
        taken = peak(server.process.pid)
    assert taken == pytest.approx(serving_on_cpu(model.weights, Load(context=WORDS)).total, rel=0.1)


def peak(pid: int) -> int:
    """The most memory a process ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024

"""Downloads: whole or not at all, gone on with after a break, refused in words a user can act on."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from presets.tuning_steps import ExitCode
from tests.support.faulty_http import Fault, Site, serve
from tests.support.told import check_told
from tests.support.waiting import eventually
from tuning_runner.address_guard import AddressRefused, Guard
from tuning_runner.download import download
from tuning_runner.download_file import BOOKS, Budget, part_path
from tuning_runner.patience import Patience
from tuning_runner.sources import parse_sources
from tuning_runner.transfer_ending import StepFailed

LOOPBACK = Guard(allowed=(ip_network("127.0.0.0/8"),))
QUICK = Patience(pauses=(0.01, 0.01, 0.01))
ROWS = b"".join(b'{"text": "row %d"}\n' % n for n in range(20000))


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site(files={"/rows.jsonl": ROWS})) as running:
        yield running


def bring(urls: str, to: Path, *, max_bytes: int = 1 << 30, seconds: float = 60) -> object:
    budget = Budget(max_bytes=max_bytes, seconds=seconds)
    return download(parse_sources(urls), to=to, guard=LOOPBACK, budget=budget, patience=QUICK)


def visible(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def test_several_files_arrive_under_their_own_names(site: Site, tmp_path: Path) -> None:
    site.files.update({"/b/rows.jsonl": b"other\n", "/c/a%20b.csv": b"x\n"})
    bring(f"{site.url}/rows.jsonl?download=true\n{site.url}/b/rows.jsonl {site.url}/c/a%20b.csv", tmp_path)
    assert visible(tmp_path) == ["a b.csv", "rows-2.jsonl", "rows.jsonl"]
    assert (tmp_path / "rows.jsonl").read_bytes() == ROWS
    assert (tmp_path / "rows-2.jsonl").read_bytes() == b"other\n"


def test_after_a_break_it_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    site.faults = [Fault(cut=100_000), Fault(cut=50_000)]
    bring(f"{site.url}/rows.jsonl", tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == ROWS
    assert [headers.get("range") for _, _, headers in site.seen] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_file_that_changed_meanwhile_is_taken_from_its_beginning(site: Site, tmp_path: Path) -> None:
    site.faults = [Fault(cut=1000), Fault(status=503)]
    changed = ROWS[::-1]

    site.headers["/rows.jsonl"] = {"etag": '"1"'}
    with pytest.raises(StepFailed):
        download(
            parse_sources(f"{site.url}/rows.jsonl"),
            to=tmp_path,
            guard=LOOPBACK,
            budget=Budget(max_bytes=1 << 30, seconds=60),
            patience=Patience(pauses=()),
        )
    site.faults, site.files["/rows.jsonl"], site.headers["/rows.jsonl"] = [], changed, {"etag": '"2"'}
    bring(f"{site.url}/rows.jsonl", tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == changed


def test_a_server_without_ranges_sends_the_file_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.faults = False, [Fault(cut=1000)]
    bring(f"{site.url}/rows.jsonl", tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == ROWS


@pytest.mark.parametrize("fault", [Fault(status=s) for s in (408, 429, 500, 502, 503, 504)] + [Fault(before=True)])
def test_passing_troubles_are_tried_again(site: Site, tmp_path: Path, fault: Fault) -> None:
    site.faults = [fault, fault]
    bring(f"{site.url}/rows.jsonl", tmp_path)
    assert len(site.seen) == 3


def test_a_second_run_fetches_nothing_again(site: Site, tmp_path: Path) -> None:
    bring(f"{site.url}/rows.jsonl", tmp_path)
    bring(f"{site.url}/rows.jsonl", tmp_path)
    assert len(site.seen) == 1


def test_the_digest_is_checked(site: Site, tmp_path: Path) -> None:
    right = hashlib.sha256(ROWS).hexdigest()
    assert bring(f"{site.url}/rows.jsonl#sha256={right}", tmp_path) == {
        "files": [{"name": "rows.jsonl", "sha256": right}],
        "bytes": len(ROWS),
    }


BOMB = gzip.compress(bytes(30_000_000))
FAILURES: dict[str, tuple[str, Site, ExitCode, str]] = {
    "401": ("/x.csv", Site(faults=[Fault(status=401)]), ExitCode.DOWNLOAD_REFUSED, "401"),
    "403": ("/x.csv", Site(faults=[Fault(status=403)]), ExitCode.DOWNLOAD_REFUSED, "signature"),
    "404": ("/x.csv", Site(), ExitCode.DOWNLOAD_REFUSED, "404"),
    "410": ("/x.csv", Site(faults=[Fault(status=410)]), ExitCode.DOWNLOAD_REFUSED, "410"),
    "204": ("/x.csv", Site(faults=[Fault(status=204)]), ExitCode.DOWNLOAD_REFUSED, "answers 200"),
    "418": ("/x.csv", Site(faults=[Fault(status=418)]), ExitCode.DOWNLOAD_REFUSED, "418"),
    "500 for ever": ("/x.csv", Site(faults=[Fault(status=500)] * 9), ExitCode.DOWNLOAD_FAILED, "500"),
    "429 for ever": ("/x.csv", Site(faults=[Fault(status=429)] * 9), ExitCode.DOWNLOAD_FAILED, "429"),
    "reset for ever": ("/x.csv", Site(faults=[Fault(before=True)] * 9), ExitCode.DOWNLOAD_FAILED, "4 times"),
    "cut at once for ever": (
        "/x.csv",
        Site(files={"/x.csv": b"abc"}, faults=[Fault(cut=0)] * 9),
        ExitCode.DOWNLOAD_FAILED,
        "4 times",
    ),
    "empty": ("/x.csv", Site(files={"/x.csv": b""}), ExitCode.DATA_INVALID, "empty"),
    "redirect loop": ("/x.csv", Site(redirects={"/x.csv": "/x.csv"}), ExitCode.DOWNLOAD_REFUSED, "too often"),
    "redirect to metadata": (
        "/x.csv",
        Site(redirects={"/x.csv": "http://169.254.169.254/latest"}),
        ExitCode.DOWNLOAD_REFUSED,
        "metadata",
    ),
    "redirect to a file": (
        "/x.csv",
        Site(redirects={"/x.csv": "file:///etc/passwd"}),
        ExitCode.DOWNLOAD_REFUSED,
        "https",
    ),
    "compressed unasked": (
        "/x.csv",
        Site(files={"/x.csv": b"abc"}, headers={"/x.csv": {"content-encoding": "gzip"}}),
        ExitCode.DOWNLOAD_REFUSED,
        "compressed",
    ),
    "wrong digest": (
        f"/x.csv#sha256={'0' * 64}",
        Site(files={"/x.csv": b"abc"}),
        ExitCode.DATA_INVALID,
        "has sha256 ba7816bf",
    ),
    "no gzip": ("/x.csv.gz", Site(files={"/x.csv.gz": b"abc"}), ExitCode.DATA_INVALID, "gzip"),
    "half a gzip": ("/x.csv.gz", Site(files={"/x.csv.gz": BOMB[:2000]}), ExitCode.DATA_INVALID, "gzip"),
    "gzip bomb": ("/x.csv.gz", Site(files={"/x.csv.gz": BOMB}), ExitCode.DOWNLOAD_REFUSED, "unpacks to more"),
    "too large": ("/x.csv", Site(files={"/x.csv": bytes(20_000_001)}), ExitCode.DOWNLOAD_REFUSED, "larger than"),
}


@pytest.mark.badinput
@pytest.mark.parametrize("name", FAILURES)
def test_what_cannot_be_downloaded_says_why_and_leaves_no_file(
    name: str, tmp_path: Path, count_cases: Callable[[str, int], None]
) -> None:
    path, site, code, words = FAILURES[name]
    with serve(site), pytest.raises(StepFailed, match=words) as failure:
        bring(f"{site.url}{path}", tmp_path, max_bytes=20_000_000)
    count_cases("bad input of a tuning, as the status tells it", 1)
    assert failure.value.code == code
    check_told("download", failure.value)
    assert "\n" not in str(failure.value)
    assert visible(tmp_path) == []


BAD_LISTS = {
    "": "tuning.input.urls",
    "rows.csv": "https://",
    "ftp://h.example/x.csv": "https://",
    "https:///x.csv": "https://|host",
    "https://h.example/": "file name",
    "https://h.example": "file name",
    "https://h.example/dir/": "file name",
    "https://h.example/..": "file name",
    "https://h.example/.hidden": "file name",
    "https://h.example/a%2Fb%5Cc.csv%00": "file name",
    f"https://h.example/{'a' * 300}.csv": "bytes long",
    "https://h.example/x.csv#sha256=12": "64 hexadecimal",
    "https://h.example/x.csv#md5=12": "64 hexadecimal",
    "https://h.example\\@evil/x.csv": "backslash",
    "https://h.example:99999/x.csv": "cannot be read|port",
    "https://[::1/x.csv": "cannot be read",
    " ".join(["https://h.example/x.csv"] * 1001): "1000 at most",
}


@pytest.mark.badinput
@pytest.mark.parametrize("text", BAD_LISTS, ids=lambda text: text[:40])
def test_a_bad_list_of_urls_is_refused_before_anything_is_fetched(
    text: str, count_cases: Callable[[str, int], None]
) -> None:
    count_cases("bad input of a tuning, as the status tells it", 1)
    with pytest.raises(AddressRefused, match=BAD_LISTS[text]) as refused:
        parse_sources(text)
    check_told("download", StepFailed(ExitCode.DOWNLOAD_REFUSED, str(refused.value)))


def test_the_time_limit_ends_a_slow_server(site: Site, tmp_path: Path) -> None:
    site.faults = [Fault(status=503)] * 9
    with pytest.raises(StepFailed, match="not done within") as failure:
        bring(f"{site.url}/rows.jsonl", tmp_path, seconds=0)
    assert failure.value.code == ExitCode.DOWNLOAD_FAILED


def test_the_first_cause_is_told_though_other_files_end_too(site: Site, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="404"):
        bring(" ".join([f"{site.url}/rows.jsonl"] * 6 + [f"{site.url}/missing.csv"]), tmp_path)


@pytest.mark.security
def test_no_secret_reaches_the_logs_or_the_last_words(tmp_path: Path) -> None:
    """A signature in the query of a URL, in a redirect, and a password, through failures of each kind."""
    canary = "CANARY7f3a"
    for faults in ([Fault(status=403)], [Fault(status=500)] * 9, [Fault(before=True)] * 9, []):
        with serve(Site(redirects={"/x.csv": f"/y.csv?sig={canary}"}, faults=list(faults))) as site:
            for url in (f"{site.url}/x.csv?sig={canary}", f"http://u:{canary}@127.0.0.1:{site.port}/x.csv"):
                ended = run_step(tmp_path, url, limit=["--time_limit=1"])
                assert ended.returncode != 0
                assert canary not in ended.stderr + ended.stdout + (tmp_path / "last").read_text()


def test_the_step_says_its_last_words(site: Site, tmp_path: Path) -> None:
    ended = run_step(tmp_path, f"{site.url}/rows.jsonl")
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "last").read_text())["bytes"] == len(ROWS)
    ended = run_step(tmp_path, f"{site.url}/none.jsonl")
    assert ended.returncode == ExitCode.DOWNLOAD_REFUSED
    assert (tmp_path / "last").read_text().startswith("DownloadRefused: ")
    ended = run_step(tmp_path, f"{site.url}/rows.jsonl", limit=["--allow=nonsense"])
    assert ended.returncode == ExitCode.CONFIG_INVALID


@pytest.mark.faults
def test_a_killed_download_leaves_no_file_and_is_gone_on_with(
    site: Site, tmp_path: Path, count_cases: Callable[[str, int], None]
) -> None:
    site.files["/rows.jsonl"] = ROWS * 10
    site.faults = [Fault(cut=300_000), *[Fault(status=503, headers={"retry-after": "60"})] * 3]
    process = subprocess.Popen(command(tmp_path), env=environment(tmp_path, f"{site.url}/rows.jsonl"))
    try:
        eventually(lambda: len(site.seen) > 1, within=20, what="the download broke off once")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert visible(tmp_path / "to") == []
    site.faults = []
    bring(f"{site.url}/rows.jsonl", tmp_path / "to")
    assert (tmp_path / "to/rows.jsonl").read_bytes() == ROWS * 10
    assert site.seen[-1][2]["range"] == "bytes=300000-"
    count_cases("kills of a tuning", 1)


@pytest.mark.faults
def test_a_full_disk_is_said_in_words(site: Site, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full, which is a full disk")
    (tmp_path / "to" / BOOKS).mkdir(parents=True)
    [source] = parse_sources(f"{site.url}/rows.jsonl")
    part_path(tmp_path / "to", source).symlink_to("/dev/full")
    ended = run_step(tmp_path, f"{site.url}/rows.jsonl")
    assert ended.returncode == ExitCode.DISK_FULL
    assert "make the volume larger" in (tmp_path / "last").read_text()


def command(directory: Path, *more: str) -> list[str]:
    to = f"--to={directory / 'to'}"
    return [sys.executable, "-m", "tuning_runner.download", to, "--allow=127.0.0.0/8", *more]


def environment(directory: Path, urls: str) -> dict[str, str]:
    return {**os.environ, "DATA_URLS": urls, "TERMINATION_LOG": str(directory / "last")}


def run_step(directory: Path, urls: str, *, limit: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(directory, *(limit or [])),
        env=environment(directory, urls),
        capture_output=True,
        text=True,
        check=False,
    )

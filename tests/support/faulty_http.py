"""An HTTP server of the tests' own: serves bytes with ranges, or passes requests on, and does what it is told wrong."""

import contextlib
import http.client
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What happens instead of the next answer that it fits: a status, or a break after ``cut`` bytes of the body."""

    status: int = 0
    cut: int = -1
    method: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    before: bool = False
    """Whether to break the connection before the request is read."""
    body: bytes = b""

    def fits(self, method: str, path: str) -> bool:
        return (not self.method or self.method == method) and re.search(self.path, path) is not None


@dataclass
class Site:
    """Files by path, faults still to come, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    ranges: bool = True
    upstream: str = ""
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.fits(method, path):
                    self.faults.remove(fault)
                    return fault
        return None

    def asked(self, method: str, pattern: str = "") -> list[tuple[str, str, dict[str, str]]]:
        return [entry for entry in self.seen if entry[0] == method and re.search(pattern, entry[1])]


@contextlib.contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serves a site on a port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": site}))
    server.daemon_threads = True
    server.block_on_close = False
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers as its site says."""

    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _any(self) -> None:
        self.close_connection = True
        self.site.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        fault = self.site.take_fault(self.command, self.path)
        if fault and fault.before:
            self.rfile.read(min(int(self.headers.get("content-length", 0)), 1000))
            return
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if fault and fault.status:
            self._answer(fault.status, fault.headers, fault.body, cut=-1)
            return
        status, headers, content = self._passed_on(body) if self.site.upstream else self._file()
        self._answer(status, headers, content, cut=fault.cut if fault else -1)

    def _file(self) -> tuple[int, dict[str, str], bytes]:
        path = self.path.partition("?")[0]
        if path in self.site.redirects:
            return 302, {"location": self.site.redirects[path]}, b""
        if path not in self.site.files:
            return 404, {}, b""
        content, headers = self.site.files[path], {"etag": '"1"', **self.site.headers.get(path, {})}
        match = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if match and self.site.ranges and self.headers.get("if-range", headers["etag"]) == headers["etag"]:
            start, end = int(match.group(1)), int(match.group(2) or len(content) - 1)
            if start >= len(content):
                return 416, {}, b""
            part = content[start : end + 1]
            span = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
            return 206, {**headers, "content-range": span}, part
        return 200, headers, content

    def _passed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.site.upstream)
        connection.request(self.command, self.path, body=body or None, headers=dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        own = ("content-length", "transfer-encoding", "connection")
        return answer.status, {k: v for k, v in answer.getheaders() if k.lower() not in own}, content

    def _answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: int) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("connection", "close")
            for name, value in headers.items():
                self.send_header(name, value)
            if self.command != "HEAD" or content or "content-length" not in headers:
                self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content if cut < 0 else content[:cut])

    # The names that http.server looks for.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

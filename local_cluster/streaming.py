"""Where kubelets bring people who want to exec or to forward ports: HTTP that becomes SPDY.

The kubelet asks the runtime for an address (CRI: Exec, PortForward) and passes the bytes through. An address holds a
word that nobody can guess, works once, and is on loopback of the cluster's namespace.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from local_cluster.spdy import Connection

LONGEST_WAIT = 30.0
"""Seconds for the kubelet to come to an address that it asked for, and for a client to leave when all is said."""

Session = Callable[[Connection], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Expected:
    protocol: str
    session: Session


class StreamingServer:
    """Serves sessions at addresses of their own."""

    def __init__(self) -> None:
        self._expected: dict[str, _Expected] = {}
        self._server: asyncio.Server | None = None
        self._address = ""
        self._conversations: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def open(self) -> None:
        """Listens from now on."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self._address = f"http://{host}:{port}"

    async def close(self) -> None:
        """Listens no more, and ends the sessions."""
        if self._server:
            self._server.close()
        for writer in self._conversations.values():
            writer.transport.abort()
        if self._conversations:
            await asyncio.wait(self._conversations)

    def address_for(self, session: Session, *, protocol: str) -> str:
        """An address that serves ``session`` to the first who comes in time and speaks ``protocol``."""
        word = secrets.token_urlsafe(16)
        self._expected[word] = _Expected(protocol, session)
        asyncio.get_running_loop().call_later(LONGEST_WAIT, self._expected.pop, word, None)
        return f"{self._address}/{word}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(self._serve(reader, writer))
        self._conversations[conversation] = writer
        conversation.add_done_callback(self._conversations.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            word, headers = await _request(reader)
            expected = self._expected.pop(word, None)
            refusal = _refusal(expected, headers)
            if expected is None or refusal:
                writer.write(f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                return
            writer.write(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
                f"X-Stream-Protocol-Version: {expected.protocol}\r\n\r\n".encode()
            )
            await _converse(expected.session, reader, writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return  # the other side has gone, or speaks no HTTP; there is nobody to tell
        finally:
            writer.close()


async def _converse(session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = Connection(reader, writer)
    receiving = asyncio.create_task(connection.run())
    try:
        await session(connection)
        connection.go_away()
        writer.write_eof()
        # Closing with bytes unread would reset the connection, and the client would lose what it has not read yet.
        await asyncio.wait({receiving}, timeout=LONGEST_WAIT)
    finally:
        receiving.cancel()


async def _request(reader: asyncio.StreamReader) -> tuple[str, Mapping[str, list[str]]]:
    """The last part of the path, and the headers: lower-case name → its values."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, _, values = line.partition(":")
        headers.setdefault(name.lower(), []).extend(value.strip() for value in values.split(","))
    path = first.split(" ")[1].partition("?")[0]
    return path.rpartition("/")[2], headers


def _refusal(expected: _Expected | None, headers: Mapping[str, list[str]]) -> str:
    """The status line that says why not; nothing if all is well."""
    if expected is None:
        return "404 Not Found"
    if "spdy/3.1" not in [value.lower() for value in headers.get("upgrade", [])]:
        return "400 Bad Request"
    return "" if expected.protocol in headers.get("x-stream-protocol-version", []) else "403 Forbidden"

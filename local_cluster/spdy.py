"""SPDY/3.1 as the server of a connection, as far as Kubernetes uses it for exec and port forwarding.

The client opens the streams, and there is no flow control but TCP's. Specification: SPDY Protocol, Draft 3.1, 2013;
what is left out of it here is left out by moby/spdystream too, which is what kubelets and kubectl speak.
"""

import asyncio
import struct
import zlib
from collections.abc import Mapping
from typing import Final

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _with_length(text: str) -> bytes:
    return struct.pack(">I", len(text)) + text.encode()


DICTIONARY: Final = b"".join(_with_length(word.replace("_", " ")) for word in _WORDS.split()) + _REST.encode()
"""What both sides know before the first header (section 2.6.10.1)."""

SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 0x01
CONTROL = 0x8003_0000
LONGEST_WRITE = 32 * 1024
WAITING = 64
"""Frames a stream keeps until they are read; then the connection waits for it."""


class Stream:
    """A stream that the client opened; names in ``headers`` are lower-case."""

    def __init__(self, connection: "Connection", *, number: int, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._connection = connection
        self._number = number
        self._received: asyncio.Queue[bytes] = asyncio.Queue(WAITING)
        self._ended = False

    async def read(self) -> bytes:
        """What comes next; nothing once it has ended."""
        if self._ended:
            return b""
        data = await self._received.get()
        self._ended = data == b""
        return data

    async def write(self, data: bytes) -> None:
        """Sends; raises ConnectionError if nobody is there any more."""
        for start in range(0, len(data), LONGEST_WRITE):
            await self._connection.send_data(self._number, data[start : start + LONGEST_WRITE])

    async def close(self) -> None:
        """Says that nothing more will be sent."""
        await self._connection.send_data(self._number, b"", flags=FIN)

    async def receive(self, data: bytes) -> None:
        """Data from the client; nothing is the end."""
        await self._received.put(data)

    def abandon(self) -> None:
        """Nothing more comes, whether or not there is room to say so."""
        if self._received.full():
            self._received.get_nowait()
        self._received.put_nowait(b"")


class Connection:
    """One connection. ``run`` receives; ``accept`` gives the streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = asyncio.Event()
        """Set when the client has left."""
        self._reader = reader
        self._writer = writer
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._streams: dict[int, Stream] = {}
        self._opened: asyncio.Queue[Stream | None] = asyncio.Queue()

    async def accept(self) -> Stream | None:
        """The next stream that the client opens; None when the connection has ended."""
        return await self._opened.get()

    async def run(self) -> None:
        """Receives frames until the client ends the connection; then everything has ended."""
        try:
            while True:
                first, second = struct.unpack(">II", await self._reader.readexactly(8))
                payload = await self._reader.readexactly(second & 0xFF_FFFF)
                flags = second >> 24
                if first & 0x8000_0000:
                    await self._control(first & 0xFFFF, payload, flags=flags)
                elif stream := self._streams.get(first):
                    await self._data(stream, payload, flags=flags)
        except (asyncio.IncompleteReadError, ConnectionError):
            for stream in self._streams.values():
                stream.abandon()
            self._opened.put_nowait(None)
            self.ended.set()

    async def send_data(self, number: int, data: bytes, *, flags: int = 0) -> None:
        """A data frame."""
        self._writer.write(struct.pack(">II", number, flags << 24 | len(data)) + data)
        await self._writer.drain()

    def go_away(self) -> None:
        """Says that this was all."""
        self._send(GOAWAY, struct.pack(">II", max(self._streams, default=0), 0))

    async def _data(self, stream: Stream, data: bytes, *, flags: int) -> None:
        if data:
            await stream.receive(data)
        if flags & FIN:
            await stream.receive(b"")

    async def _control(self, kind: int, payload: bytes, *, flags: int) -> None:
        number = struct.unpack(">I", payload[:4])[0]
        if kind == SYN_STREAM:
            stream = Stream(self, number=number, headers=self._headers(payload[10:]))
            self._streams[number] = stream
            self._send(SYN_REPLY, payload[:4] + self._no_headers())
            if flags & FIN:
                await stream.receive(b"")
            self._opened.put_nowait(stream)
        elif kind == RST_STREAM and number in self._streams:
            await self._streams[number].receive(b"")
        elif kind == PING:
            self._send(PING, payload)

    def _headers(self, block: bytes) -> dict[str, str]:
        """Count, then name and value each with its length (section 2.6.10)."""
        text = self._inflate.decompress(block)
        words, place = [], 4
        while place < len(text):
            end = place + 4 + struct.unpack_from(">I", text, place)[0]
            words.append(text[place + 4 : end].decode())
            place = end
        return dict(zip(words[::2], words[1::2], strict=True))

    def _no_headers(self) -> bytes:
        return self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def _send(self, kind: int, payload: bytes) -> None:
        self._writer.write(struct.pack(">II", CONTROL | kind, len(payload)) + payload)

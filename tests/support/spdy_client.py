"""A client of SPDY/3.1 as small as a test needs: it opens streams, sends, and keeps what comes back."""

import asyncio
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from local_cluster.spdy import DICTIONARY

FIN = 1


class SpdyClient:
    """One connection. ``received`` holds the data of each stream, ``ended`` the streams that are at their end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.ended: set[int] = set()
        self._reader = reader
        self._writer = writer
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._next = 1

    def open(self, **headers: str) -> int:
        """A new stream's number."""
        number, self._next = self._next, self._next + 2
        words = [word.encode() for pair in headers.items() for word in pair]
        block = struct.pack(">I", len(headers)) + b"".join(struct.pack(">I", len(word)) + word for word in words)
        packed = self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        payload = struct.pack(">IIxx", number, 0) + packed
        self._writer.write(struct.pack(">II", 0x8003_0001, len(payload)) + payload)
        return number

    def send(self, number: int, data: bytes, *, last: bool = False) -> None:
        self._writer.write(struct.pack(">II", number, (FIN if last else 0) << 24 | len(data)) + data)

    async def until_ended(self, *numbers: int) -> None:
        """Receives until these streams, or the connection, are at their end."""
        await self._until(lambda: self.ended >= set(numbers))

    async def until_line(self, number: int) -> None:
        """Receives until this stream has brought a whole line."""
        await self._until(lambda: self.received[number].endswith(b"\n"))

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not reached():
                first, second = struct.unpack(">II", await self._reader.readexactly(8))
                data = await self._reader.readexactly(second & 0xFF_FFFF)
                if first & 0x8000_0000 == 0:
                    self.received[first] += data
                    if second >> 24 & FIN:
                        self.ended.add(first)

    def close(self) -> None:
        self._writer.close()


async def request(
    address: str, *, protocol: str, headers: Mapping[str, str] | None = None
) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
    """The status line of the answer to an upgrade, and the connection."""
    url = urlsplit(address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    sent = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": protocol, **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    writer.write(f"POST {url.path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    return answer.split("\r\n")[0].removeprefix("HTTP/1.1 "), reader, writer


async def connect(address: str, *, protocol: str) -> SpdyClient:
    """A connection that was upgraded."""
    status, reader, writer = await request(address, protocol=protocol)
    if not status.startswith("101"):
        raise ConnectionError(status)
    return SpdyClient(reader, writer)

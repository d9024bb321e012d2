"""The way into the namespace: 127.0.0.1 ports outside, a unix socket between, any address inside.

Nothing in the namespace can be reached by address from outside, but a unix socket in the file system can. Who connects
to it says in one line where to (``ADDRESS PORT``); from then on bytes go both ways.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Coroutine
from pathlib import Path

from local_cluster.errors import LocalClusterError

CHUNK = 1 << 16
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def serve_inside(socket: Path) -> asyncio.Server:
    """The inner end: dials what each connection asks for."""
    return await asyncio.start_unix_server(_held(_dial), socket)


async def relay(socket: Path, *, address: str, port: int, local_port: int = 0) -> asyncio.Server:
    """The outer end: 127.0.0.1:``local_port`` (0: any free one) now leads to ``address``:``port`` inside."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner = await asyncio.open_unix_connection(socket)
        except (FileNotFoundError, ConnectionError):  # the namespace is not up yet, or gone
            writer.close()
            return
        inner[1].write(f"{address} {port}\n".encode())
        await _join((reader, writer), inner)

    try:
        return await asyncio.start_server(_held(connected), "127.0.0.1", local_port)
    except OSError as error:
        if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise
        raise LocalClusterError(
            f"127.0.0.1:{local_port} cannot be used: {os.strerror(error.errno)}; name another port"
        ) from error


def local_port(server: asyncio.Server) -> int:
    """The port a server got."""
    port: int = server.sockets[0].getsockname()[1]
    return port


def _held(
    converse: Callable[..., Coroutine[None, None, None]],
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
    """A connection's callback that holds its task.

    The loop refers to tasks weakly, and a client's connection to its reader, so that a conversation in which one side
    is silent could be collected as garbage (asyncio.create_task, Important).
    """
    conversations: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(converse(reader, writer))
        conversations.add(conversation)
        conversation.add_done_callback(conversations.discard)

    return begin


async def _dial(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        address, port = (await reader.readline()).decode().split()
        there = await asyncio.open_connection(address, int(port))
    except (OSError, ValueError):  # refused, unreachable, or no such line: the peer sees the end of the stream
        writer.close()
        return
    await _join((reader, writer), there)


async def _join(one: Stream, other: Stream) -> None:
    """Bytes both ways until both ends are done; one end may finish speaking and go on listening."""
    try:
        await asyncio.gather(_pour(one[0], other[1]), _pour(other[0], one[1]))
    finally:
        for _, writer in (one, other):
            writer.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

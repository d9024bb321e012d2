"""Bytes go both ways between a port outside and any address inside."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from local_cluster.errors import LocalClusterError
from local_cluster.relay import local_port, relay, serve_inside


@pytest.fixture
async def way_in(tmp_path: Path) -> AsyncIterator[Path]:
    """The socket of a relay's inner end."""
    server = await serve_inside(tmp_path / "in.sock")
    async with server:
        yield tmp_path / "in.sock"


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads to the end, then answers in capitals: only works if one side may finish and go on listening."""
    writer.write((await reader.read()).upper())
    await writer.drain()
    writer.close()


async def answer(port: int, said: bytes) -> bytes:
    """What comes back for something said to a port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    writer.write_eof()
    heard = await reader.read()
    writer.close()
    return heard


async def test_what_is_said_outside_is_heard_inside_and_answered(way_in: Path) -> None:
    inside = await asyncio.start_server(shout, "127.0.0.1", 0)
    outside = await relay(way_in, address="127.0.0.1", port=local_port(inside))
    big = b"hello " * 100_000
    async with inside, outside:
        answers = await asyncio.gather(*(answer(local_port(outside), said) for said in (b"one", b"two", big)))
    assert answers == [b"ONE", b"TWO", big.upper()]


async def test_an_address_that_refuses_ends_the_connection(way_in: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refused
        async with await relay(way_in, address="127.0.0.1", port=unused.getsockname()[1]) as outside:
            assert await answer(local_port(outside), b"") == b""


async def test_a_namespace_that_is_gone_ends_the_connection(tmp_path: Path) -> None:
    async with await relay(tmp_path / "gone.sock", address="127.0.0.1", port=1) as outside:
        assert await answer(local_port(outside), b"") == b""


async def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    async with await asyncio.start_server(shout, "127.0.0.1", 0) as taken:
        port = local_port(taken)
        with pytest.raises(LocalClusterError, match=rf"^127\.0\.0\.1:{port} cannot be used: .*name another port$"):
            await relay(tmp_path / "in.sock", address="127.0.0.1", port=1, local_port=port)

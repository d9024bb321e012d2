"""kubectl exec and port-forward, from the kubelet's side of the connection."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from local_cluster.spdy import DICTIONARY
from local_cluster.stream_sessions import EXEC_PROTOCOL, PORT_FORWARD_PROTOCOL, Command, PortForward
from local_cluster.streaming import StreamingServer
from tests.support.cri_client import eventually
from tests.support.spdy_client import SpdyClient, connect, request


@pytest_asyncio.fixture
async def server() -> AsyncIterator[StreamingServer]:
    serving = StreamingServer()
    await serving.open()
    yield serving
    await serving.close()


def shell(script: str, *, stdin: bool = False, tty: bool = False) -> Command:
    return Command(("/bin/sh", "-c", script), stdin=stdin, stdout=True, stderr=not tty, tty=tty)


async def execute(server: StreamingServer, command: Command, *kinds: str) -> tuple[SpdyClient, dict[str, int]]:
    """A client with its streams by type."""
    client = await connect(server.address_for(command.serve, protocol=EXEC_PROTOCOL), protocol=EXEC_PROTOCOL)
    return client, {kind: client.open(streamtype=kind) for kind in kinds}


def status(client: SpdyClient, streams: dict[str, int]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(client.received[streams["error"]])
    return read


def test_the_dictionary_is_that_of_the_specification() -> None:
    assert len(DICTIONARY) == 1423
    # Of header_dictionary in moby/spdystream, which clients have.
    assert hashlib.sha256(DICTIONARY).hexdigest() == "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02"


async def test_a_commands_output_errors_and_success_come_back(server: StreamingServer) -> None:
    client, streams = await execute(server, shell("echo out; echo err >&2"), "error", "stdout", "stderr")
    await client.until_ended(*streams.values())
    assert client.received[streams["stdout"]] == b"out\n"
    assert client.received[streams["stderr"]] == b"err\n"
    assert status(client, streams) == {"metadata": {}, "status": "Success"}
    client.close()


async def test_an_exit_code_comes_back_as_kubectl_reads_it(server: StreamingServer) -> None:
    client, streams = await execute(server, shell("exit 7"), "error", "stdout", "stderr")
    await client.until_ended(*streams.values())
    assert status(client, streams) == {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": "command terminated with non-zero exit code: exit status 7",
        "details": {"causes": [{"reason": "ExitCode", "message": "7"}]},
    }
    client.close()


async def test_input_arrives_whole_and_its_end_too(server: StreamingServer) -> None:
    client, streams = await execute(server, shell("cat", stdin=True), "error", "stdin", "stdout", "stderr")
    data = os.urandom(3_000_000)
    for start in range(0, len(data), 50_000):
        client.send(streams["stdin"], data[start : start + 50_000])
    client.send(streams["stdin"], b"", last=True)
    await client.until_ended(streams["stdout"])
    assert client.received[streams["stdout"]] == data
    client.close()


async def test_a_command_that_does_not_read_its_input_ends_all_the_same(server: StreamingServer) -> None:
    client, streams = await execute(server, shell("exit 0", stdin=True), "error", "stdin", "stdout", "stderr")
    client.send(streams["stdin"], b"x" * 1000)
    await client.until_ended(streams["error"])
    assert status(client, streams)["status"] == "Success"
    client.close()


async def test_a_terminal_is_a_terminal_of_the_clients_size(server: StreamingServer) -> None:
    command = shell("read line; test -t 0 && test -t 1 && stty size", stdin=True, tty=True)
    client, streams = await execute(server, command, "error", "stdin", "stdout", "resize")
    client.send(streams["resize"], b'{"Width":100,"Height":40}\n')
    client.send(streams["stdin"], b"go\n")
    await client.until_ended(streams["error"], streams["stdout"])
    assert client.received[streams["stdout"]].decode().splitlines() == ["go", "40 100"]
    client.close()


async def test_a_command_ends_when_its_client_leaves(server: StreamingServer) -> None:
    client, streams = await execute(server, shell("echo $$; sleep 1000"), "error", "stdout", "stderr")
    await client.until_line(streams["stdout"])
    pid = int(client.received[streams["stdout"]])
    client.close()

    async def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    await eventually(gone)


async def test_an_address_works_once_and_only_for_who_speaks_its_protocol(server: StreamingServer) -> None:
    command = shell("true")
    address = server.address_for(command.serve, protocol=EXEC_PROTOCOL)
    answers = []
    for asked, protocol in ((address, EXEC_PROTOCOL), (address, EXEC_PROTOCOL)):
        status_line, _, writer = await request(asked, protocol=protocol)
        answers.append(status_line)
        writer.close()
    for protocol, headers in (("v1.channel.k8s.io", {}), (EXEC_PROTOCOL, {"Upgrade": "websocket"})):
        fresh = server.address_for(command.serve, protocol=EXEC_PROTOCOL)
        status_line, _, writer = await request(fresh, protocol=protocol, headers=headers)
        answers.append(status_line)
        writer.close()
    assert answers == ["101 Switching Protocols", "404 Not Found", "403 Forbidden", "400 Bad Request"]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    await writer.drain()
    writer.close()


async def test_ports_are_forwarded_many_at_once(server: StreamingServer) -> None:
    listening = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = str(listening.sockets[0].getsockname()[1])
    address = server.address_for(PortForward(None).serve, protocol=PORT_FORWARD_PROTOCOL)
    client = await connect(address, protocol=PORT_FORWARD_PROTOCOL)
    data = []
    for number in range(5):
        client.open(streamtype="error", port=port, requestid=str(number))
        data.append(client.open(streamtype="data", port=port, requestid=str(number)))
    for number, stream in enumerate(data):
        client.send(stream, f"hello {number}".encode(), last=True)
    await client.until_ended(*data)
    assert [bytes(client.received[stream]) for stream in data] == [f"hello {n}".encode() for n in range(5)]
    client.close()
    listening.close()


async def test_a_port_where_nobody_listens_says_so(server: StreamingServer) -> None:
    listening = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = str(listening.sockets[0].getsockname()[1])
    listening.close()
    await listening.wait_closed()
    address = server.address_for(PortForward(None).serve, protocol=PORT_FORWARD_PROTOCOL)
    client = await connect(address, protocol=PORT_FORWARD_PROTOCOL)
    error = client.open(streamtype="error", port=port, requestid="0")
    data = client.open(streamtype="data", port=port, requestid="0")
    await client.until_ended(error, data)
    assert client.received[error].decode() == f"cannot connect to port {port} of the pod: Connection refused"
    client.close()

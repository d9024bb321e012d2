"""What goes on in a streaming connection: a command with its input and output, or connections to a pod's ports."""

import asyncio
import fcntl
import json
import os
import socket
import struct
import subprocess
import termios
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from local_cluster import linux
from local_cluster.child import Child
from local_cluster.spdy import Connection, Stream

EXEC_PROTOCOL = "v4.channel.k8s.io"
PORT_FORWARD_PROTOCOL = "portforward.k8s.io"
AT_ONCE = 32 * 1024


@dataclass(frozen=True, slots=True)
class Command:
    """A command line that enters a container, and what its client wants of it (CRI: ExecRequest)."""

    argv: Sequence[str]
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    async def serve(self, connection: Connection) -> None:
        """Runs the command to its end, or to the client's: who leaves ends the command too."""
        wanted = {
            "error": True,
            "stdin": self.stdin,
            "stdout": self.stdout,
            "stderr": self.stderr and not self.tty,
            "resize": self.tty,
        }
        streams = await _opened(connection, {kind for kind, yes in wanted.items() if yes})
        if streams is None:
            return
        with ExitStack() as held:
            child, outputs, inputs = await (self._on_terminal if self.tty else self._on_pipes)(streams, held)
            feeding = [asyncio.create_task(one) for one in inputs]
            draining = asyncio.create_task(_together(*outputs, child.ended.wait()))
            leaving = asyncio.create_task(connection.ended.wait())
            await asyncio.wait((draining, leaving), return_when=asyncio.FIRST_COMPLETED)
            child.kill()
            for task in (*feeding, draining, leaving):
                task.cancel()
        if not connection.ended.is_set():
            await streams["error"].write(json.dumps(exit_status(child.code)).encode())
            for stream in streams.values():
                await stream.close()

    async def _on_pipes(self, streams: Mapping[str, Stream], held: ExitStack) -> "_Started":
        with ExitStack() as of_child:
            out, child_out = await _readable_pipe(of_child)
            err, child_err = await _readable_pipe(of_child)
            child_in, inputs = subprocess.DEVNULL, []
            if self.stdin:
                child_in, source = await _writable_pipe(of_child, held)
                inputs = [_feed(streams["stdin"], source)]
            child = Child(self.argv, stdin=child_in, stdout=child_out, stderr=child_err)
        return child, [_drain(out, streams.get("stdout")), _drain(err, streams.get("stderr"))], inputs

    async def _on_terminal(self, streams: Mapping[str, Stream], held: ExitStack) -> "_Started":
        ours, theirs = os.openpty()
        held.callback(os.close, ours)
        child = Child(self.argv, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        screen, inputs = await _reader(os.dup(ours)), [_resize(streams["resize"], ours)]
        if self.stdin:
            inputs.append(_feed(streams["stdin"], await _writer(os.dup(ours), held)))
        return child, [_drain(screen, streams.get("stdout"))], inputs


_Started = tuple[Child, list[Coroutine[Any, Any, None]], list[Coroutine[Any, Any, None]]]


@dataclass(frozen=True, slots=True)
class PortForward:
    """Connections to the ports of a pod, ``network`` being the descriptor of its namespace; None is the node's own."""

    network: int | None

    async def serve(self, connection: Connection) -> None:
        """Forwards until the client leaves. Two streams with one request id are one connection."""
        halves: dict[str, dict[str, Stream]] = {}
        forwards: set[asyncio.Task[None]] = set()
        while stream := await connection.accept():
            pair = halves.setdefault(stream.headers.get("requestid", ""), {})
            pair[stream.headers.get("streamtype", "")] = stream
            if pair.keys() >= {"data", "error"}:
                del halves[stream.headers.get("requestid", "")]
                forwards.add(asyncio.create_task(self._forward(pair["data"], pair["error"])))
        for forward in forwards:
            forward.cancel()
        await asyncio.gather(*forwards, return_exceptions=True)

    async def _forward(self, data: Stream, error: Stream) -> None:
        port = int(data.headers["port"])
        try:
            reader, writer = await self._connect(port)
        except OSError as reason:
            why = os.strerror(reason.errno or 0)
            await error.write(f"cannot connect to port {port} of the pod: {why}".encode())
        else:
            feeding = asyncio.create_task(_feed(data, writer))
            try:
                await _drain(reader, data)
            finally:
                feeding.cancel()
                writer.close()
        await data.close()
        await error.close()

    async def _connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.network is None:
            return await asyncio.open_connection("127.0.0.1", port)
        with linux.network_namespace(self.network):
            inside = socket.socket()
        inside.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(inside, ("127.0.0.1", port))
        except OSError:
            inside.close()
            raise
        return await asyncio.open_connection(sock=inside)


def exit_status(code: int) -> dict[str, Any]:
    """The metav1.Status by which a client learns how a command ended."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


async def _opened(connection: Connection, wanted: set[str]) -> dict[str, Stream] | None:
    """The wanted streams by type, once the client has opened all; None if it leaves before."""
    streams: dict[str, Stream] = {}
    while not streams.keys() >= wanted:
        stream = await connection.accept()
        if stream is None:
            return None
        streams[stream.headers.get("streamtype", "")] = stream
    return streams


async def _together(*parts: Awaitable[Any]) -> bool:
    await asyncio.gather(*parts)
    return True


async def _drain(reader: asyncio.StreamReader, stream: Stream | None) -> None:
    """Sends all that comes, or lets it go by if nobody wants it."""
    with suppress(OSError):  # EIO is how a terminal ends
        while data := await reader.read(AT_ONCE):
            if stream:
                await stream.write(data)


async def _feed(stream: Stream, writer: asyncio.StreamWriter) -> None:
    """Passes on what the client sends, and its end."""
    with suppress(OSError):  # it may stop reading before the client stops writing
        while data := await stream.read():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _resize(stream: Stream, terminal: int) -> None:
    """Gives the terminal the size of the client's, each time that changes."""
    while data := await stream.read():
        size = json.loads(data)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size["Height"], size["Width"], 0, 0))


async def _readable_pipe(of_child: ExitStack) -> tuple[asyncio.StreamReader, int]:
    """Our end of a pipe that a child writes to, and the child's, which ``of_child`` closes."""
    reading, writing = os.pipe()
    of_child.callback(os.close, writing)
    return await _reader(reading), writing


async def _writable_pipe(of_child: ExitStack, held: ExitStack) -> tuple[int, asyncio.StreamWriter]:
    """A child's end of a pipe that it reads from, which ``of_child`` closes, and ours."""
    reading, writing = os.pipe()
    of_child.callback(os.close, reading)
    return reading, await _writer(writing, held)


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


async def _writer(descriptor: int, held: ExitStack) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(descriptor, "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    held.callback(transport.close)
    return asyncio.StreamWriter(transport, protocol, None, loop)

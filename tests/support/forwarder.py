"""A way to a server that can be cut: what happens then is what happens when a network fails."""

import socket
import threading
from contextlib import suppress


class Forwarder:
    """Forwards a port of its own on loopback to another, until it is cut: then connections hang and new ones too."""

    def __init__(self, to: int) -> None:
        self._to, self._whole = to, threading.Event()
        self._whole.set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nothing passes, in neither direction, and nobody is told."""
        self._whole.clear()

    def _accept(self) -> None:
        while True:
            near, _ = self._listening.accept()
            far = socket.create_connection(("127.0.0.1", self._to))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._whole.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

"""A TCP proxy on loopback that cuts connections after some bytes of the answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass
class Proxy:
    """cut_after: bytes from the server after which a connection is cut, for the next `cuts` connections."""

    address: str
    cut_after: int = 0
    cuts: int = 0
    connections: int = 0


@contextmanager
def running_proxy(port: int) -> Iterator[Proxy]:
    """Forwards to 127.0.0.1:port."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(f"http://127.0.0.1:{listener.getsockname()[1]}")

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                proxy.connections += 1
                server = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=pump, args=(client, server, None), daemon=True).start()
                threading.Thread(target=pump, args=(server, client, proxy), daemon=True).start()

    def pump(source: socket.socket, target: socket.socket, cutter: Proxy | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                target.sendall(data)
                if cutter and cutter.cuts > 0 and passed > cutter.cut_after:
                    cutter.cuts -= 1
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield proxy
    finally:
        listener.close()

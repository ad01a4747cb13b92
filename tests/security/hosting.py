"""Clients that write bytes of their own, and the memory that they cost."""

import contextlib
import socket
import threading
from http.client import HTTPResponse
from pathlib import Path
from typing import Self

import httpx


class Line:
    """One TCP connection to a server, for bytes that no HTTP library would send."""

    def __init__(self, client: httpx.Client) -> None:
        self.socket = socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> bytes:
        """All that comes until the server closes the connection; TimeoutError where it never does."""
        data = bytearray()
        with contextlib.suppress(ConnectionError):
            while chunk := self.socket.recv(65536):
                data += chunk
        return bytes(data)

    def answer(self) -> tuple[int, bytes]:
        """Status and body of one answer."""
        response = HTTPResponse(self.socket)
        response.begin()
        return response.status, response.read()


class MemoryWatch:
    """Watches the memory of this process in a thread: `grown` is the largest growth in bytes."""

    def __enter__(self) -> Self:
        self.grown = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(resident_bytes(),))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self, before: int) -> None:
        while not self._stop.wait(0.005):
            self.grown = max(self.grown, resident_bytes() - before)


def resident_bytes() -> int:
    """Memory of this process that is its own."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

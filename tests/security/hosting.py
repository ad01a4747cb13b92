"""The app as `ram-backend serve` hosts it, and clients that write bytes of their own."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
from fastapi import FastAPI
from support.server import serving

from ram_backend.server.running import server_config
from ram_backend.settings import Settings


def hosting(app: FastAPI, settings: Settings) -> AbstractContextManager[httpx.Client]:
    """The app behind the product's own configuration of uvicorn, which soon sees that a reader is slow."""
    return serving(app, config=server_config(app, settings), send_buffer=65_536)


class Line:
    """One TCP connection to a server, for bytes that no HTTP library would send."""

    def __init__(self, client: httpx.Client, *, timeout: float = 20, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect((client.base_url.host, client.base_url.port))

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> bytes:
        """All that comes until the server closes the connection; fails where it never does."""
        data = bytearray()
        try:
            while chunk := self.socket.recv(65536):
                data += chunk
        except ConnectionError:
            pass
        return bytes(data)

    def answer(self) -> tuple[int, bytes]:
        """Status and body of one answer with a Content-Length; (0, b"") where the connection was closed instead."""
        data = bytearray()
        try:
            while b"\r\n\r\n" not in data:
                chunk = self.socket.recv(65536)
                if not chunk:
                    return 0, b""
                data += chunk
            head, _, body = bytes(data).partition(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ),
                0,
            )
            while len(body) < length and (chunk := self.socket.recv(65536)):
                body += chunk
        except ConnectionError:
            return 0, b""
        return int(head.split(b" ", 2)[1]), body

    def is_closed_by_server(self, within: float) -> bool:
        """Whether the server ends the connection in that time."""
        end = time.monotonic() + within
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if not self.socket.recv(65536):
                    return True
            except TimeoutError:
                return False
            except ConnectionError:
                return True
        return False


class MemoryWatch:
    """Watches the memory of this process in a thread: `grown` is the largest growth in bytes."""

    def __enter__(self) -> MemoryWatch:
        self._before = self._peak = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, resident_bytes())

    @property
    def grown(self) -> int:
        return max(self._peak, resident_bytes()) - self._before


def resident_bytes() -> int:
    """Memory of this process that is its own."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

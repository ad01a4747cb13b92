"""uvicorn runner: socket, starter installation, graceful shutdown, reason phrases."""

from __future__ import annotations

import asyncio
import errno
import gc
import multiprocessing
import re
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ram_backend.errors import NotAvailable, SettingsError
from ram_backend.models.bundle import STARTER
from ram_backend.models.registry import find_bundle
from ram_backend.server.model import network_threads
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import unmap_freed_memory
from ram_backend.vocabulary.embeddings import open_text_encoder

PORTS_TRIED = 50
SWITCH_INTERVAL_S = 0.0005
"""Of the global interpreter lock; its default of 5 ms adds to the latency for each CPU-bound thread."""

COLLECTIONS = (10_000, 5, 160)
"""Thresholds of the garbage collector: its defaults slow parsing down, larger generations pause for .1 s."""

_HEAD = re.compile(rb"\AHTTP/1\.1 ([45]\d\d) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*?)x-reason: ([^\r\n]+)\r\n", re.IGNORECASE)
"""Status, headers before the reason, reason: nothing of the body."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket at the port, or at the next one that is free; port 0: any.

    Raises:
        SettingsError: the host is not an address of this machine, or no port
            near is free.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        message = f"--host {host} can't be looked up: use 127.0.0.1, 0.0.0.0 or a name of this machine."
        raise SettingsError(message) from None
    last = min(port + PORTS_TRIED, 65_535) if port else 0
    for candidate in range(port, last + 1):
        # asyncio turns off Nagle's delay (40 ms an answer) only where the protocol is named.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address[0], candidate, *address[2:]))
            listening.listen(2048)
            return listening
        except OSError as error:
            listening.close()
            if isinstance(error, PermissionError):
                raise SettingsError(f"Port {candidate} may not be used by this user: choose one above 1023.") from None
            if error.errno != errno.EADDRINUSE:
                message = f"--host {host}: can't listen there ({error.strerror}). Use 127.0.0.1 or 0.0.0.0."
                raise SettingsError(message) from None
    raise SettingsError(f"The ports {port} to {last} are all taken: choose another --port.")


def prepare(settings: Settings, say: Callable[[str], object]) -> None:
    """Installs the starter, if it is the bundle, in a process of its own.

    `say` is called with a sentence for people before that begins. Raises
    RamError as bundle and text encoder do.
    """
    installed = (settings.bundles_dir / STARTER).is_dir()
    if settings.bundle != STARTER or (installed and any(settings.cache_dir.glob("text-encoders/minilm-*/*.onnx"))):
        return
    say("First start: installing the starter bundle and its text encoder (about a minute, once)")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        process.submit(_prepare, settings).result()


def run(app: FastAPI, settings: Settings, listening: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was asked, at most `drain_seconds`.

    A second Ctrl-C ends it at once. NotAvailable: the app could not start.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*COLLECTIONS)
    unmap_freed_memory()
    threadpool_limits(limits=network_threads(settings), user_api="blas")  # numpy's take all cores
    server = uvicorn.Server(server_config(app, settings))
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    if not server.started:
        raise NotAvailable("The server could not start; the lines above tell why.")


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the app: it drains, and status lines carry reasons."""
    return uvicorn.Config(
        app,
        http=ReasonPhraseProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_seconds),
        timeout_keep_alive=30,
    )


class _Transport:
    """A transport that moves the header into the status line."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        self._transport.write(_HEAD.sub(rb"HTTP/1.1 \1 \3\r\n\2x-reason: \3\r\n", data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class ReasonPhraseProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """uvicorn's HTTP protocol, with reason phrases of the app's own."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Puts the reason-writing transport between the connection and the real one."""
        super().connection_made(_Transport(transport))


def _prepare(settings: Settings) -> None:
    bundle = find_bundle(settings.bundle, settings.bundles_dir)
    if bundle.text_encoder is not None:
        open_text_encoder(bundle.text_encoder, settings.model_copy(update={"text_cache_bytes": 0})).embed(["ready"])

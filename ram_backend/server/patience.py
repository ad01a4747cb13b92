"""What one connection may keep busy: clients that send slowly, read slowly, or stay without asking anything.

uvicorn waits for a request for as long as it takes, reads a head of any length and any number of requests ahead. Here
a head has a deadline and a length, few requests may follow at once, an answer must be read, and where too many
connections wait, the one that has waited longest goes: whoever comes later is served. The deadline of a request's body
is the gate's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from ram_backend.server.reasons import TellingProtocol

MAX_HEAD_BYTES = 65_536
"""Of a request's line and headers; what comes in one piece may be longer."""

MAX_PIPELINED = 32
"""Requests on one connection that wait for the answer to the one before; uvicorn takes any number of them in."""


@dataclass(frozen=True)
class Patience:
    """How long connections are waited for, and how many at a time.

    Attributes:
        seconds: for a request's head, from the connection or the head's first byte on; and for a client that reads
            nothing of its answer.
        connections: that may wait, or send a request, at a time.
        waiting: those that do, the one that has waited longest first.
    """

    seconds: float
    connections: int
    waiting: OrderedDict[PatientProtocol, None] = field(default_factory=OrderedDict, repr=False, compare=False)


class PatientProtocol(TellingProtocol):
    """uvicorn's HTTP protocol within the limits of a `Patience`, which all connections of a server share."""

    def __init__(self, *args: Any, patience: Patience, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience = patience
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begins to wait for a request."""
        super().connection_made(transport)
        self._await_head()
        self._join()

    def data_received(self, data: bytes) -> None:
        """Takes bytes of a request in; its head must not be too long, and not too many may follow at once."""
        before = self.cycle
        in_body = before is not None and before.more_body
        unheard = in_body and before.response_complete  # the rest of a body that was answered before it had come
        super().data_received(data)
        if len(getattr(self, "pipeline", ())) > MAX_PIPELINED:
            self.transport.abort()
            return
        if self.cycle is not before or (in_body and not unheard):
            self._stop_head_timer()
            self._head_bytes = 0
            if not self.cycle.more_body:
                self._patience.waiting.pop(self, None)
            return
        self._head_bytes += 0 if unheard else len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.abort()
        elif self._head_timer is None:
            self._await_head()

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete:
            self._join()

    def pause_writing(self) -> None:
        """The client doesn't read as fast as it is answered."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._patience.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def connection_lost(self, error: Exception | None) -> None:
        """The end."""
        self._patience.waiting.pop(self, None)
        self._stop_head_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(error)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._patience.seconds, self._too_late)

    def _too_late(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            self._await_head()  # the head of the next request came while this one is being answered

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _join(self) -> None:
        """Waits with the others; the one that has waited longest makes room."""
        waiting = self._patience.waiting
        waiting[self] = None
        waiting.move_to_end(self)
        while len(waiting) > self._patience.connections:
            longest, _ = waiting.popitem(last=False)
            longest.transport.abort()

"""What every request passes on its way in and out: request id, access, limits of the body, log line, metrics."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ram_backend.logs import request_id
from ram_backend.server.access import Access
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.problems import problem

_log = logging.getLogger(__name__)
_QUIET = frozenset({"/health", "/", "/ready", "/metrics"})

BODIES_AT_ONCE = 8
"""All requests together may hold as many bytes as so many bodies of the largest size."""

SMALL_BODY_BYTES = 1_000_000
"""A body up to this size is always taken."""


class BodyRefused(Exception):
    """A request's body can't be read to its end; raised inside the app, answered here.

    Args:
        status: of the answer.
        message: for people.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BodyTooLarge(BodyRefused):
    """More bytes came than the limit allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            413, f"The request is larger than {limit:,} bytes: send less at a time, or raise RAM_MAX_BODY_BYTES."
        )


class BodyTooSlow(BodyRefused):
    """The body did not come in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            408, f"The request's body did not come within {seconds:g} s: send it faster, or raise RAM_REQUEST_SECONDS."
        )


class BodiesTooMany(BodyRefused):
    """Other requests hold as much memory as requests may."""

    def __init__(self) -> None:
        super().__init__(503, "Too many large requests at a time: try again in a moment, or send less at a time.")


class Gate:
    """ASGI middleware around the whole app; plain, so that a disconnect reaches the routes.

    Args:
        app: what it guards.
        access: who may ask.
        max_body_bytes: of one request.
        body_seconds: that one may take to come.
        metrics: told of each request.
    """

    def __init__(
        self, app: ASGIApp, *, access: Access, max_body_bytes: int, body_seconds: float, metrics: ServerMetrics
    ) -> None:
        self._app = app
        self._access = access
        self._bodies = _Bodies(max_body_bytes, body_seconds)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or lets the app do it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = secrets.token_hex(6)
        scope.setdefault("state", {})["request_id"] = identity
        token = request_id.set(identity)
        exchange = _Exchange(receive, send, self._bodies, identity)
        started = time.perf_counter()
        try:
            await self._answer(scope, exchange, identity)
        finally:
            self._bodies.held -= exchange.taken
            seconds = time.perf_counter() - started
            path, method = str(scope["path"]), str(scope["method"])
            self._metrics.request(path, method, exchange.status, seconds)
            level = logging.DEBUG if path in _QUIET and exchange.status < 400 else logging.INFO
            fields = {"method": method, "route": path, "status": exchange.status, "ms": round(seconds * 1000, 1)}
            said = (method, path, exchange.status or "gone", seconds * 1000)
            _log.log(level, "%s %s %s %.1f ms", *said, extra={"fields": fields})
            request_id.reset(token)

    async def _answer(self, scope: Scope, exchange: _Exchange, identity: str) -> None:
        if not self._access.allows(scope["path"], scope["headers"], scope["query_string"]):
            answer = problem(
                401, "Basic auth, or the webhook secret, is missing or wrong.", identity, kind="Unauthorized"
            )
            answer.headers["WWW-Authenticate"] = 'Basic realm="ram-backend"'
            await answer(scope, exchange.receive, exchange.send)
            return
        try:
            if _announced(scope) > self._bodies.limit:
                raise BodyTooLarge(self._bodies.limit)
            await self._app(scope, exchange.receive, exchange.send)
        except BodyRefused as refused:
            answer = problem(refused.status, str(refused), identity, kind=type(refused).__name__)
            answer.headers["Connection"] = "close"
            await answer(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass  # the caller went away while sending
        except Exception:
            _log.exception("%s %s failed unexpectedly", scope["method"], scope["path"])
            if not exchange.status:
                message = f"Something went wrong that should not. The server's log tells more under {identity}."
                await problem(500, message, identity, kind="InternalError")(scope, exchange.receive, exchange.send)


@dataclass
class _Bodies:
    """The bodies of all requests that are being answered: what each may be, and the bytes that they hold."""

    limit: int
    seconds: float
    held: int = 0


class _Exchange:
    """Counts what comes in, and notes what goes out."""

    def __init__(self, receive: Receive, send: Send, bodies: _Bodies, identity: str) -> None:
        self._receive = receive
        self._send = send
        self._bodies = bodies
        self._identity = identity.encode()
        self._ends: float | None = asyncio.get_running_loop().time() + bodies.seconds  # None: all of the body is here
        self.taken = 0
        self.status = 0

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout_at(self._ends):
                message = await self._receive()
        except TimeoutError:
            raise BodyTooSlow(self._bodies.seconds) from None
        if message["type"] == "http.request":
            self._take(len(message.get("body", b"")))
            if not message.get("more_body", False):
                self._ends = None
        return message

    def _take(self, count: int) -> None:
        self.taken += count
        self._bodies.held += count
        if self.taken > self._bodies.limit:
            raise BodyTooLarge(self._bodies.limit)
        if self.taken > SMALL_BODY_BYTES and self._bodies.held > BODIES_AT_ONCE * self._bodies.limit:
            raise BodiesTooMany

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", self._identity)]}
        await self._send(message)


def _announced(scope: Scope) -> int:
    value = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0

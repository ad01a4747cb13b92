"""What every request passes on its way in and out: request id, access, limit of the body, log line, metrics."""

from __future__ import annotations

import logging
import secrets
import time
from contextvars import ContextVar

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ram_backend.server.access import Access
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.problems import problem

_log = logging.getLogger(__name__)
_QUIET = frozenset({"/health", "/", "/ready", "/metrics"})

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""Id of the request that is being answered; log lines carry it."""


class BodyTooLarge(Exception):
    """More bytes came than the limit allows; raised inside the app, answered here."""


class Gate:
    """ASGI middleware around the whole app; plain, so that a disconnect reaches the routes.

    Args:
        app: what it guards.
        access: who may ask.
        max_body_bytes: of one request.
        metrics: told of each request.
    """

    def __init__(self, app: ASGIApp, *, access: Access, max_body_bytes: int, metrics: ServerMetrics) -> None:
        self._app = app
        self._access = access
        self._limit = max_body_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or lets the app do it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = secrets.token_hex(6)
        scope.setdefault("state", {})["request_id"] = identity
        token = request_id.set(identity)
        exchange = _Exchange(receive, send, self._limit, identity)
        started = time.perf_counter()
        try:
            await self._answer(scope, exchange, identity)
        finally:
            seconds = time.perf_counter() - started
            path, method = str(scope["path"]), str(scope["method"])
            self._metrics.request(path, method, exchange.status, seconds)
            level = logging.DEBUG if path in _QUIET and exchange.status < 400 else logging.INFO
            _log.log(level, "%s %s %s %.1f ms", method, path, exchange.status or "gone", seconds * 1000)
            request_id.reset(token)

    async def _answer(self, scope: Scope, exchange: _Exchange, identity: str) -> None:
        if not self._access.allows(scope["path"], scope["headers"], scope["query_string"]):
            answer = problem(
                401, "Basic auth, or the webhook secret, is missing or wrong.", identity, kind="Unauthorized"
            )
            answer.headers["WWW-Authenticate"] = 'Basic realm="ram-backend"'
            await answer(scope, exchange.receive, exchange.send)
            return
        if _announced(scope) > self._limit:
            await self._refuse_body(scope, exchange, identity)
            return
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except BodyTooLarge:
            await self._refuse_body(scope, exchange, identity)
        except ClientDisconnect:
            pass  # the caller went away while sending
        except Exception:
            _log.exception("%s %s failed unexpectedly", scope["method"], scope["path"])
            if not exchange.status:
                message = f"Something went wrong that should not. The server's log tells more under {identity}."
                await problem(500, message, identity, kind="InternalError")(scope, exchange.receive, exchange.send)

    async def _refuse_body(self, scope: Scope, exchange: _Exchange, identity: str) -> None:
        message = f"The request is larger than {self._limit:,} bytes: send less at a time, or raise RAM_MAX_BODY_BYTES."
        answer = problem(413, message, identity, kind="BodyTooLarge")
        answer.headers["Connection"] = "close"
        await answer(scope, exchange.receive, exchange.send)


class _Exchange:
    """Counts what comes in, and notes what goes out."""

    def __init__(self, receive: Receive, send: Send, limit: int, identity: str) -> None:
        self._receive = receive
        self._send = send
        self._left = limit
        self._identity = identity.encode()
        self.status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise BodyTooLarge
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", self._identity)]}
        await self._send(message)


def _announced(scope: Scope) -> int:
    value = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0

"""ASGI middleware around the app: request id, access control, limits of the body, log line and metrics."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ram_backend.errors import SettingsError
from ram_backend.logs import request_id
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.problems import problem
from ram_backend.settings import Settings

SECRET_HEADER = b"x-ram-webhook-secret"
SECRET_PARAMETER = "secret"

BODIES_AT_ONCE = 8
"""All requests together may hold as many bytes as so many bodies of the largest size."""

SMALL_BODY_BYTES = 1_000_000
"""A body up to this size is always taken."""

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_OWN_SITES = frozenset({b"none", b"same-origin"})
_QUIET = frozenset({"/health", "/", "/ready", "/metrics"})
_log = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is not served; raised here or inside the app, answered here.

    Args:
        status: HTTP status of the answer.
        kind: names the reason, for programs.
        message: for people.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(frozen=True)
class Access:
    """Access control: known Hosts, no foreign web pages, basic auth, a secret of its own for webhooks.

    Attributes:
        user: of basic auth; None: everybody may ask.
        password: of basic auth.
        webhook_secret: what `/webhook` wants; with it a webhook needs no basic auth, for Label Studio sends none.
            None: the rule of all other routes holds.
        hosts: names that the server is called by, in lower case and without ports; None: any.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    webhook_secret: str | None = field(default=None, repr=False)
    hosts: frozenset[str] | None = None

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """The rule of the settings.

        Raises:
            SettingsError: a user without a password, or the other way round.
        """
        user, password = settings.basic_auth_user or None, settings.basic_auth_pass or None
        if (user is None) != (password is None):
            given, missing = ("USER", "PASS") if user else ("PASS", "USER")
            raise SettingsError(f"BASIC_AUTH_{given} is set without BASIC_AUTH_{missing}: set both, or none.")
        named = frozenset(_host_name(each.strip()) for each in settings.allowed_hosts.split(",") if each.strip())
        checked = bool(named) or _is_loopback(settings.host)
        return cls(user, password, settings.webhook_secret or None, named | _LOOPBACK_HOSTS if checked else None)

    def check(self, scope: Scope) -> None:
        """Lets a request pass.

        Raises:
            Refused: 421 for an unknown Host, 403 for a web page of another origin, 401 without login or secret, 415 for
                a POST that is not JSON.
        """
        headers = {name.lower(): value for name, value in scope["headers"]}
        self._check_host(scope)
        _check_origin(headers, {value for name, value in scope["headers"] if name.lower() == b"origin"})
        if not self._is_logged_in(scope["path"], headers, scope["query_string"]):
            raise Refused(401, "Unauthorized", "Basic auth, or the webhook secret, is missing or wrong.")
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if scope["method"] == "POST" and media_type != b"application/json":
            raise Refused(415, "NotJson", "Send the body as Content-Type: application/json.")

    def _check_host(self, scope: Scope) -> None:
        """DNS rebinding: a page whose own name leads here may read everything, unless its name is unknown here."""
        given = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"]
        unknown = [host for host in given or [""] if self.hosts is not None and _host_name(host) not in self.hosts]
        if unknown:
            message = f"The server doesn't answer to the host {unknown[0][:100]!r}: add its name to RAM_ALLOWED_HOSTS."
            raise Refused(421, "UnknownHost", message)

    def _is_logged_in(self, path: str, headers: dict[bytes, bytes], query: bytes) -> bool:
        if path == "/health":
            return True
        if path == "/webhook" and self.webhook_secret is not None:
            # Label Studio's connector sends START_TRAINING with basic auth and without our header: either will do.
            return self._has_secret(headers, query) or (self.user is not None and self._has_login(headers))
        return self.user is None or self._has_login(headers)

    def _has_login(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, encoded = headers.get(b"authorization", b"").partition(b" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            given = b""
        expected = f"{self.user}:{self.password}".encode()
        return hmac.compare_digest(given, expected) and scheme.lower() == b"basic"

    def _has_secret(self, headers: dict[bytes, bytes], query: bytes) -> bool:
        expected = (self.webhook_secret or "").encode()
        in_url = [value.encode() for name, value in parse_qsl(query.decode("latin-1")) if name == SECRET_PARAMETER]
        return any(hmac.compare_digest(each, expected) for each in (headers.get(SECRET_HEADER, b""), *in_url))


class RequestMiddleware:
    """ASGI middleware around the whole app; plain, so that a disconnect reaches the routes.

    Args:
        app: what it guards.
        access: who may ask.
        max_body_bytes: of one request.
        body_seconds: that a body may take to come.
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
            words = (method, path, exchange.status or "gone", seconds * 1000)
            _log.log(level, "%s %s %s %.1f ms", *words, extra={"fields": fields})
            request_id.reset(token)

    async def _answer(self, scope: Scope, exchange: _Exchange, identity: str) -> None:
        try:
            self._access.check(scope)
            if _announced(scope) > self._bodies.limit:
                raise _too_large(self._bodies.limit)
            await self._app(scope, exchange.receive, exchange.send)
        except Refused as refused:
            answer = problem(refused.status, str(refused), identity, kind=refused.kind)
            if refused.status == 401:
                answer.headers["WWW-Authenticate"] = 'Basic realm="ram-backend"'
            if refused.status in (408, 413, 503):  # the rest of the body is not read
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
            seconds = f"{self._bodies.seconds:g} s: send it faster, or raise RAM_REQUEST_SECONDS."
            raise Refused(408, "BodyTooSlow", f"The request's body did not come within {seconds}") from None
        if message["type"] == "http.request":
            self._take(len(message.get("body", b"")))
            if not message.get("more_body", False):
                self._ends = None
        return message

    def _take(self, count: int) -> None:
        self.taken += count
        self._bodies.held += count
        if self.taken > self._bodies.limit:
            raise _too_large(self._bodies.limit)
        if self.taken > SMALL_BODY_BYTES and self._bodies.held > BODIES_AT_ONCE * self._bodies.limit:
            message = "Too many large requests at a time: try again in a moment, or send less at a time."
            raise Refused(503, "BodiesTooMany", message)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", self._identity)]}
        await self._send(message)


def _check_origin(headers: dict[bytes, bytes], origins: set[bytes]) -> None:
    """A browser names the page that asks (Origin) and its relation to this server (Sec-Fetch-Site)."""
    site = headers.get(b"sec-fetch-site", b"none").lower()
    host = headers.get(b"host", b"").lower()
    foreign = [each for each in origins if each.lower().partition(b"://")[2] != host or not host]
    if foreign or site not in _OWN_SITES:
        message = "Web pages of another origin may not ask this server; Label Studio's own server may."
        raise Refused(403, "ForeignOrigin", message)


def _host_name(host: str) -> str:
    """The name of "NAME:PORT", "[::1]:PORT" or "::1", in lower case."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _announced(scope: Scope) -> int:
    value = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0


def _too_large(limit: int) -> Refused:
    message = f"The request is larger than {limit:,} bytes: send less at a time, or raise RAM_MAX_BODY_BYTES."
    return Refused(413, "BodyTooLarge", message)

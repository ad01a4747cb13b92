"""ASGI middleware: request id, access control, log, metrics, limits of bodies, errors.

An error is one JSON object with one line for people. The status line repeats
it, for Label Studio shows only "400 Client Error: REASON for url: ...": the app
names it in the header `x-reason`, since ASGI has no reason phrase.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ram_backend import errors
from ram_backend.images.guard import is_loopback
from ram_backend.logs import request_id
from ram_backend.server.prometheus import ServerMetrics
from ram_backend.settings import Settings

SECRET_HEADER = "x-ram-webhook-secret"
SECRET_PARAMETER = "secret"

BODIES_AT_ONCE = 4
"""All bodies together may have this many times the size of the largest one."""

SMALL_BODY_BYTES = 1_000_000
"""A body up to this size is always taken."""

_STATUS: dict[int, tuple[type[errors.RamError], ...]] = {
    404: (errors.ProjectNotFound, errors.VersionNotFound),
    409: (errors.ProjectAmbiguous, errors.ProjectPinned, errors.VersionConflict, errors.VersionRefused),
    413: (errors.ImageTooLarge,),
    400: (errors.InputError,),
    503: (errors.NotAvailable,),
}

RETRY_AFTER_S = 5
LONGEST_MESSAGE = 1500
LONGEST_REASON = 300

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_OWN_SITES = frozenset({"none", "same-origin"})
_PAGES = re.compile(r"/(projects/.*)?")
"""Paths of the admin's page, which a link of another page may open."""

_QUIET = frozenset({"/health", "/", "/ready", "/metrics"})
_log = logging.getLogger(__name__)


class Refused(Exception):
    """A refused request: status, a name for programs, a message for people."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


def problem(status: int, message: str, *, kind: str) -> JSONResponse:
    """An answer that refuses, as JSON; `kind` names an error class, for programs."""
    message = _shortened(message, LONGEST_MESSAGE)
    headers = {"x-reason": as_reason(message)}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    content = {"error": message, "type": kind, "request_id": request_id.get()}
    return JSONResponse(content, status_code=status, headers=headers)


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Exception handler: our errors, and HTTP errors of the framework, as JSON."""
    if isinstance(error, Refused):
        answer = problem(error.status, str(error), kind=error.kind)
        if error.status == 401:
            answer.headers["WWW-Authenticate"] = 'Basic realm="ram-backend"'
        if error.status in (408, 413, 503):  # the rest of its body isn't read
            answer.headers["Connection"] = "close"
        return answer
    if isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path}: {error.detail}. See /docs for what there is."
        return problem(error.status_code, message, kind="HttpError")
    status = next((status for status, kinds in _STATUS.items() if isinstance(error, kinds)), 500)
    if isinstance(error, errors.QuotaExceeded):
        request.app.state.services.metrics.refused.labels(error.what).inc()
    _log.warning("%s answered %d: %s", request.url.path, status, error)
    error.with_traceback(None)  # its frames hold the request's body, in a cycle
    return problem(status, str(error), kind=type(error).__name__)


def as_reason(message: str) -> str:
    """A message for a status line: printable ASCII, short, on one line."""
    return _shortened(re.sub(r"[^ -~]", "?", " ".join(message.split())), LONGEST_REASON)


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class Access:
    """Access control: known Hosts, no foreign web pages, basic auth, a webhook secret.

    With a secret `/webhook` needs no basic auth, for Label Studio sends none.
    `hosts` are the server's names, in lower case, without ports; None: any.

    Raises:
        SettingsError: a user without a password, or the other way round.
    """

    def __init__(self, settings: Settings) -> None:
        user, password = settings.basic_auth_user, settings.basic_auth_pass
        if bool(user) != bool(password):
            given, missing = ("USER", "PASS") if user else ("PASS", "USER")
            raise errors.SettingsError(f"BASIC_AUTH_{given} is set without BASIC_AUTH_{missing}: set both, or none.")
        self._login = base64.b64encode(f"{user}:{password}".encode()) if user else b""
        self._secret = (settings.webhook_secret or "").encode()
        hosts = filter(None, map(str.strip, settings.allowed_hosts.split(",")))
        named = frozenset(map(_host_name, hosts))
        self.hosts = named | _LOOPBACK_HOSTS if named or is_loopback(settings.host) else None

    def check(self, scope: Scope) -> None:
        """Lets a request pass.

        Raises:
            Refused: 421 for an unknown Host, 403 for a web page of another
                origin, 401 without login or secret, 415 for a POST that is not
                JSON.
        """
        headers = Headers(scope=scope)
        hosts = headers.getlist("host") or [""]
        # DNS rebinding: a page whose name leads here could read everything.
        unknown = [host for host in hosts if self.hosts is not None and _host_name(host) not in self.hosts]
        if unknown:
            message = f"The server doesn't answer to the host {unknown[0][:100]!r}: add its name to RAM_ALLOWED_HOSTS."
            raise Refused(421, "UnknownHost", message)

        # A browser names the asking page (Origin), and its relation (Sec-Fetch-Site).
        origins = {origin.lower().partition("://")[2] for origin in headers.getlist("origin")}
        sites = {site.lower() for site in headers.getlist("sec-fetch-site")}
        is_foreign = bool(origins - {hosts[-1].lower() or None})
        if is_foreign or (sites - _OWN_SITES and not _opens_page(scope, headers)):
            message = "Web pages of another origin may not ask this server; Label Studio's own server may."
            raise Refused(403, "ForeignOrigin", message)
        if not self._is_logged_in(scope, headers):
            raise Refused(401, "Unauthorized", "Basic auth, or the webhook secret, is missing or wrong.")
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and media_type != "application/json":
            raise Refused(415, "NotJson", "Send the body as Content-Type: application/json.")

    def _is_logged_in(self, scope: Scope, headers: Headers) -> bool:
        if scope["path"] == "/webhook" and self._secret:
            in_url = parse_qsl(scope["query_string"].decode("latin-1"))
            given = [text.encode() for name, text in in_url if name == SECRET_PARAMETER]
            given.append(headers.get(SECRET_HEADER, "").encode("latin-1"))
            # START_TRAINING comes with basic auth, not with our header.
            has_secret = any(hmac.compare_digest(each, self._secret) for each in given)
            return has_secret or (bool(self._login) and self._has_login(headers))
        return scope["path"] == "/health" or not self._login or self._has_login(headers)

    def _has_login(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return hmac.compare_digest(given.strip().encode("latin-1"), self._login) and scheme.lower() == "basic"


class BodyReader:
    """Reads bodies within limits of time and size, of each and of all.

    Args:
        max_bytes: most of one body; of all together `BODIES_AT_ONCE` times that.
        seconds: until its last byte has come.
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytearray]:
        """A request's body; it counts as held until the context ends.

        Raises:
            Refused: 413 too large, 408 too slow, 503 too many large ones.
        """
        body, size = bytearray(), 0
        announced = request.headers.get("content-length", "0")
        self._check(int(announced) if announced.isdecimal() else 0)
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    async for part in request.stream():
                        body += part
                        self._held += len(part)
                        size += len(part)
                        self._check(size)
            except TimeoutError:
                seconds = f"{self._seconds:g} s: send it faster, or raise RAM_REQUEST_SECONDS."
                raise Refused(408, "BodyTooSlow", f"The request's body did not come within {seconds}") from None
            yield body
        finally:
            self._held -= size

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            limit = f"{self._max_bytes:,} bytes: send less at a time, or raise RAM_MAX_BODY_BYTES."
            raise Refused(413, "BodyTooLarge", f"The request is larger than {limit}")
        if size > SMALL_BODY_BYTES and self._held > BODIES_AT_ONCE * self._max_bytes:
            message = "Too many large requests at a time: try again in a moment, or send less at a time."
            raise Refused(503, "BodiesTooMany", message)


class RequestMiddleware:
    """ASGI middleware around the whole app; a disconnect reaches the routes."""

    def __init__(self, app: ASGIApp, *, access: Access, metrics: ServerMetrics) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or lets the app do it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = secrets.token_hex(6)
        token = request_id.set(identity)
        method, path = scope["method"], scope["path"]
        status = 0
        started = time.perf_counter()

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = (b"x-request-id", identity.encode())
                message = {**message, "headers": [*message.get("headers", []), named]}
            await send(message)

        try:
            self._access.check(scope)
            await self._app(scope, receive, send_named)
        except Refused as refused:
            answer = await on_error(Request(scope), refused)
            await answer(scope, receive, send_named)
        except ClientDisconnect:
            pass  # the caller went away while sending
        except Exception:
            _log.exception("%s %s failed unexpectedly", method, path)
            if not status:
                message = f"Something went wrong. The server's log tells more under {identity}."
                await problem(500, message, kind="InternalError")(scope, receive, send_named)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.request(path, method, status, seconds)
            level = logging.DEBUG if path in _QUIET and status < 400 else logging.INFO
            ms = round(seconds * 1000, 1)
            fields = {"method": method, "route": path, "status": status, "ms": ms}
            _log.log(level, "%s %s %s %s ms", method, path, status or "gone", ms, extra={"fields": fields})
            request_id.reset(token)


def _opens_page(scope: Scope, headers: Headers) -> bool:
    """Whether a browser opens the admin's page in a tab: no other page can read it."""
    modes = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    in_tab = scope["method"] == "GET" and modes == ("navigate", "document")
    return in_tab and _PAGES.fullmatch(scope["path"]) is not None


def _host_name(host: str) -> str:
    """The name of "NAME:PORT", "[::1]:PORT" or "::1", in lower case."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]

"""HTTP error responses: one JSON object with one line for people, which the status line repeats.

Of an answer >= 400 Label Studio keeps `str(requests.HTTPError)`, "400 Client Error: REASON for url: ...", and shows it
where a backend is connected and on its card; the body is not read. ASGI has no reason phrase, so the app names it in
the header `x-reason`, and the connection writes it into the status line.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ram_backend.errors import (
    ImageTooLarge,
    InputError,
    NotAvailable,
    ProjectAmbiguous,
    ProjectNotFound,
    ProjectPinned,
    QuotaExceeded,
    RamError,
    VersionConflict,
    VersionNotFound,
    VersionRefused,
)
from ram_backend.logs import request_id

_log = logging.getLogger(__name__)

_STATUS: dict[int, tuple[type[RamError], ...]] = {
    404: (ProjectNotFound, VersionNotFound),
    409: (ProjectAmbiguous, ProjectPinned, VersionConflict, VersionRefused),
    413: (ImageTooLarge,),
    400: (InputError,),
    503: (NotAvailable,),
}
RETRY_AFTER_S = 5
LONGEST_MESSAGE = 1500
LONGEST_REASON = 300

_REASON_HEADER = "x-reason"
_LINE = re.compile(rb"\AHTTP/1\.1 ([45]\d\d) [^\r\n]*(?=\r\n)")
_REASON = re.compile(rb"\r\nx-reason: ([^\r\n]+)(?=\r\n)", re.IGNORECASE)


class Refused(Exception):
    """A request that is not served.

    Args:
        status: HTTP status of the answer.
        kind: names the reason, for programs.
        message: for people.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


def problem(status: int, message: str, *, kind: str) -> JSONResponse:
    """An answer that says what happened.

    Args:
        status: HTTP status, >= 400.
        message: one line for people.
        kind: name of the error class.
    """
    message = message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 3]}..."
    headers = {_REASON_HEADER: as_reason(message)}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    content = {"error": message, "type": kind, "request_id": request_id.get()}
    return JSONResponse(content, status_code=status, headers=headers)


def refusal(refused: Refused) -> JSONResponse:
    """The answer to a request that is not served; the connection is closed where the rest of its body isn't read."""
    answer = problem(refused.status, str(refused), kind=refused.kind)
    if refused.status == 401:
        answer.headers["WWW-Authenticate"] = 'Basic realm="ram-backend"'
    if refused.status in (408, 413, 503):
        answer.headers["Connection"] = "close"
    return answer


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Exception handler of the app: errors on purpose, and HTTP errors of the framework, as JSON."""
    if isinstance(error, Refused):
        return refusal(error)
    if isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path}: {error.detail}. See /docs for what there is."
        return problem(error.status_code, message, kind="HttpError")
    status = next((status for status, kinds in _STATUS.items() if isinstance(error, kinds)), 500)
    if isinstance(error, QuotaExceeded):
        request.app.state.services.metrics.refused.labels(error.what).inc()
    _log.warning("%s answered %d: %s", request.url.path, status, error)
    return problem(status, str(error), kind=type(error).__name__)


def as_reason(message: str) -> str:
    """A message as a status line can hold it: printable ASCII on one line, not too long."""
    line = re.sub(r"[^ -~]", "?", " ".join(message.split()))
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 3]}..."


class _Transport:
    """A transport that moves the header into the status line; all else goes to the real one."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        if (line := _LINE.match(data)) is not None:
            head, blank, body = data.partition(b"\r\n\r\n")
            if (reason := _REASON.search(head)) is not None:
                head = b"HTTP/1.1 %s %s%s" % (line[1], reason[1], head[line.end() :])
                data = head + blank + body
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class ReasonPhraseProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """uvicorn's HTTP protocol, with reason phrases of the app's own."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Puts the reason-writing transport between the connection and the real one."""
        super().connection_made(_Transport(transport))

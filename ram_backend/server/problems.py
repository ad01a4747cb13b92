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

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ram_backend.errors import (
    ImageTooLarge,
    InputError,
    NotAvailable,
    ProjectAmbiguous,
    ProjectNotFound,
    ProjectPinned,
    RamError,
    VersionConflict,
    VersionNotFound,
    VersionRefused,
)

_log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[RamError], int], ...] = (
    (ProjectNotFound, 404),
    (VersionNotFound, 404),
    (ProjectAmbiguous, 409),
    (VersionRefused, 409),
    (ProjectPinned, 409),
    (VersionConflict, 409),
    (ImageTooLarge, 413),
    (InputError, 400),
    (NotAvailable, 503),
)
RETRY_AFTER_S = 5
LONGEST_MESSAGE = 1500
LONGEST_REASON = 300

_REASON_HEADER = "x-reason"
_LINE = re.compile(rb"\AHTTP/1\.1 ([45]\d\d) [^\r\n]*(?=\r\n)")
_REASON = re.compile(rb"\r\nx-reason: ([^\r\n]+)(?=\r\n)", re.IGNORECASE)


def status_of(error: RamError) -> int:
    """HTTP status of an error: the first class of the list that it belongs to; 500 for all others."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem(status: int, message: str, request_id: str, *, kind: str) -> JSONResponse:
    """An answer that says what happened.

    Args:
        status: HTTP status, >= 400.
        message: one line for people.
        request_id: under which the log tells more.
        kind: name of the error class.
    """
    message = message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 3]}..."
    headers = {_REASON_HEADER: as_reason(message)}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    content = {"error": message, "type": kind, "request_id": request_id}
    return JSONResponse(content, status_code=status, headers=headers)


def add_problem_handlers(app: FastAPI) -> None:
    """Makes an app answer errors on purpose, and HTTP errors of the framework, as JSON."""
    app.add_exception_handler(RamError, _on_ram_error)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_ram_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RamError)
    status, kind = status_of(error), type(error).__name__
    _log.warning("%s answered %d: %s", request.url.path, status, error)
    return problem(status, str(error), request_id_of(request), kind=kind)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}. See /docs for what there is."
    return problem(error.status_code, message, request_id_of(request), kind="HttpError")


def request_id_of(request: Request) -> str:
    """The request's id, as the log knows it."""
    return str(request.scope.get("state", {}).get("request_id", "-"))


def as_reason(message: str) -> str:
    """A message as a status line can hold it: printable ASCII on one line, not too long."""
    line = " ".join(message.split()).encode("ascii", "replace").decode()
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
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

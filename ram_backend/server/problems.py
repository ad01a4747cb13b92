"""From errors to HTTP, once: every answer that is no success is one JSON object with one line for people."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

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
from ram_backend.server.reasons import HEADER as REASON_HEADER
from ram_backend.server.reasons import as_reason

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
    headers = {REASON_HEADER: as_reason(message)}
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

"""What went wrong, in the one place of an answer that Label Studio shows to people: the reason phrase.

Of an answer >= 400 its connector keeps `str(requests.HTTPError)`, "400 Client Error: REASON for url: ...", and shows it
where a backend is connected and on its card; the body is not read. ASGI has no reason phrase, so the app names it in
the header `x-reason`, and the connection writes it into the status line.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEADER = "x-reason"
MAX_LENGTH = 300

_LINE = re.compile(rb"\AHTTP/1\.1 ([45]\d\d) [^\r\n]*(?=\r\n)")
_REASON = re.compile(rb"\r\nx-reason: ([^\r\n]+)(?=\r\n)", re.IGNORECASE)


def as_reason(message: str) -> str:
    """A message as a status line can hold it: printable ASCII on one line, not too long."""
    line = " ".join(message.split()).encode("ascii", "replace").decode()
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= MAX_LENGTH else f"{line[: MAX_LENGTH - 3]}..."


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


class TellingProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """uvicorn's HTTP protocol, with reason phrases of the app's own."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Puts the reason-writing transport between the connection and the real one."""
        super().connection_made(_Transport(transport))

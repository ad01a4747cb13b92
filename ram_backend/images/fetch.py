"""HTTP client for images, within limits."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urljoin

from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    SSLError,
    TimeoutError,
)

from ram_backend.errors import ImageTooLarge, ImageUnreachable, ImageUnreadable
from ram_backend.images.connections import Deadline, guarded_pools
from ram_backend.images.guard import Address, AddressGuard, redacted

MOST_REDIRECTS = 5
"""Redirects that are followed for one image."""

_CONNECT_S = 5.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LATER = frozenset({408, 425, 429})
_CHUNK = 65536
_PART = 1 << 20
_QUOTED = re.compile(rb"%([0-9a-fA-F]{2})")
_NAME_UNKNOWN = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_HEADERS = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "User-Agent": "ram-backend"}


@dataclass(frozen=True)
class FetchLimits:
    """What one image may cost, and where it may come from.

    Attributes:
        max_bytes: of the image (setting RAM_MAX_IMAGE_BYTES).
        seconds: for everything from resolving the name to the last byte,
            redirects included (RAM_FETCH_SECONDS).
        connections: that stay open per host.
        guard: which addresses are allowed.
    """

    max_bytes: int = 100_000_000
    seconds: float = 20
    connections: int = 16
    guard: AddressGuard = field(default_factory=AddressGuard)


@dataclass(frozen=True)
class Answer:
    """The response to a request; `location`: absolute URL of a redirect, or None."""

    address: Address
    status: int
    body: bytes
    location: str | None


class Fetcher:
    """Fetches images from many threads; connections are used again."""

    def __init__(self, limits: FetchLimits | None = None) -> None:
        self.limits = limits or FetchLimits()
        self._pools = guarded_pools(self.limits.guard, connections=self.limits.connections)

    def get(self, url: str) -> bytes:
        """The bytes of an image at an http, https or data URL, without credentials.

        Raises:
            ImageRefused: the address, or one that it redirects to, is not
                allowed.
            ImageTooLarge: more bytes than the limit.
            ImageUnreadable: there is no image, e.g. HTTP 404, too many
                redirects, a damaged data URI.
            ImageUnreachable: timeout, no connection, HTTP 5xx.
        """
        if url[:5].lower() == "data:":
            return _from_data_uri(url, self.limits.max_bytes)
        with Deadline(self.limits.seconds):
            return self.follow(url)

    def follow(self, url: str, *, hops: int = 0) -> bytes:
        """As `get`, within a deadline that has begun, and after some redirects."""
        for _ in range(hops, MOST_REDIRECTS + 1):
            answer = self.exchange("GET", Address.of(url))
            if answer.location is None:
                return body_of(answer)
            url = answer.location
        raise ImageUnreadable(f"{redacted(url)}: more than {MOST_REDIRECTS} redirects. Check the address.")

    def exchange(
        self, method: str, address: Address, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """One request within the thread's deadline; follows no redirect.

        Raises:
            ImageRefused, ImageTooLarge, ImageUnreachable: as `get`.
            ImageUnreadable: no such host; the content encoding is damaged.
        """
        deadline = Deadline.current()
        for last in (False, True):
            try:
                return self._exchange(method, address, {**_HEADERS, **(headers or {})}, body)
            except HTTPError as error:  # also for idle connections that were closed
                if last or method != "GET" or deadline.expired or not isinstance(error, ProtocolError):
                    raise _failure(address, error, deadline) from None
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Closes the connections that nobody uses now."""
        self._pools.clear()

    def _exchange(self, method: str, address: Address, headers: Mapping[str, str], body: bytes | None) -> Answer:
        origin, left = address.origin, Deadline.current().remaining
        response = self._pools.connection_from_host(origin.host, origin.port, origin.scheme).urlopen(
            method,
            address.target,
            body=body,
            headers=headers,
            retries=False,
            redirect=False,
            timeout=Timeout(connect=min(_CONNECT_S, left), read=left),
            preload_content=False,
        )
        try:
            location = response.headers.get("Location") if response.status in _REDIRECTS else None
            content = self._read(response, address)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        if location is not None:
            with suppress(UnicodeError):  # headers are read as Latin-1; many servers write UTF-8
                location = location.encode("latin-1").decode()
            with suppress(ValueError):  # the next hop refuses it
                location = urljoin(f"{origin}{address.target}", location.strip())
        return Answer(address, response.status, content, location)

    def _read(self, response: BaseHTTPResponse, address: Address) -> bytes:
        limit, deadline = self.limits.max_bytes, Deadline.current()
        announced = response.headers.get("Content-Length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > limit:
            raise _too_large(str(address), limit)
        content = bytearray()
        for chunk in response.stream(_CHUNK):
            content += chunk
            if len(content) > limit:
                raise _too_large(str(address), limit)
            if deadline.expired:
                break
        if deadline.expired:  # also where the socket was shut down, and so the content ends early
            raise TimeoutError("the time is up")
        return bytes(content)


def body_of(answer: Answer) -> bytes:
    """The image in an answer that is not a redirect; raises as `Fetcher.get`."""
    if 200 <= answer.status < 300:
        return answer.body
    said = f"{answer.address}: answered HTTP {answer.status}"
    if answer.status >= 500 or answer.status in _LATER:
        raise ImageUnreachable(f"{said}. Try again later.")
    hint = " It may need a login, or a signed address that has not expired." if answer.status in (401, 403) else ""
    raise ImageUnreadable(f"{said}, so there is no image.{hint} Check the address in the task.")


def _too_large(name: str, limit: int) -> ImageTooLarge:
    return ImageTooLarge(
        f"{name}: more than the {limit:,} bytes allowed. Shrink the image or raise RAM_MAX_IMAGE_BYTES."
    )


def _failure(address: Address, error: HTTPError, deadline: Deadline) -> ImageUnreachable | ImageUnreadable:
    """Our error for a failed connection, without the original text and its query."""
    if isinstance(error.__cause__, socket.gaierror) and error.__cause__.errno in _NAME_UNKNOWN:
        return ImageUnreadable(f"{address}: there is no host of that name. Check the address.")
    if isinstance(error, DecodeError):
        return ImageUnreadable(f"{address}: its content encoding is damaged. Export the image again.")
    if isinstance(error, NameResolutionError):
        reason = "the name can't be looked up now. Check the network, or try again later"
    elif isinstance(error, SSLError):
        reason = "no secure connection (TLS). Check its certificate; name one of your own in SSL_CERT_FILE"
    elif isinstance(error, NewConnectionError):
        reason = "takes no connection. Check that it runs, or try again later"
    elif deadline.expired or isinstance(error, TimeoutError):
        reason = "did not answer in time. Try again later, or raise RAM_FETCH_SECONDS"
    else:
        reason = "broke the connection off. Try again later"
    return ImageUnreachable(f"{address}: {reason}.")


def _from_data_uri(uri: str, limit: int) -> bytes:
    """Bytes of `data:[type][;base64],...`; whitespace and padding are forgiven."""
    name = redacted(uri)
    comma = uri.find(",")
    if comma < 0:
        raise ImageUnreadable(f"{name}: has no comma before its data. Export the task again.")
    parts: Iterable[bytes] = _unquoted(uri, comma + 1)
    try:
        data = b"".join(_from_base64(parts) if uri[:comma].lower().rstrip().endswith(";base64") else parts)
    except ValueError:
        raise ImageUnreadable(f"{name}: its data is damaged or cut off. Export it again.") from None
    if len(data) > limit:
        raise _too_large(name, limit)
    return data


def _unquoted(text: str, start: int) -> Iterator[bytes]:
    """As `unquote_to_bytes`, in parts to save memory."""
    rest = b""
    for at in range(start, len(text), _PART):
        rest += text[at : at + _PART].encode()
        whole = rest.rfind(b"%", len(rest) - 2) % (len(rest) + 1)  # -1, not found: all of it
        yield _QUOTED.sub(lambda byte: bytes.fromhex(byte[1].decode()), rest[:whole])
        rest = rest[whole:]
    yield rest


def _from_base64(parts: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for part in parts:
        rest += part.translate(bytes.maketrans(b"-_", b"+/"), delete=b" \t\n\r\f\v")
        whole = len(rest) // 4 * 4
        yield base64.b64decode(rest[:whole], validate=True)
        rest = rest[whole:]
    rest = rest.rstrip(b"=")
    yield base64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True)

"""HTTP client of one Label Studio, of its files and its API."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from urllib3.filepost import encode_multipart_formdata

from ram_backend.errors import (
    ImageRefused,
    ImageTooLarge,
    ImageUnreachable,
    ImageUnreadable,
    LabelStudioRefused,
    LabelStudioUnauthorized,
    LabelStudioUnreachable,
    SettingsError,
)
from ram_backend.images.connections import Deadline
from ram_backend.images.fetch import MOST_REDIRECTS, Answer, Fetcher, FetchLimits, body_of
from ram_backend.images.guard import Address, AddressGuard, Origin, redacted
from ram_backend.labelstudio.tokens import Login
from ram_backend.settings import Settings

_FILES = ("/data/", "/storage-data/", "/tasks/", "/presign/", "/api/")
"""Paths that need a login; the token is sent to no other, e.g. /logout."""

_ADDRESS_REFUSED = re.compile(rb"provided URL was not allowed|URL resolves to a reserved", re.IGNORECASE)
"""A 403 about an address in the request (protocol section 9)."""

_MARKUP = re.compile(r"<[^<>]*>")


class LabelStudio:
    """A Label Studio that many threads may use; connections are used again.

    The token goes to `base_url`'s origin only: a redirect elsewhere is followed
    without it.

    Args:
        base_url: its address, with a path where it has one
            ("https://example.com/label-studio").
        token: legacy token or personal access token; None: none.
        trusted: False: only a `/setup` request named it, so it is fetched from
            at a public address only, and `token` must be the one that this
            request brought.
        hostname: its address in `/setup`, with which absolute addresses of its
            files in tasks begin.
        limits: what one image may cost, and which addresses are allowed besides
            its own.

    Raises:
        SettingsError: the address is none, or the token can't be one.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None,
        *,
        trusted: bool = True,
        hostname: str = "",
        limits: FetchLimits | None = None,
    ) -> None:
        self.base_url = base_url.strip().rstrip("/")
        try:
            base = Address.of(self.base_url)
        except ImageRefused:
            raise SettingsError(
                f"{redacted(base_url)!r} is not an address of a Label Studio. Set LABEL_STUDIO_URL to http(s)://HOST:PORT."
            ) from None
        self.origin = base.origin
        self._prefix = "" if base.target == "/" else base.target
        limits = limits or FetchLimits()
        if trusted:
            limits = replace(limits, guard=replace(limits.guard, origins=limits.guard.origins | {self.origin}))
        self.fetcher = Fetcher(limits)
        self._hostname: Origin | None = None
        with suppress(ImageRefused):  # /setup may bring anything
            self._hostname = Address.of(hostname).origin
        self._login = Login(token, self._refresh)

    def own_url(self, reference: str) -> str | None:
        """The address of a task's image at this Label Studio; None where it is elsewhere.

        Args:
            reference: a path ("/data/upload/1/a.jpg"), or an absolute address.
        """
        if reference.startswith("/") and not reference.startswith(("//", "/\\")):
            path = self._stripped(reference)
        else:
            try:
                address = Address.of(reference)
            except ImageRefused:
                return None
            path = self._stripped(address.target)
            if address.origin == self.origin and not path.startswith(_FILES):
                return reference  # a neighbour on the same host
            if address.origin != self.origin and not (address.origin == self._hostname and path.startswith("/data/")):
                return None
        return f"{self.origin}{self._prefix}{path}"

    def is_api(self, url: str) -> bool:
        """Whether an address is one of the API, which no task may have requested.

        Raises:
            ImageRefused: it is not an address.
        """
        return Address.of(url).target.startswith(f"{self._prefix}/api/")

    def get(self, url: str) -> bytes:
        """A file of this Label Studio.

        Args:
            url: from `own_url`, or a path.

        Raises:
            ImageError: there is no such file, it is too large, or it lies where
                images are not fetched from.
            LabelStudioUnreachable: Label Studio doesn't answer, or answers 5xx.
            LabelStudioUnauthorized: it takes no token that we have.
            ImageUnreachable: it redirects to a storage that doesn't answer now.
        """
        if url.startswith("/"):
            url = f"{self.base_url}{url}"
        with Deadline(self.fetcher.limits.seconds):
            for hop in range(MOST_REDIRECTS + 1):
                address = Address.of(url)
                if address.origin != self.origin:
                    return self.fetcher.follow(url, hops=hop)
                answer = self._request("GET", address)
                if answer.location is None:
                    return self._body(answer)
                url = answer.location
                if urlsplit(url).path.rstrip("/").endswith("/user/login"):
                    raise self._unauthorized()
        raise ImageUnreadable(f"{redacted(url)}: too many redirects. Check Label Studio's address.")

    def send_json(self, method: str, path: str, body: Any = None, *, seconds: float | None = None) -> Any:
        """One request to the API; follows no redirect.

        Returns the decoded answer; None: it is empty.

        Raises:
            LabelStudioUnreachable: it doesn't answer, answers 5xx, or no JSON.
            LabelStudioUnauthorized: it takes no token that we have, or its user
                may not do that.
            LabelStudioRefused: it answers any other 4xx.
        """
        content = None if body is None else json.dumps(body).encode()
        return self._send(method, path, content, "application/json", seconds)

    def upload(self, path: str, images: Iterable[Path]) -> Any:
        """Posts JPEG files to the API as one form; returns and raises as `send_json`."""
        fields = [(each.name, (each.name, each.read_bytes(), "image/jpeg")) for each in images]
        body, content_type = encode_multipart_formdata(fields)
        return self._send("POST", path, body, content_type)

    def _send(self, method: str, path: str, body: bytes | None, content_type: str, seconds: float | None = None) -> Any:
        address, limits = Address.of(f"{self.base_url}{path}"), self.fetcher.limits
        request = f"Label Studio: {method} {address}"
        headers = {"Accept": "application/json"} | ({} if body is None else {"Content-Type": content_type})
        with Deadline(seconds or limits.seconds):
            try:
                answer = self._request(method, address, headers, body)
            except ImageTooLarge:
                raise LabelStudioRefused(f"{request}: answered with more than {limits.max_bytes:,} bytes.") from None
        if answer.status == 401 or (answer.status == 403 and not _ADDRESS_REFUSED.search(answer.body)):
            raise self._unauthorized()
        if answer.status >= 500 or answer.status in (408, 429) or answer.location is not None:
            raise LabelStudioUnreachable(
                f"{request}: answered HTTP {answer.status}. Look at its log, or try again later."
            )
        if not 200 <= answer.status < 300:
            detail = _reasons(answer.body)
            raise LabelStudioRefused(
                f"{request}: answered HTTP {answer.status}{detail}", status=answer.status, detail=detail
            )
        if not answer.body.strip():
            return None
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError):
            raise LabelStudioUnreachable(f"{request}: answered no JSON. Check that it is a Label Studio.") from None

    def version(self) -> str:
        """Release of Label Studio, e.g. "1.23.2"; needs no login."""
        answer = self.send_json("GET", "/api/version/")
        return str(answer.get("release", "unknown")) if isinstance(answer, dict) else "unknown"

    def whoami(self) -> dict[str, Any]:
        """The user that the token belongs to."""
        answer = self.send_json("GET", "/api/current-user/whoami")
        return answer if isinstance(answer, dict) else {}

    def resolve(self, task: int, uri: str) -> bytes:
        """An image in a cloud storage of the project (s3://, gs://, azure-blob://).

        Raises:
            As `get`.
        """
        encoded = base64.urlsafe_b64encode(uri.encode()).decode()
        try:
            return self.get(f"/tasks/{task}/resolve/?fileuri={encoded}")
        except (ImageUnreadable, ImageTooLarge, ImageRefused) as error:
            raise type(error)(
                f"{redacted(uri)}: Label Studio can't fetch it ({error}). Check the project's storages."
            ) from None

    def close(self) -> None:
        """Closes the connections that nobody uses now."""
        self.fetcher.close()

    def _stripped(self, path: str) -> str:
        """A path without the base address's prefix, which a proxy may add."""
        return path[len(self._prefix) :] if self._prefix and path.startswith(f"{self._prefix}/") else path

    def _request(
        self, method: str, address: Address, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Sends a request to Label Studio itself, with the login where the path needs it."""
        headers = headers or {}
        if not self._login or not address.target.startswith(tuple(self._prefix + path for path in _FILES)):
            return self._exchange(method, address, headers, body)
        login = self._login.header()
        answer = self._exchange(method, address, {**headers, "Authorization": login}, body)
        if answer.status == 401 and self._login.renew(login):
            answer = self._exchange(method, address, {**headers, "Authorization": self._login.header()}, body)
        return answer

    def _exchange(self, method: str, address: Address, headers: Mapping[str, str], body: bytes | None) -> Answer:
        try:
            return self.fetcher.exchange(method, address, headers=headers, body=body)
        except (ImageUnreachable, ImageUnreadable) as error:  # unreadable: no such host
            raise LabelStudioUnreachable(f"Label Studio: {error}") from None
        except ImageRefused as error:  # only where it is not trusted
            raise LabelStudioUnreachable(f"Label Studio: {error} Or {connect_command()}.") from None

    def _body(self, answer: Answer) -> bytes:
        if answer.status in (401, 403):
            raise self._unauthorized()
        try:
            return body_of(answer)
        except ImageUnreachable as error:
            raise LabelStudioUnreachable(f"Label Studio: {error}") from None

    def _refresh(self, personal: str) -> str:
        """An access token for a personal one, within the deadline of a request."""
        address = Address.of(f"{self.base_url}/api/token/refresh/")
        body = json.dumps({"refresh": personal}).encode()
        answer = self._exchange("POST", address, {"Content-Type": "application/json"}, body)
        if answer.status in (400, 401, 403):
            raise self._unauthorized()
        try:
            access = json.loads(self._body(answer))["access"]
            if not isinstance(access, str) or not access.isascii() or not access.isprintable():
                raise TypeError
        except (ImageUnreadable, ValueError, KeyError, TypeError, RecursionError):
            raise LabelStudioUnreachable(
                f"{address}: answered HTTP {answer.status} and no access token. Check that it is a Label Studio."
            ) from None
        return access

    def _unauthorized(self) -> LabelStudioUnauthorized:
        if not self._login:
            reason = "wants a login"
        elif self._login.is_personal:
            reason = "no longer accepts our personal access token: make a new one"
        else:
            reason = "refuses our legacy token (off by default)"
        return LabelStudioUnauthorized(f"Label Studio at {self.origin} {reason}. To give it one, {connect_command()}.")


def open_label_studio(
    settings: Settings, base_url: str, token: str | None, *, trusted: bool = True, hostname: str = ""
) -> LabelStudio:
    """A `LabelStudio` with the settings' limits and allowed hosts.

    Raises:
        SettingsError: its address, its token or RAM_ALLOWED_IMAGE_HOSTS can't
            be used.
    """
    return LabelStudio(base_url, token, trusted=trusted, hostname=hostname, limits=fetch_limits(settings))


def fetch_limits(settings: Settings) -> FetchLimits:
    """The settings' limits and allowed hosts.

    Raises:
        SettingsError: RAM_ALLOWED_IMAGE_HOSTS can't be used.
    """
    return FetchLimits(
        max_bytes=settings.max_image_bytes,
        seconds=settings.fetch_seconds,
        connections=settings.fetch_threads,
        guard=AddressGuard.parse(settings.allowed_image_hosts),
    )


def connect_command(project: int | None = None) -> str:
    """The command that makes a project's Label Studio trusted and gives it a token."""
    number = "NUMBER" if project is None else project
    return (
        f"run `ram-backend connect {number}` with LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY (a personal access token)"
    )


def _reasons(body: bytes) -> str:
    """The reasons in a refusal, after a colon, at most 400 characters; ".": none."""
    try:
        answer = json.loads(body)
        found = [text for key in ("validation_errors", "detail") for text in _texts(answer.get(key))]
    except (ValueError, AttributeError, RecursionError):
        return "."
    line = " ".join(" ".join(_MARKUP.sub("", text) for text in found if text != "Validation error").split())
    return f": {line[:400]}" if line else "."


def _texts(value: object) -> Iterable[str]:
    """All texts within, each with the name of the field that it is about."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else (("non_field_errors", each) for each in value):
            name = "" if key == "non_field_errors" else f"{key}: "
            yield from (f"{name}{text}" for text in _texts(inner))

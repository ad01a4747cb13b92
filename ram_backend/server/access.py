"""Who may ask: basic auth for everything but `/health`, and a secret of its own for webhooks."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from ram_backend.errors import SettingsError
from ram_backend.settings import Settings

SECRET_HEADER = "x-ram-webhook-secret"
SECRET_PARAMETER = "secret"

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Access:
    """The rule that decides whether a request is let in.

    Attributes:
        user: of basic auth; None: everybody may ask.
        password: of basic auth.
        webhook_secret: what `/webhook` wants; with it a webhook needs no basic auth, for Label Studio sends none
            (protocol section 1). None: the rule of all other routes holds.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    webhook_secret: str | None = field(default=None, repr=False)

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
        return cls(user, password, settings.webhook_secret or None)

    def allows(self, path: str, headers: Headers, query: bytes) -> bool:
        """Whether a request may go on; compares in constant time."""
        if path == "/health":
            return True
        given = {name.lower(): value for name, value in headers}
        if path == "/webhook" and self.webhook_secret is not None:
            # Label Studio's connector sends START_TRAINING with basic auth and without our header: either will do.
            return self._has_secret(given, query) or (self.user is not None and self._has_login(given))
        return self.user is None or self._has_login(given)

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
        in_header = headers.get(SECRET_HEADER.encode(), b"")
        in_url = [value.encode() for name, value in parse_qsl(query.decode("latin-1")) if name == SECRET_PARAMETER]
        return any(hmac.compare_digest(each, expected) for each in (in_header, *in_url))

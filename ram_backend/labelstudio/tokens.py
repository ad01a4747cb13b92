"""What Label Studio takes as a login: a legacy token, or a personal access token, exchanged for short-lived ones.

A personal access token is a JWT of type "refresh": `POST /api/token/refresh/` gives an access token, valid 300 s
(protocol section 6).
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from ram_backend.errors import RamError, SettingsError

_USUAL_LIFETIME = 300.0
_MARGIN = 30.0


class Login:
    """The Authorization header for one Label Studio; used by many threads.

    Args:
        token: legacy or personal access token; None or "": there is none.
        refresh: asks Label Studio for an access token, given the personal access token.
        clock: seconds that only grow.

    Raises:
        SettingsError: the token has characters that no header can hold.
    """

    def __init__(
        self, token: str | None, refresh: Callable[[str], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        token = (token or "").strip()
        if not token.isascii() or not token.isprintable() or " " in token:
            raise SettingsError("Label Studio's token has blanks or odd characters in it: copy it again, all of it.")
        self._token = token
        self._refresh = refresh
        self._clock = clock
        self._lock = threading.Lock()  # held while an access token is fetched: the other threads wait for it
        self._access = ""
        self._renew_at = 0.0
        self._attempts = 0  # that have ended
        self._failure: RamError | None = None
        self.is_personal = is_personal(token)

    def __bool__(self) -> bool:
        return bool(self._token)

    def header(self) -> str:
        """Value of the Authorization header, with an access token that is valid for some seconds more."""
        if not self.is_personal:
            return f"Token {self._token}"
        access, renew_at = self._access, self._renew_at
        if not access or self._clock() >= renew_at:
            access = self._renewed(stale=access)
        return f"Bearer {access}"

    def renew(self, refused: str) -> bool:
        """After a 401: gets another access token, unless another thread just did.

        Args:
            refused: the header that was answered 401.

        Returns:
            Whether it is worth asking again.
        """
        if self.is_personal:
            self._renewed(stale=refused.removeprefix("Bearer "))
        return self.is_personal

    def _renewed(self, stale: str) -> str:
        before = self._attempts
        with self._lock:
            if self._attempts != before and self._failure is not None:  # another thread tried while this one waited
                raise type(self._failure)(str(self._failure))
            if self._access == stale or self._clock() >= self._renew_at:
                asked_at, self._failure = self._clock(), None
                try:
                    access = self._refresh(self._token)
                except RamError as error:
                    self._failure = error
                    raise
                finally:
                    self._attempts += 1
                lifetime = _lifetime(access)
                self._access, self._renew_at = access, asked_at + max(lifetime - _MARGIN, lifetime / 2)
            return self._access


def _claims(token: str) -> dict[str, Any] | None:
    """What a JWT claims; None where the token is none. Nothing is verified: Label Studio does that."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def _lifetime(access: str) -> float:
    """Seconds that an access token is valid from when it was made: both times are by Label Studio's clock."""
    claims = _claims(access) or {}
    try:
        seconds = float(claims["exp"]) - float(claims["iat"])
    except (KeyError, TypeError, ValueError):
        return _USUAL_LIFETIME
    return seconds if 0 < seconds < 86_400 else _USUAL_LIFETIME


def is_personal(token: str) -> bool:
    """Whether a token is a personal access token, and not a legacy one."""
    return _claims(token) is not None

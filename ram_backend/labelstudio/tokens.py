"""Login at Label Studio: a legacy token, or a personal access token, exchanged for short-lived access tokens.

A personal access token is a JWT of type "refresh": `POST /api/token/refresh/` gives an access token, valid 300 s; once
that is over, Label Studio answers 401 (protocol section 6).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ram_backend.errors import RamError, SettingsError


class Login:
    """The Authorization header for one Label Studio; used by many threads.

    Args:
        token: legacy or personal access token; None or "": there is none.
        refresh: asks Label Studio for an access token, given the personal access token.

    Raises:
        SettingsError: the token has characters that no header can hold.
    """

    def __init__(self, token: str | None, refresh: Callable[[str], str]) -> None:
        token = (token or "").strip()
        if not token.isascii() or not token.isprintable() or " " in token:
            raise SettingsError("Label Studio's token has blanks or odd characters in it: copy it again, all of it.")
        self._token = token
        self._refresh = refresh
        self._lock = threading.Lock()  # held while an access token is fetched: the other threads wait for it
        self._access = ""
        self._attempts = 0  # that have ended
        self._failure: RamError | None = None
        self.is_personal = is_personal(token)

    def __bool__(self) -> bool:
        return bool(self._token)

    def header(self) -> str:
        """Value of the Authorization header."""
        if not self.is_personal:
            return f"Token {self._token}"
        return f"Bearer {self._access or self._renewed(stale='')}"

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
            if self._access == stale:
                self._failure = None
                try:
                    self._access = self._refresh(self._token)
                except RamError as error:
                    self._failure = error
                    raise
                finally:
                    self._attempts += 1
            return self._access


def is_personal(token: str) -> bool:
    """Whether a token is a personal access token (a JWT), and not a legacy one."""
    return token.count(".") == 2

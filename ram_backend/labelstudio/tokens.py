"""Login at Label Studio: a legacy token, or a personal one, exchanged for access tokens.

A personal access token is a JWT of type "refresh": `POST /api/token/refresh/`
gives an access token, valid 300 s; once that is over, Label Studio answers 401
(protocol section 6).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ram_backend.errors import SettingsError


class Login:
    """The Authorization header for one Label Studio; many threads may use it.

    Args:
        token: legacy or personal access token; None or "": there is none.
        refresh: fetches an access token for the personal access token.

    Raises:
        SettingsError: the token has characters that no header can hold.
    """

    def __init__(self, token: str | None, refresh: Callable[[str], str]) -> None:
        token = (token or "").strip()
        if not token.isascii() or not token.isprintable() or " " in token:
            raise SettingsError(
                "Label Studio's token has whitespace or odd characters in it: copy it again, all of it."
            )
        self._token = token
        self._refresh = refresh
        self._lock = threading.Lock()  # of a refresh: threads share its token
        self._access = ""
        self.is_personal = is_personal(token)

    def __bool__(self) -> bool:
        return bool(self._token)

    def header(self) -> str:
        """Value of the Authorization header."""
        if not self.is_personal:
            return f"Token {self._token}"
        return f"Bearer {self._renewed(stale='')}"

    def renew(self, refused: str) -> bool:
        """Gets another access token after a 401 for the header `refused`.

        Returns:
            Whether a second request may succeed.
        """
        if self.is_personal:
            self._renewed(stale=refused.removeprefix("Bearer "))
        return self.is_personal

    def _renewed(self, stale: str) -> str:
        with self._lock:
            if self._access == stale:
                self._access = self._refresh(self._token)
            return self._access


def is_personal(token: str) -> bool:
    """Whether a token is a personal access token (a JWT), and not a legacy one."""
    return token.count(".") == 2

"""A server that takes logins as Label Studio does (protocol section 6)."""

from __future__ import annotations

import base64
import json
import threading
import time

from web import Asked, Reply, Web

LEGACY = "a1" * 20


def jwt(**claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2lnbmF0dXJl"


PERSONAL = jwt(token_type="refresh", exp=2_000_000_000, iat=1_700_000_000)


class Studio(Web):
    """Files need a login; `legacy` and `personal` are the tokens that it takes."""

    def __init__(self, host: str = "127.0.0.1", *, prefix: str = "") -> None:
        super().__init__(host)
        self.url += prefix
        self.prefix = prefix
        self.legacy: str | None = LEGACY
        self.personal: str | None = PERSONAL
        self.access: set[str] = set()
        self.lifetime = 300
        self.refreshed = 0
        self.refresh_seconds = 0.0
        self.lock = threading.Lock()
        self.routes[f"{prefix}/api/token/refresh/"] = self._refresh
        self.file("/api/current-user/whoami", json.dumps({"id": 1, "email": "admin@example.com"}).encode())
        self.routes[f"{prefix}/api/version"] = Reply(body=b'{"release": "1.23.2"}')

    def file(self, path: str, body: bytes | Reply) -> None:
        """Something that needs a login."""
        reply = body if isinstance(body, Reply) else Reply(body=body)
        self.routes[self.prefix + path] = lambda asked: reply if self._knows(asked) else Reply(401, b"{}")

    def _knows(self, asked: Asked) -> bool:
        kind, _, token = asked.headers.get("Authorization", "").partition(" ")
        return token in self.access if kind == "Bearer" else kind == "Token" and token == self.legacy

    def _refresh(self, asked: Asked) -> Reply:
        time.sleep(self.refresh_seconds)
        if asked.method != "POST" or json.loads(asked.body) != {"refresh": self.personal}:
            return Reply(401, b'{"detail": "Token is invalid"}')
        with self.lock:
            self.refreshed += 1
            access = jwt(token_type="access", iat=1000, exp=1000 + self.lifetime, jti=self.refreshed)
            self.access.add(access)
        return Reply(body=json.dumps({"access": access}).encode())

    def revoke_access(self) -> None:
        self.access.clear()

"""Fetchers that may ask only given origins, and names that resolve as a test says."""

import socket
from typing import Any

import pytest

from ram_backend.images.fetch import Fetcher, FetchLimits
from ram_backend.images.guard import Address, AddressGuard

SECRET = "t0p-secret"
QUERY = f"?X-Amz-Signature={SECRET}"


def fetcher(*allowed: str, **limits: Any) -> Fetcher:
    """Allowed are only these origins."""
    guard = AddressGuard(frozenset(Address.of(url).origin for url in allowed))
    return Fetcher(FetchLimits(guard=guard, **limits))


def resolve(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> list[str]:
    """Makes names resolve to the given addresses, one after the other at each look-up; returns what was looked up."""
    real, looked_up = socket.getaddrinfo, []

    def fake(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host not in names:
            return real(host, port, *args, **options)
        looked_up.append(host)
        addresses = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        return [found for one in addresses.split() for found in real(one, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return looked_up

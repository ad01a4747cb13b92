"""A real server on a loopback address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.http_server import HttpServer


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as web:
        yield web

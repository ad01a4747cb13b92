"""The health check of the containers: /ready of the server, the registration of the worker."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ram_backend.settings import load_settings

SCRIPT = Path(__file__).resolve().parent.parent.parent / "docker/healthcheck.py"


def check(*arguments: str, **variables: str) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stderr.strip()


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[str | None]]]:
    """A server that answers /ready so; gives its port, and the logins that it was sent."""
    logins: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            logins.append(self.headers["Authorization"])
            self.send_response(status if self.path == "/ready" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield str(server.server_address[1]), logins
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_that_is_ready() -> None:
    with answering(200, b'{"status": "ready"}') as (port, logins):
        assert check("server", RAM_PORT=port) == (0, "")
        login = {"RAM_BASIC_AUTH_USER": "label-studio", "RAM_BASIC_AUTH_PASS": "secret"}
        assert check(RAM_PORT=port, http_proxy="http://127.0.0.1:1", **login) == (0, "")
    assert logins == [None, "Basic bGFiZWwtc3R1ZGlvOnNlY3JldA=="]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (503, b'{"status": "loading", "error": null}', "the model is loading"),
        (503, b'{"status": "failed", "error": "There is no bundle."}', "There is no bundle."),
        (401, b'{"status": 401, "error": "Basic auth is missing."}', "Basic auth is missing."),
        (200, b"OK", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_a_server_that_is_not_ready(status: int, body: bytes, reason: str) -> None:
    with answering(status, body) as (port, _):
        assert check("server", RAM_PORT=port) == (1, f"server: {reason}")


def test_nobody_there() -> None:
    with answering(200, b"{}") as (port, _):
        pass
    assert check("server", RAM_PORT=port)[0] == 1
    code, said = check("worker", RAM_REDIS_URL=f"redis://127.0.0.1:{port}/0")
    assert code == 1
    assert "ConnectionError" in said


def test_an_unknown_check_is_no_good_news() -> None:
    assert check("wroker") == (1, "wroker: 'wroker' is none of server, worker")


@pytest.mark.service
def test_a_worker_is_healthy_while_it_is_registered(tmp_path: Path) -> None:
    from redis import Redis
    from rq import Worker

    from ram_backend.jobs.valkey import Valkey

    with Valkey(load_settings(data_dir=tmp_path)) as valkey, Redis.from_url(valkey.url) as queue:
        code, said = check("worker", RAM_REDIS_URL=valkey.url)
        assert code == 1
        assert "is registered" in said
        worker = Worker(["any"], connection=queue)
        worker.register_birth()
        assert check("worker", RAM_REDIS_URL=valkey.url) == (0, "")
        worker.register_death()
        assert check("worker", RAM_REDIS_URL=valkey.url)[0] == 1

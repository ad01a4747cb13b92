"""What the containers answer when they are asked whether they are well."""

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
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that gives this answer to everything, at the port that is given."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield str(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_that_is_up() -> None:
    with answering(200, b'{"status": "UP"}') as port:
        assert check("server", RAM_PORT=port) == (0, "")
        assert check(RAM_PORT=port, http_proxy="http://127.0.0.1:1") == (0, "")


@pytest.mark.parametrize(("status", "body"), [(200, b'{"status": "DOWN"}'), (503, b'{"status": "UP"}'), (200, b"OK")])
def test_a_server_that_is_not_well(status: int, body: bytes) -> None:
    with answering(status, body) as port:
        code, said = check("server", RAM_PORT=port)
    assert code == 1
    assert said.startswith("server: ")
    assert "\n" not in said


def test_nobody_there() -> None:
    with answering(200, b"{}") as port:
        pass
    assert check("server", RAM_PORT=port)[0] == 1
    code, said = check("worker", RAM_REDIS_URL=f"redis://127.0.0.1:{port}/0")
    assert code == 1
    assert "ConnectionError" in said


def test_an_unknown_check_is_no_good_news() -> None:
    assert check("wroker") == (1, "wroker: 'wroker' is none of server, worker")


@pytest.mark.service
def test_a_worker_is_well_while_it_is_signed_on(tmp_path: Path) -> None:
    from redis import Redis
    from rq import Worker

    from ram_backend.jobs.valkey import Valkey

    with Valkey(load_settings(data_dir=tmp_path)) as valkey, Redis.from_url(valkey.url) as queue:
        code, said = check("worker", RAM_REDIS_URL=valkey.url)
        assert code == 1
        assert "is signed on" in said
        worker = Worker(["any"], connection=queue)
        worker.register_birth()
        assert check("worker", RAM_REDIS_URL=valkey.url) == (0, "")
        worker.register_death()
        assert check("worker", RAM_REDIS_URL=valkey.url)[0] == 1

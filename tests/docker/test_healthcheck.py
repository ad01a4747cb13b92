"""The health check of the containers: /ready of the server, the registration of the worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis
from rq import Worker
from support.http_server import HttpServer, Reply

from ram_backend.jobs.valkey import Valkey
from ram_backend.settings import load_settings

SCRIPT = Path(__file__).resolve().parent.parent.parent / "docker/healthcheck.py"


def check(*arguments: str, **variables: str) -> tuple[int, str]:
    command, environment = [sys.executable, SCRIPT, *arguments], {**os.environ, **variables}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return run.returncode, run.stderr.strip()


def test_a_server_that_is_ready(web: HttpServer) -> None:
    web.routes["/ready"] = Reply(body=b'{"status": "ready"}')
    assert check("server", RAM_PORT=str(web.port)) == (0, "")
    login = {"RAM_BASIC_AUTH_USER": "label-studio", "RAM_BASIC_AUTH_PASS": "secret"}
    assert check(RAM_PORT=str(web.port), http_proxy="http://127.0.0.1:1", **login) == (0, "")
    logins = [request.headers.get("Authorization") for request in web.requests]
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
def test_a_server_that_is_not_ready(web: HttpServer, status: int, body: bytes, reason: str) -> None:
    web.routes["/ready"] = Reply(status, body)
    assert check("server", RAM_PORT=str(web.port)) == (1, f"server: {reason}")


def test_nobody_there() -> None:
    assert check("server", RAM_PORT="1")[0] == 1
    code, said = check("worker", RAM_REDIS_URL="redis://127.0.0.1:1/0")
    assert code == 1
    assert "ConnectionError" in said


def test_an_unknown_check_is_no_good_news() -> None:
    assert check("wroker") == (1, "wroker: 'wroker' is none of server, worker")


@pytest.mark.service
def test_a_worker_is_healthy_while_it_is_registered(tmp_path: Path) -> None:
    with Valkey(load_settings(data_dir=tmp_path)) as valkey, Redis.from_url(valkey.url) as queue:
        code, said = check("worker", RAM_REDIS_URL=valkey.url)
        assert code == 1
        assert "is registered" in said
        worker = Worker(["any"], connection=queue)
        worker.register_birth()
        assert check("worker", RAM_REDIS_URL=valkey.url) == (0, "")
        worker.register_death()
        assert check("worker", RAM_REDIS_URL=valkey.url)[0] == 1

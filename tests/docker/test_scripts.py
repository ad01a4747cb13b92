"""The scripts: with stand-ins for `docker` and `ip` on the path; the one that makes databases on a real PostgreSQL."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis
from rq import Worker
from support.http_server import HttpServer, Reply

from ram_backend.database.engine import open_database
from ram_backend.database.migrate import upgrade
from ram_backend.jobs.valkey import Valkey
from ram_backend.settings import load_settings

DOCKER = Path(__file__).resolve().parents[2] / "docker"
DATABASES, HEALTHCHECK = DOCKER / "postgres/create-databases.sh", DOCKER / "healthcheck.py"
HEX = "0123456789abcdef"


def run(script: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(["sh", script], env=environment, capture_output=True, text=True, check=False)


def run_with(script: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Runs a script where these programs, given as shell text, come first on the path."""
    folder = script.parent.parent / "bin"
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return run(script, PATH=f"{folder}:{os.environ['PATH']}")


def test_secrets_differ_are_the_owner_s_and_stay(made_env: Path, variables: dict[str, str]) -> None:
    secrets = [value for value in variables.values() if len(value) == 40]
    assert len(set(secrets)) == len(secrets) == 8
    assert made_env.stat().st_mode & 0o077 == 0
    assert ".env" in (made_env.parent / ".gitignore").read_text().splitlines()
    before = made_env.read_text()
    again = run(made_env.parent / "make-env.sh")
    assert (again.returncode, again.stderr) == (1, "docker/.env exists already: it is left as it is.\n")
    assert made_env.read_text() == before


@pytest.mark.parametrize(
    ("routes", "subnet"),
    [
        ("default via 192.0.2.1 dev eth0", "#FRONT_SUBNET=172.28.90.0/24"),
        ("172.28.0.0/16 dev br-1\n172.29.4.0/24 dev br-2", "FRONT_SUBNET=172.30.90.0/24"),
    ],
)
def test_a_network_that_is_taken_is_left_to_others(made_env: Path, routes: str, subnet: str) -> None:
    made_env.unlink()
    assert run_with(made_env.parent / "make-env.sh", ip=f"echo '{routes}'").returncode == 0
    assert subnet in made_env.read_text().splitlines()


def test_old_volumes_keep_their_passwords(made_env: Path) -> None:
    made_env.unlink()
    found = run_with(made_env.parent / "make-env.sh", docker='[ "$*" = "volume inspect ram-backend_postgres" ]')
    assert found.returncode == 0
    assert "put the old docker/.env back" in found.stderr
    made_env.unlink()
    assert run_with(made_env.parent / "make-env.sh", docker="exit 1").stderr == ""


def test_images_are_pinned_by_content(made_env: Path) -> None:
    folder = made_env.parent
    for digest in (HEX * 4, HEX[::-1] * 4):  # the second time other ones
        pinned = run_with(folder / "pin-images.sh", docker=f"echo sha256:{digest}")
        assert pinned.returncode == 0, pinned.stderr
        texts = [(folder / name).read_text() for name in ("compose.yaml", "Dockerfile")]
        assert [text.count(f"@sha256:{digest}\n") for text in texts] == [5, 1]
        assert [text.count("@sha256:") for text in texts] == [5, 1]
    unknown = run_with(folder / "pin-images.sh", docker="echo nothing")
    assert unknown.returncode == 1
    assert "heartexlabs/label-studio:1.23.2: the registry gives no digest" in unknown.stderr


@pytest.mark.service
def test_each_program_gets_a_database_and_no_other(cluster: Any, tmp_path: Path) -> None:
    passwords = {"LABEL_STUDIO_DB_PASSWORD": "one'; DROP ROLE ram; --", "BACKEND_DB_PASSWORD": "two"}
    made = run(DATABASES, PGHOST=str(cluster.folder), POSTGRES_USER="ram", **passwords)
    assert (made.returncode, made.stderr) == (0, "")
    assert run(DATABASES, PGHOST=str(cluster.folder), POSTGRES_USER="nobody").returncode != 0
    with psycopg.connect(cluster.address("postgres")) as connection:
        owners = connection.execute(
            "SELECT datname, pg_get_userbyid(datdba) FROM pg_database WHERE datname IN ('label_studio', 'ram_backend')"
        ).fetchall()
        assert dict(owners) == {"label_studio": "label_studio", "ram_backend": "ram_backend"}
        rights = connection.execute(
            "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole,"
            " has_database_privilege(rolname, 'ram_backend', 'CONNECT'),"
            " has_database_privilege(rolname, 'label_studio', 'CONNECT')"
            " FROM pg_roles WHERE rolname IN ('label_studio', 'ram_backend') ORDER BY rolname"
        ).fetchall()
    assert rights == [
        ("label_studio", False, False, False, False, True),
        ("ram_backend", False, False, False, True, False),
    ]
    url = f"postgresql://ram_backend:two@/ram_backend?host={cluster.folder}"
    upgrade(open_database(load_settings(data_dir=tmp_path, database_url=url)))
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


# The health check: /ready of the server, the registration of the worker


def check(*arguments: str, **variables: str) -> tuple[int, str]:
    command, environment = [sys.executable, HEALTHCHECK, *arguments], {**os.environ, **variables}
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
    assert (code, "ConnectionError" in said) == (1, True)
    assert check("wroker") == (1, "wroker: 'wroker' is none of server, worker")


@pytest.mark.service
def test_a_worker_is_healthy_while_it_is_registered(tmp_path: Path) -> None:
    with Valkey(load_settings(data_dir=tmp_path)) as valkey, Redis.from_url(valkey.url) as queue:
        code, said = check("worker", RAM_REDIS_URL=valkey.url)
        assert (code, "is registered" in said) == (1, True)
        worker = Worker(["any"], connection=queue)
        worker.register_birth()
        assert check("worker", RAM_REDIS_URL=valkey.url) == (0, "")
        worker.register_death()
        assert check("worker", RAM_REDIS_URL=valkey.url)[0] == 1

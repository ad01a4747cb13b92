"""The script that makes the databases, run against a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ram_backend.database.engine import open_database
from ram_backend.database.migrate import upgrade
from ram_backend.settings import load_settings

SCRIPT = Path(__file__).resolve().parent.parent.parent / "docker/postgres/create-databases.sh"


@pytest.mark.service
def test_each_program_gets_a_database_and_no_other(cluster: Any, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PGHOST": str(cluster.folder),
        "POSTGRES_USER": "ram",
        "LABEL_STUDIO_DB_PASSWORD": "one'; DROP ROLE ram; --",
        "BACKEND_DB_PASSWORD": "two",
    }
    made = subprocess.run(["sh", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")
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


@pytest.mark.service
def test_a_failure_is_not_passed_over(cluster: Any) -> None:
    environment = {**os.environ, "PGHOST": str(cluster.folder), "POSTGRES_USER": "nobody"}
    made = subprocess.run(["sh", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert made.returncode != 0

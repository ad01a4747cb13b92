"""Databases to test with: a SQLite file, and a PostgreSQL of our own that is thrown away."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from ram_backend.settings import Settings, load_settings

NO_POSTGRESQL = "no PostgreSQL server on this machine (initdb, postgres): apt-get install postgresql"


class Cluster:
    """A PostgreSQL server on a socket in a folder of its own; root hands it to another user, as it refuses root."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="ram-pg-"))
        self._user: dict[str, object] = {}
        if os.getuid() == 0:
            account = next(user for user in pwd.getpwall() if user.pw_name in {"postgres", "nobody"})
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._server: subprocess.Popen[bytes] | None = None
        self._count = 0
        command = [
            programs / "initdb",
            "-D",
            self.folder / "data",
            "-U",
            "ram",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._user)  # type: ignore[call-overload]

    def start(self) -> None:
        options = ["-k", str(self.folder), "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=8MB"]
        self._server = subprocess.Popen(  # type: ignore[call-overload]
            [self._programs / "postgres", "-D", self.folder / "data", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
            cwd=self.folder,
            **self._user,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.address("postgres")).close()
                return
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-2000:]}")
                time.sleep(0.05)

    def stop(self) -> None:
        if self._server is None:
            return
        self._server.send_signal(signal.SIGINT)  # ends connections, then itself
        try:
            self._server.wait(30)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def address(self, name: str) -> str:
        return f"postgresql://ram@/{name}?host={self.folder}"

    def new_database(self) -> str:
        self._count += 1
        name = f"test_{self._count}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address(name)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    found = shutil.which("initdb")
    places = (
        [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    )
    programs = next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)
    if programs is None:
        pytest.skip(NO_POSTGRESQL)
    made = Cluster(programs)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with an empty database of either kind."""
    if request.param == "sqlite":
        return load_settings(data_dir=tmp_path / "data")
    return load_settings(data_dir=tmp_path / "data", database_url=request.getfixturevalue("cluster").new_database())


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Waits until something is so, and fails where it never is."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail("it never came about")
            time.sleep(0.01)

    return wait

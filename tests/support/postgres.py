"""A PostgreSQL server of our own, thrown away after the tests."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from support.processes import wait_until


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
        options = ["-D", self.folder / "data", "-U", "ram", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run([programs / "initdb", *options], check=True, capture_output=True, cwd=self.folder, **self._user)  # type: ignore[call-overload]

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
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            psycopg.connect(self.address("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, *, for_good: bool = False) -> None:
        """Ends connections, then the server; for good: without putting its files in order."""
        if self._server is None:
            return
        self._server.send_signal(signal.SIGQUIT if for_good else signal.SIGINT)
        self._server.wait(60)
        self._server = None

    def address(self, name: str) -> str:
        return f"postgresql://ram@/{name}?host={self.folder}"

    def new_database(self) -> str:
        self._count += 1
        name = f"test_{self._count}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address(name)


def find_programs() -> Path:
    """Folder of initdb and postgres; skips the test where there is none."""
    places = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    programs = next((place for place in places if (place / "postgres").exists()), None)
    if programs is None:
        pytest.skip("no PostgreSQL server on this machine (initdb, postgres): apt-get install postgresql")
    return programs

"""Several processes with one SQLite file: what one has written, all see, whoever comes and goes."""

import subprocess
import sys
import textwrap
from pathlib import Path

from sqlalchemy import text

from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.settings import load_settings

COUNT = "SELECT count(*) FROM notes"


def elsewhere(folder: Path, statement: str) -> str:
    """Executes a statement in a process that comes and goes."""
    program = """
        import sys
        from pathlib import Path
        from sqlalchemy import text
        from ram_backend.database.engine import open_database
        from ram_backend.settings import load_settings
        database = open_database(load_settings(data_dir=Path(sys.argv[1])))
        with database.writing() as session:
            found = session.execute(text(sys.argv[2]))
            print(found.scalar() if found.returns_rows else "")
        database.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(folder), statement]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write(database: Database) -> None:
    with database.writing() as session:
        session.execute(text("INSERT INTO notes VALUES (1)"))


def test_processes_that_come_and_go_part_nobody_from_the_file(tmp_path: Path) -> None:
    """A process that closes any file handle of its own on a database loses SQLite's locks on it: then the next process
    that goes takes itself for the last one, and removes the log that this one still writes to."""
    database = open_migrated(load_settings(data_dir=tmp_path))
    with database.writing() as session:
        session.execute(text("CREATE TABLE notes (number INTEGER)"))
    with database.reading() as first, database.reading() as second:  # two connections at the same time
        for session in (first, second):
            session.execute(text(COUNT)).scalar_one()
    for round_ in range(1, 4):
        write(database)
        elsewhere(tmp_path, "INSERT INTO notes VALUES (2)")
        assert elsewhere(tmp_path, COUNT) == str(2 * round_)
        with database.reading() as session:
            assert session.execute(text(COUNT)).scalar_one() == 2 * round_
    database.close()

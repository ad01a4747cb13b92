"""Commands as people type them, and the project that they are about."""

import json
from typing import Any

from typer.testing import CliRunner

from ram_backend.cli.main import app
from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import load_settings
from support.label_studio import LEGACY


def run(*arguments: object, status: int = 0) -> str:
    """What a command prints; never a token."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == status, result.output
    assert LEGACY not in result.output
    return result.output


def json_lines(*arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments).splitlines() if line.startswith("{")]


def connect(key: ProjectKey, label_config: str = "<View/>", extra_params: object = None) -> Database:
    """What `/setup` does, in the database of the settings."""
    database = open_migrated(load_settings())
    setup = Setup.read(key, label_config=label_config, access_token=LEGACY, extra_params=extra_params)
    ProjectTable(database).apply(setup)
    return database

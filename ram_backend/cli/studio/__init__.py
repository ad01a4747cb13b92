"""`ram-backend studio`, which is what `make studio` runs: the whole thing at work, with a real Label Studio."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ram_backend.cli.output import notes
from ram_backend.cli.studio.api import StudioApi
from ram_backend.cli.studio.process import ended_by_signals
from ram_backend.cli.studio.servers import (
    Account,
    Server,
    open_account,
    running_backend,
    start_backend,
    start_label_studio,
)
from ram_backend.demo import photo_paths
from ram_backend.errors import InputError, NotAvailable
from ram_backend.settings import Settings, load_settings

TITLE = "RAM demo"
WATCH_S = 1.0


def studio(
    label_studio: Annotated[
        Path, typer.Option(help="Label Studio's command, in a virtual environment of its own (`make studio` makes it).")
    ] = Path(".venv-studio/bin/label-studio"),
    label_config: Annotated[Path, typer.Option(help="Label config of the demo project, when it is made.")] = Path(
        "label_configs/choices_with_confidence.xml"
    ),
    studio_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Label Studio's port, or the next free one.")
    ] = 8080,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The backend's port (default: RAM_PORT, else 9090).")
    ] = None,
) -> None:
    """Start a real Label Studio with a demo project, connect the backend, and fetch predictions for its photos.

    Label Studio's data live in the data folder: starting again goes on where you stopped. Ctrl-C stops all that this
    command has started, and nothing else.
    """
    settings = load_settings(port=port)
    executable = _executable(label_studio)
    config = _text(label_config)
    folder = settings.data_dir / "label-studio"
    with ended_by_signals(), ExitStack() as started:
        with notes.status("Starting Label Studio (its first start takes about a minute)") as status:
            account = open_account(folder)
            labelling = start_label_studio(executable, folder, account, studio_port)
            _stop_later(started, labelling)
            status.update("Starting the backend")
            backend = running_backend(settings.port) or start_backend(
                folder / "backend.log", settings.port, labelling.url, account.token
            )
            _stop_later(started, backend)
            status.update("Connecting the demo project and tagging its photos")
            project, predicted, photos = _fill(StudioApi(labelling.url, account.token), backend.url, config, settings)
        _tell(labelling, backend, account, project, predicted, photos)
        if not predicted:
            log = "what it printed" if backend.service is None else str(backend.service.log)
            notes.print(f"No prediction came: the backend could not read the photos; see {log}.", markup=False)
        _watch(labelling, backend)


def _executable(named: Path) -> Path:
    found = shutil.which(named) or shutil.which("label-studio")
    if found is None:
        raise NotAvailable(f"{named} is not there. `make studio` installs Label Studio and starts this command.")
    return Path(found).absolute()


def _text(label_config: Path) -> str:
    try:
        return label_config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{label_config} can't be read: name a label config with --label-config.") from None


def _stop_later(started: ExitStack, server: Server) -> None:
    if server.service is not None:
        started.callback(server.service.stop)


def _fill(api: StudioApi, backend: str, label_config: str, settings: Settings) -> tuple[int, int, int]:
    """The demo project, made where there is none, with photos and predictions: its number, predicted tasks, tasks."""
    found = api.project(TITLE) or api.create_project(TITLE, label_config)
    project = int(found["id"])
    if not api.tasks(project):
        api.upload(project, photo_paths())
    login = (settings.basic_auth_user, settings.basic_auth_pass or "") if settings.basic_auth_user else None
    api.connect(project, backend, login=login)
    api.retrieve(project)
    tasks = api.tasks(project)
    return project, sum(bool(task["predictions"]) for task in tasks), len(tasks)


def _tell(labelling: Server, backend: Server, account: Account, project: int, predicted: int, photos: int) -> None:
    ran = {True: "", False: "  (ran already, and goes on running)"}
    rows = {
        "Label Studio": f"{labelling.url}{ran[labelling.service is not None]}",
        "  e-mail": account.email,
        "  password": account.password,
        "Backend": f"{backend.url}{ran[backend.service is not None]}",
        "Demo project": f"{labelling.url}/projects/{project}/data  ({predicted} of {photos} photos have predictions)",
    }
    for name, value in rows.items():
        typer.echo(f"{name:14}{value}")
    ours = [server for server in (labelling, backend) if server.service is not None]
    stops = {0: "Ctrl-C ends this command alone", 1: "Ctrl-C stops what was started", 2: "Ctrl-C stops both"}[len(ours)]
    typer.echo(
        "Next: log in there and open the demo project. A click on a photo shows its tags and a confidence each;"
        f' "Label All Tasks" goes through them one by one. Settings > Model shows the backend. {stops}.'
    )


def _watch(*servers: Server) -> None:
    """Waits for Ctrl-C.

    Raises:
        NotAvailable: a server ended by itself.
    """
    try:
        while True:
            for server in servers:
                if server.service is not None:
                    server.service.check()
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        typer.echo("\nStopping.")


__all__ = ["studio"]

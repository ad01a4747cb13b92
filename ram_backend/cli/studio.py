"""`ram-backend studio`, which is what `make studio` runs: a real Label Studio with a demo project and the backend."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ram_backend.cli.connect import XML_FILE
from ram_backend.cli.output import notes, read_text
from ram_backend.cli.servers import (
    Account,
    Server,
    ended_by_signals,
    open_account,
    running_backend,
    start_backend,
    start_label_studio,
)
from ram_backend.demo import photo_paths
from ram_backend.errors import NotAvailable
from ram_backend.labelstudio.client import LabelStudio, open_label_studio
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.provisioning import ConnectOptions, Provisioner
from ram_backend.settings import Settings, load_settings

TITLE = "RAM demo"
WATCH_S = 1.0
UPLOAD = 10
"""Photos of one upload."""


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

    Label Studio's data live in the data folder: starting again goes on where
    you stopped. Ctrl-C stops all that this command has started, and nothing
    else.
    """
    settings = load_settings(port=port)
    executable = shutil.which(label_studio) or shutil.which("label-studio")
    if executable is None:
        raise NotAvailable(f"{label_studio} is not there. `make studio` installs Label Studio and starts this command.")
    config = read_text(label_config, XML_FILE)
    folder = settings.data_dir / "label-studio"
    with ended_by_signals(), ExitStack() as started:
        with notes.status("Starting Label Studio (its first start takes about a minute)") as status:
            account = open_account(folder)
            labelling = start_label_studio(Path(executable).absolute(), folder, account, studio_port)
            started.callback(labelling.stop)
            status.update("Starting the backend")
            backend = running_backend(settings.port) or start_backend(
                folder / "backend.log", settings.port, labelling.url, account.token
            )
            started.callback(backend.stop)
            status.update("Connecting the demo project and tagging its photos")
            client = open_label_studio(settings, labelling.url, account.token)
            project, predicted, photos = _fill(client, backend.url, config, settings)
        _print_addresses(labelling, backend, account, project, f"{predicted} of {photos} photos have predictions")
        if not predicted:
            log = "what it printed" if backend.service is None else str(backend.service.log)
            notes.print(f"No prediction came: the backend could not read the photos; see {log}.", markup=False)
        _watch(labelling, backend)


def _fill(label_studio: LabelStudio, backend: str, label_config: str, settings: Settings) -> tuple[int, int, int]:
    """Makes and connects the demo project: its number, predicted tasks, tasks."""
    projects = label_studio.send_json("GET", "/api/projects/?page_size=1000")["results"]
    project = next((int(each["id"]) for each in reversed(projects) if each["title"] == TITLE), None)
    if project is None:
        body = {"title": TITLE, "label_config": label_config}
        project = int(label_studio.send_json("POST", "/api/projects/", body)["id"])
    api = ProjectApi(label_studio, project)
    tasks = list(api.all_tasks())
    if not tasks:
        photos = photo_paths()
        for start in range(0, len(photos), UPLOAD):
            label_studio.upload(f"/api/projects/{project}/import", photos[start : start + UPLOAD])
        tasks = list(api.all_tasks())
    login, secret = settings.basic_auth(), settings.webhook_headers()
    options = ConnectOptions(backend, login=login, secret=secret, replace_others=True)
    Provisioner(api, options, lambda *_: None).run()
    api.retrieve([task.id for task in tasks])
    return project, sum(bool(task.predictions) for task in api.all_tasks()), len(tasks)


def _print_addresses(labelling: Server, backend: Server, account: Account, project: int, photos: str) -> None:
    ran = "  (ran already, and goes on running)"
    typer.echo(f"Label Studio  {labelling.url}{'' if labelling.service else ran}")
    typer.echo(f"  e-mail      {account.email}")
    typer.echo(f"  password    {account.password}")
    typer.echo(f"Backend       {backend.url}{'' if backend.service else ran}")
    typer.echo(f"Demo project  {labelling.url}/projects/{project}/data  ({photos})")
    ours = sum(server.service is not None for server in (labelling, backend))
    stops = ("Ctrl-C ends this command alone", "Ctrl-C stops what was started", "Ctrl-C stops both")[ours]
    typer.echo(
        "Next: log in there and open the demo project. A click on a photo shows its tags and a confidence each;"
        f' "Label All Tasks" goes through them one by one. Settings > Model shows the backend. {stops}.'
    )


def _watch(*servers: Server) -> None:
    """Waits for Ctrl-C; raises NotAvailable where a server ended by itself."""
    try:
        while True:
            for server in servers:
                if server.service is not None:
                    server.service.check()
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        typer.echo("\nStopping.")

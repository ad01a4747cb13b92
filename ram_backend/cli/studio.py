"""`ram-backend studio` (`make studio`): Label Studio, a demo project, the backend."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ram_backend.cli.connect import XML_FILE
from ram_backend.cli.output import notes, progress, read_text
from ram_backend.cli.servers import Account, Server, ended_by_signals, open_account, start_backend, start_label_studio
from ram_backend.database.migrate import open_migrated
from ram_backend.demo import familiar_first
from ram_backend.errors import InputError, NotAvailable
from ram_backend.images.decode import find_images
from ram_backend.labelstudio.client import LabelStudio, open_label_studio
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.provisioning import ConnectOptions, Provisioner
from ram_backend.projects.keys import instance_of
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings

TITLE = "RAM demo"
WATCH_S = 1.0
UPLOAD = 10
"""Photos of one upload, and of one request for predictions."""


def studio(
    photos: Annotated[
        Path | None, typer.Option(help="Folder of photos for a new project (default: the 18 that ship).")
    ] = None,
    label_studio: Annotated[Path, typer.Option(help="Label Studio's command (`make studio` installs it).")] = Path(
        ".venv-studio/bin/label-studio"
    ),
    label_config: Annotated[Path, typer.Option(help="Label config of the project, when it is made.")] = Path(
        "label_configs/choices_with_confidence.xml"
    ),
    label_studio_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Label Studio's port, or the next free one.")
    ] = 8080,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The backend's port (default: RAM_PORT, else 9090).")
    ] = None,
) -> None:
    """Start a real Label Studio, the backend and a worker, and connect a project of photos with predictions.

    Label Studio's data live in the data folder: starting again continues where
    you stopped. Commands in another terminal, with the same RAM_DATA_DIR, know
    this Label Studio. Ctrl-C stops all that this command has started, and
    nothing else.
    """
    settings = load_settings(port=port)
    executable = shutil.which(label_studio) or shutil.which("label-studio")
    if executable is None:
        raise NotAvailable(f"{label_studio} is not there. `make studio` installs Label Studio and starts this command.")
    config = read_text(label_config, XML_FILE)
    files = familiar_first() if photos is None else find_images([photos])
    title = TITLE if photos is None else f"{TITLE}: {photos.resolve().name}"[:50]
    if not files:
        raise InputError(f"No photos in {photos}: name a folder that holds some.")

    folder = settings.data_dir / "label-studio"
    with ended_by_signals(), ExitStack() as started:
        with progress("Starting Label Studio (its first start takes a minute or two)") as show:
            account = open_account(folder)
            labelling = start_label_studio(Path(executable).absolute(), folder, account, label_studio_port, show)
            started.callback(labelling.stop)
            show("Starting the backend and a worker")
            ProjectTable(open_migrated(settings)).pin_host(instance_of(labelling.url), token=account.token)
            backend = start_backend(
                folder / "backend.log", settings.port, labelling.url, account.token, {"RAM_WORKER": "true"}
            )
            started.callback(backend.stop)
            client = open_label_studio(settings, labelling.url, account.token)
            api = _project(client, title, config, files, show)
            predicted, tasks = _predict(api, backend.url, settings, show)
        photos_done = f"{predicted} of {tasks} photos have predictions"
        _print_addresses(labelling, backend, account, api.project_id, photos_done)
        first = settings.train_after
        more = ", or when you press Start Training."
        if tasks < first:
            bring = "your own folder, of 60 photos or more, is taken by `ram-backend studio --photos DIR`."
            more = f", and the project has {tasks}; {bring}"
        typer.echo(f"Learning: a first version is tried at {first} corrected photos{more}")
        if tasks < len(files):
            typer.echo(f"The folder holds {len(files)} photos: import the new ones in Label Studio, with Import.")
        if not predicted:
            log = folder / "backend.log"
            notes.print(f"No prediction came: the backend could not read the photos; see {log}.", markup=False)
        _watch(labelling, backend)


def _project(
    label_studio: LabelStudio, title: str, label_config: str, photos: Sequence[Path], show: Callable[[str], None]
) -> ProjectApi:
    """The project of that title, made with the photos where there is none."""
    projects = label_studio.send_json("GET", "/api/projects/?page_size=1000")["results"]
    project = next((int(each["id"]) for each in reversed(projects) if each["title"] == title), None)
    if project is None:
        body = {"title": title, "label_config": label_config}
        project = int(label_studio.send_json("POST", "/api/projects/", body)["id"])
    api = ProjectApi(label_studio, project)
    if next(iter(api.all_tasks()), None) is None:
        for start in range(0, len(photos), UPLOAD):
            show(f"Importing photos: {start} of {len(photos)}")
            label_studio.upload(f"/api/projects/{project}/import", photos[start : start + UPLOAD])
    return api


def _predict(api: ProjectApi, backend: str, settings: Settings, show: Callable[[str], None]) -> tuple[int, int]:
    """Connects the project and has its photos tagged: predicted tasks, tasks."""
    login, secret = settings.basic_auth(), settings.webhook_headers()
    options = ConnectOptions(backend, login=login, secret=secret, replace_others=True)
    Provisioner(api, options, lambda *_: None).run()
    tasks = [task.id for task in api.all_tasks()]
    for start in range(0, len(tasks), UPLOAD):
        show(f"Tagging photos: {start} of {len(tasks)}")
        api.retrieve(tasks[start : start + UPLOAD])
    return sum(bool(task.predictions) for task in api.all_tasks()), len(tasks)


def _print_addresses(labelling: Server, backend: Server, account: Account, project: int, photos: str) -> None:
    ran = "" if labelling.service else "  (ran already, and keeps running)"
    typer.echo(f"Label Studio  {labelling.url}{ran}")
    typer.echo(f"  e-mail      {account.email}")
    typer.echo(f"  password    {account.password}")
    typer.echo(f"Backend       {backend.url}")
    typer.echo(f"Project {project:<5} {labelling.url}/projects/{project}/data  ({photos})")
    typer.echo(
        "Next: log in there and open the project. A click on a photo shows its tags and a confidence each;"
        ' "Label All Tasks" goes through them one by one, and Ctrl+Enter submits. What is learned:'
        f" {backend.url}/. Ctrl-C stops what was started here."
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

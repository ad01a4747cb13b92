"""`ram-backend serve` and `worker`: the HTTP server, and the trainer."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Annotated

import typer

from ram_backend.cli.opening import BundleOption, DeviceOption
from ram_backend.cli.output import notes
from ram_backend.errors import BundleDamaged, BundleNotFound
from ram_backend.logs import configure
from ram_backend.settings import load_settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen at (default: RAM_HOST, else 127.0.0.1).")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port (default: RAM_PORT, else 9090); if taken, the next free one."),
    ] = None,
    bundle: BundleOption = None,
    with_worker: Annotated[
        bool | None,
        typer.Option(
            "--with-worker/--without-worker",
            help="Also start a worker, which learns (default: RAM_WORKER, else none).",
        ),
    ] = None,
) -> None:
    """Serve tags to Label Studio. Ctrl-C or SIGTERM: answer what has been asked, then stop."""
    from ram_backend.cli.doctor import check_project
    from ram_backend.console.page import mount
    from ram_backend.server.app import create_app
    from ram_backend.server.middleware import Access
    from ram_backend.server.model import ModelLoader, identify
    from ram_backend.server.uvicorn_runner import bind, prepare, run
    from ram_backend.worker.heartbeat import WorkerSupervisor

    settings = load_settings(host=host, port=port, bundle=bundle, worker=with_worker)
    Access(settings)  # mistakes there are errors before anything takes long
    configure(settings.log_level, settings.log_format)
    listening = bind(settings.host, settings.port)
    identity = None
    with notes.status("Opening the bundle") as status, suppress(BundleNotFound, BundleDamaged):  # it says which
        prepare(settings, status.update)
        identity = identify(settings)
    port_taken = listening.getsockname()[1]
    if settings.port not in (0, port_taken):
        typer.echo(f"Port {settings.port} is taken: using {port_taken} instead.")
    url = url_of(settings.host, port_taken)
    name = identity.bundle.name if identity else settings.bundle
    tags = f"{len(identity.bundle.vocabulary):,} tags" if identity else "which can't be used yet"
    typer.echo(f"ram-backend serves {url} with the bundle {name} ({tags}).")
    login = f", user {settings.basic_auth_user}" if settings.basic_auth_user else ""
    typer.echo(
        f"Next: in Label Studio open a project's Settings > Model > Connect Model, Backend URL {url}{login}."
        f" The admin's page is {url}/. Ctrl-C stops."
    )
    with WorkerSupervisor(settings) if settings.worker else nullcontext():
        app = create_app(settings, model=ModelLoader(settings, identity=identity))
        mount(app, check=check_project)
        run(app, settings, listening)
    typer.echo("Stopped.")


def worker(
    bundle: BundleOption = None,
    device: DeviceOption = None,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End with the process that started this one.", hidden=True)
    ] = False,
) -> None:
    """Learn from corrections, as the server or `ram-backend train` asks for it.

    Server and worker find each other by RAM_DATA_DIR, or on several machines by
    RAM_DATABASE_URL and RAM_REDIS_URL. Any number of workers may run. Ctrl-C or
    SIGTERM: end the job that is being done, then stop; a second one stops at
    once, and the next worker begins the job anew.
    """
    from ram_backend.worker.main import work

    settings = load_settings(bundle=bundle, device=device)
    configure(settings.log_level, settings.log_format)
    typer.echo(f"ram-backend worker waits for jobs (data folder {settings.data_dir}). Ctrl-C stops.")
    work(settings, with_parent=with_parent)
    typer.echo("Worker stopped.")


def url_of(host: str, port: int) -> str:
    """The address of a server on this machine that listens at a host and port."""
    host = "localhost" if host in ("0.0.0.0", "::", "") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"

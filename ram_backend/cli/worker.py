"""`ram-backend worker`: the process that trains."""

from __future__ import annotations

from typing import Annotated

import typer

from ram_backend.settings import load_settings


def worker(
    bundle: Annotated[str | None, typer.Option(help="Name of the bundle (default: RAM_BUNDLE, else starter).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto (default: RAM_DEVICE, else auto).")] = None,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End when the process that started this one has ended.", hidden=True)
    ] = False,
) -> None:
    """Learn from corrections, as the server or `ram-backend train` asks for it.

    Server and worker find each other by RAM_DATA_DIR, or on several machines by RAM_DATABASE_URL and RAM_REDIS_URL. Any
    number of workers may run. Ctrl-C or SIGTERM: end the job that is being done, then stop; a second one stops at once,
    and the next worker begins the job anew.
    """
    from ram_backend.worker.main import configure_logging, work

    settings = load_settings(bundle=bundle, device=device)
    configure_logging(settings.log_level, settings.log_format)
    typer.echo(f"ram-backend worker waits for jobs (data folder {settings.data_dir}). Ctrl-C stops.")
    work(settings, with_parent=with_parent)
    typer.echo("Worker stopped.")

"""`ram-backend serve`: the HTTP server that Label Studio talks to."""

from __future__ import annotations

from typing import Annotated

import typer

from ram_backend.cli.opening import notes
from ram_backend.settings import Settings, load_settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen at (default: RAM_HOST, else 127.0.0.1).")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port (default: RAM_PORT, else 9090); if taken, the next free one."),
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Name of the bundle (default: RAM_BUNDLE, else starter).")] = None,
) -> None:
    """Serve tags to Label Studio. Ctrl-C or SIGTERM: answer what has been asked, then stop."""
    from ram_backend.server import bind, configure_logging, create_app, identify, prepare, run

    settings = load_settings(host=host, port=port, bundle=bundle)
    configure_logging(settings.log_level)
    listening = bind(settings.host, settings.port)
    with notes.status("Opening the bundle") as status:
        prepare(settings, status.update)
        identity = identify(settings)
    app = create_app(settings, identity=identity)
    port_taken = listening.getsockname()[1]
    if settings.port not in (0, port_taken):
        typer.echo(f"Port {settings.port} is taken: using {port_taken} instead.")
    url = f"http://{_shown_host(settings.host)}:{port_taken}"
    vocabulary = len(identity.bundle.vocabulary)
    typer.echo(f"ram-backend serves {url} with the bundle {identity.bundle.name} ({vocabulary:,} tags).")
    typer.echo(_next_step(url, settings))
    run(app, settings, listening)
    typer.echo("Stopped.")


def _shown_host(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _next_step(url: str, settings: Settings) -> str:
    login = f", user {settings.basic_auth_user}" if settings.basic_auth_user else ""
    return (
        f"Next: in Label Studio open a project's Settings > Model > Connect Model, Backend URL {url}{login}."
        f" {url}/docs shows all routes. Ctrl-C stops."
    )

"""The `ram-backend` command."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from ram_backend import __version__
from ram_backend.cli.bundles import app as bundles_app
from ram_backend.cli.connect import connect
from ram_backend.cli.corrections import app as corrections_app
from ram_backend.cli.demo import demo
from ram_backend.cli.doctor import doctor
from ram_backend.cli.jobs import jobs
from ram_backend.cli.prelabel import prelabel
from ram_backend.cli.project import app as project_app
from ram_backend.cli.serve import serve
from ram_backend.cli.studio import studio
from ram_backend.cli.tag import tag
from ram_backend.cli.train import train
from ram_backend.cli.versions import app as versions_app
from ram_backend.cli.vocabulary import app as vocabulary_app
from ram_backend.cli.worker import worker
from ram_backend.errors import RamError

app = typer.Typer(
    name="ram-backend",
    help="Tags photos with the Recognize Anything Model: thousands of tags, and any further one from its text.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(tag)
app.command()(demo)
app.command()(serve)
app.command()(worker)
app.command()(connect)
app.command()(prelabel)
app.command()(train)
app.command()(jobs)
app.command()(studio)
app.command()(doctor)
app.add_typer(bundles_app, name="bundles")
app.add_typer(vocabulary_app, name="vocabulary")
app.add_typer(project_app, name="project")
app.add_typer(corrections_app, name="corrections")
app.add_typer(versions_app, name="versions")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ram-backend {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _asked: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def main() -> None:
    """Runs the command; an error on purpose becomes one line on standard error and exit status 1."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime 1.29 and later report home unless told not to
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' remarks on files that we report on ourselves; python -W shows them
    try:
        app()
    except RamError as error:
        sys.exit(f"ram-backend: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)

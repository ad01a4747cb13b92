"""The `ram-backend` command: its subcommands, and errors as one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

import typer
from typer.core import TyperArgument, TyperOption

from ram_backend import __version__
from ram_backend.cli import bundles, corrections, engine, project, versions, vocabulary
from ram_backend.cli.connect import connect
from ram_backend.cli.corrections import report
from ram_backend.cli.doctor import doctor
from ram_backend.cli.eval import eval_
from ram_backend.cli.finetune import finetune
from ram_backend.cli.jobs import app as schedule
from ram_backend.cli.jobs import jobs, prelabel, train
from ram_backend.cli.label import label
from ram_backend.cli.serve import serve, worker
from ram_backend.cli.studio import studio
from ram_backend.cli.tag import demo, tag
from ram_backend.errors import RamError

_TYPES = {
    "str": "TEXT", "list[str]": "TEXT", "path": "PATH", "list[path]": "PATH", "int": "NUMBER", "float": "NUMBER",
    "bool": "",
}  # fmt: skip

app = typer.Typer(
    name="ram-backend",
    help="Tags photos with the Recognize Anything Model: thousands of tags, and any further one from its text.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for command in (tag, demo, label, serve, worker, connect, prelabel, train, jobs, report, finetune, studio, doctor):
    app.command()(command)
app.command("eval")(eval_)
for room in (bundles, vocabulary, project, corrections, versions, engine):
    app.add_typer(room.app, name=room.__name__.rpartition(".")[2])
app.add_typer(schedule, name="schedule")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ram-backend {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _wanted: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def _name_types() -> None:
    """Help has types in words: NUMBER for `<int range>`, nothing for a flag."""
    for kind in (TyperOption, TyperArgument):
        if original := getattr(kind, "display_type", None):  # not in older releases

            def named(self: object, context: object, original: Callable[..., str] = original) -> str:
                label = str(original(self, context))
                return _TYPES.get(label.strip("<>").removesuffix(" range"), label)

            setattr(kind, "display_type", named)  # noqa: B010


def main() -> None:
    """Runs the command; a RamError becomes one line and exit status 1."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it sends usage data
    _name_types()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' remarks on files: we report, too
    try:
        app()
    except RamError as error:
        sys.exit(f"ram-backend: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C in an import
            sys.exit(130)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)

"""Command line of the build: `python -m starter --data FOLDER --out NEW_FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ram_backend.errors import RamError
from ram_backend.settings import load_settings
from ram_backend.vocabulary.tags import read_names

app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Folder with the labelled photos to learn from.")],
    out: Annotated[Path, typer.Option(help="Folder for the result; files of an earlier result are replaced.")],
    leave_out_set: Annotated[list[str] | None, typer.Option(help="A set not to learn from; may be repeated.")] = None,
    leave_out_tag: Annotated[list[str] | None, typer.Option(help="A tag not to learn; may be repeated.")] = None,
    leave_out_tags: Annotated[Path | None, typer.Option(help="File of tags not to learn, one a line.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps image features for the next build.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: RAM_THREADS, else all).")] = None,
    name: Annotated[str | None, typer.Option(help="Also install the result as a bundle of this name.")] = None,
) -> None:
    """Train the starter's head, probes and calibration from labelled photos."""
    from ram_backend.models.bundle import check_new_name
    from ram_backend.models.starter.install import install_starter
    from starter.build import build_starter

    try:
        settings = load_settings(threads=threads)
        left_out = [*(leave_out_tag or ()), *(read_names(leave_out_tags) if leave_out_tags else ())]
        if name is not None:
            check_new_name(settings.bundles_dir, name)
        build_starter(
            data,
            out,
            leave_out_sets=tuple(leave_out_set or ()),
            leave_out_tags=tuple(left_out),
            seed=seed,
            cache=cache or settings.cache_dir / "starter-features",
            threads=settings.cpu_threads(),
            progress=_say,
        )
        typer.echo(f"The starter's source folder is {out}.")
        if name is not None:
            installed = install_starter(settings.bundles_dir, name=name, source=out, progress=_say)
            typer.echo(f"Bundle {name} is ready at {installed}. Next: ram-backend tag PHOTO --bundle {name}")
    except RamError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None


def _say(text: str) -> None:
    typer.echo(f"{text} ...", err=True)


if __name__ == "__main__":
    app()

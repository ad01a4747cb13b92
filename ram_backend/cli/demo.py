"""`ram-backend demo`: the first thing that a newcomer sees working."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from ram_backend.cli.opening import open_tagger
from ram_backend.cli.output import print_table, shown_tags
from ram_backend.cli.tag import tag_files
from ram_backend.demo import photo_paths
from ram_backend.errors import ImageError
from ram_backend.settings import load_settings


def demo(
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Show tags that score at least this.")] = 0.7,
) -> None:
    """Tag the photos that come with the package, and say what to do next.

    The bundle of RAM_BUNDLE (default: starter) is used; the starter is installed first where it is not there yet.
    """
    settings = load_settings()
    tagger = open_tagger(settings, None)
    rows = []
    for path, outcome in tag_files(tagger, photo_paths(), settings):
        if isinstance(outcome, ImageError):
            raise outcome
        rows.append(shown_tags(path, tagger, outcome[1], top=None, min_score=min_score, all_asked=False))
    title = f"{len(rows)} photos, {len(tagger.tags):,} tags; shown are those that score {min_score:g} or more"
    print_table(rows, title=title, nothing=f"no tag scores {min_score:g}")
    Console(highlight=False, soft_wrap=True).print(
        "Next: tag your own photos with  .venv/bin/ram-backend tag PHOTO_OR_FOLDER   (any text can be a tag:"
        ' --tags "golden retriever,my product name")',
        markup=False,
    )


__all__ = ["demo"]

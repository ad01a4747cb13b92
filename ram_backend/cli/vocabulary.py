"""`ram-backend vocabulary`: look into the label system, and build it."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ram_backend.cli.opening import BundleOption
from ram_backend.cli.output import check_folder_of, written_whole
from ram_backend.cli.output import out as console
from ram_backend.models.store import find_bundle
from ram_backend.settings import load_settings
from ram_backend.vocabulary.label_system import build_label_system, load_label_system

Control = StrEnum("Control", ["taxonomy", "choices"])

app = typer.Typer(help="Look into a bundle's tags, and build the label system of the starter.", no_args_is_help=True)


@app.command()
def find(
    texts: Annotated[list[str], typer.Argument(help='Words, e.g. "dogs" or "T-Shirt".')],
    bundle: BundleOption = None,
) -> None:
    """Say as which tag of a bundle each text is scored; exit status 1 where one is new to it."""
    settings = load_settings(bundle=bundle)
    vocabulary = find_bundle(settings.bundle, settings.bundles_dir).vocabulary
    table = Table("text", "tag", "category", "synonyms", "broader", "threshold", "sources")
    rows = vocabulary.resolve(texts)
    for text, row in zip(texts, rows, strict=True):
        if row is None:
            table.add_row(text, "(new: scored from its text)", "", "", "", "", "")
            continue
        tag = vocabulary[row]
        lists = (", ".join(tag.synonyms), ", ".join(tag.hypernyms), f"{tag.threshold:.2f}", ", ".join(tag.sources))
        table.add_row(text, tag.name, tag.category, *lists)
    console.print(table, soft_wrap=False)
    if None in rows:
        raise typer.Exit(1)


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    sources: Annotated[Path | None, typer.Option(help="Folder of word lists (default: those that ship).")] = None,
    wordnet: Annotated[
        Path | None, typer.Option(help="WordNet 3.0's dictionary files; needed only after the lists have changed.")
    ] = None,
) -> None:
    """Build the universal label system of the starter from its word lists."""
    check_folder_of(out)
    given = {"sources": sources} if sources is not None else {}
    vocabulary = build_label_system(**given, wordnet=wordnet)
    vocabulary.save(out)
    counts = Counter(tag.category for tag in vocabulary)
    typer.echo(f"{out}: {len(vocabulary)} tags, {sum(len(tag.synonyms) for tag in vocabulary)} synonyms")
    typer.echo(", ".join(f"{category} {count}" for category, count in counts.most_common()))


@app.command("label-config")
def label_config(
    control: Annotated[Control, typer.Option(help="Tree by category, or flat list.")] = Control.taxonomy,
    bundle: Annotated[str | None, typer.Option(help="Its tags (default: the starter's).")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write (default: print it).")] = None,
) -> None:
    """Make a label config for Label Studio with all tags, with a confidence each."""
    from ram_backend.labelstudio.config_xml import vocabulary_config

    settings = load_settings()
    vocabulary = load_label_system() if bundle is None else find_bundle(bundle, settings.bundles_dir).vocabulary
    text = vocabulary_config(vocabulary, "choices" if control is Control.choices else "taxonomy")
    if out is None:
        typer.echo(text, nl=False)
        return
    with written_whole(out) as file:
        file.write(text.encode())
    typer.echo(f"{out}: {len(vocabulary)} tags")

"""`ram-backend vocabulary`: look into the label system, and build it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ram_backend.cli.opening import BundleOption, open_project
from ram_backend.cli.output import JsonLines, check_folder_of, print_json, written_whole
from ram_backend.cli.output import out as console
from ram_backend.errors import InputError, listed
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.schema import look_up
from ram_backend.models.registry import find_bundle
from ram_backend.settings import load_settings
from ram_backend.vocabulary.caption_files import Pair, read_captions
from ram_backend.vocabulary.caption_parser import CaptionParser, vocabulary_of_captions
from ram_backend.vocabulary.label_system import SOURCES, build_label_system, load_label_system
from ram_backend.vocabulary.tags import Vocabulary

CaptionsOption = Annotated[
    list[Path] | None, typer.Option(help="File of images and captions; may be given several times.")
]

app = typer.Typer(help="Look into a bundle's tags, and build label systems.", no_args_is_help=True)


@app.command()
def find(
    texts: Annotated[list[str], typer.Argument(help='Words, e.g. "dogs" or "T-Shirt".')],
    bundle: BundleOption = None,
    as_json: JsonLines = False,
) -> None:
    """Show as which tag of a bundle each text is scored; exit status 1 where one is new to it."""
    settings = load_settings(bundle=bundle)
    vocabulary = find_bundle(settings.bundle, settings.bundles_dir).vocabulary
    tags = [None if row is None else vocabulary[row] for row in vocabulary.resolve(texts)]
    if as_json:
        print_json(*({"text": text, "tag": tag and asdict(tag)} for text, tag in zip(texts, tags, strict=True)))
    else:
        table = Table("text", "tag", "category", "synonyms", "broader", "threshold", "sources")
        for text, tag in zip(texts, tags, strict=True):
            if tag is None:
                table.add_row(text, "(new: scored from its text)")
                continue
            synonyms, broader, origins = map(", ".join, (tag.synonyms, tag.hypernyms, tag.sources))
            table.add_row(text, tag.name, tag.category, synonyms, broader, f"{tag.threshold:.2f}", origins)
        console.print(table, soft_wrap=False)
    if None in tags:
        raise typer.Exit(1)


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    sources: Annotated[Path, typer.Option(help="Folder of word lists.", show_default="those that ship")] = SOURCES,
    captions: CaptionsOption = None,
    min_count: Annotated[int, typer.Option(min=1, help="Captions that have to name a tag.")] = 10,
) -> None:
    """Build the universal label system of the starter from its word lists, or a vocabulary from captions.

    With --captions the result holds the tags that at least --min-count captions
    name, synonyms counted together, and nouns as frequent that no tag has.
    """
    check_folder_of(out)
    if captions:
        texts = (text for path in captions for _, pair in read_captions(path) for text in pair)
        vocabulary = vocabulary_of_captions(texts, min_count)
    else:
        vocabulary = build_label_system(sources)
    vocabulary.save(out)
    counts = Counter(tag.category for tag in vocabulary)
    typer.echo(f"{out}: {len(vocabulary)} tags, {sum(len(tag.synonyms) for tag in vocabulary)} synonyms")
    typer.echo(", ".join(f"{category} {count}" for category, count in counts.most_common()))


@app.command()
def parse(
    out: Annotated[Path, typer.Option(help="JSON Lines file to write, one image a line.")],
    captions: Annotated[
        list[Path] | None, typer.Argument(help="Files of images and captions: .jsonl, .csv, .json or .tar.")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Instead of files: the captions of this project's tasks.")] = None,
    field: Annotated[str, typer.Option(help="With --project: where a task's data has its caption.")] = "caption",
    tags: Annotated[Path | None, typer.Option(help="Tags to find, one a line, or a vocabulary file (.json).")] = None,
    bundle: BundleOption = None,
    min_mentions: Annotated[int, typer.Option(min=1, help="Captions of an image that have to name a tag.")] = 1,
) -> None:
    """Turn captions into tags: `file`, `tags`, and `maybe` for those that fewer captions name."""
    check_folder_of(out)
    if bool(captions) == bool(project):
        raise InputError("Give files of images and captions, or a --project whose tasks have captions.")
    pairs = _task_captions(project, field) if project else chain.from_iterable(map(read_captions, captions or ()))
    settings = load_settings(bundle=bundle)
    if tags is None:
        vocabulary = find_bundle(settings.bundle, settings.bundles_dir).vocabulary
    else:
        vocabulary = Vocabulary.load(tags) if tags.suffix == ".json" else Vocabulary.from_files(tags)
    parser, images, said = CaptionParser(vocabulary), 0, 0
    with written_whole(out) as file:
        for image, texts in pairs:
            counts = Counter(name for text in texts for name in parser.parse(text))
            sure = [name for name, count in counts.items() if count >= min_mentions]
            maybe = [name for name in counts if name not in sure]
            entry = {"file": image, "tags": sure, **({"maybe": maybe} if maybe else {})}
            file.write((json.dumps(entry, ensure_ascii=False) + "\n").encode())
            images, said = images + 1, said + len(sure)
    typer.echo(f"{out}: {said} tags of {images} images")


def _task_captions(project: str, field: str) -> list[Pair]:
    """Image and captions of each task that has some."""
    opened = open_project(project)
    (image, *_) = parse_label_config(opened.project.label_config).images.values()
    tasks = list(opened.api.all_tasks())
    found: list[Pair] = []
    for task in tasks:
        if said := look_up(task.data, field):
            captions = said if isinstance(said, list) else [said]
            found.append((str(look_up(task.data, image)), list(map(str, captions))))
    if not found:
        known = listed([key for task in tasks[:1] for key in task.data], 8) or "none"
        raise InputError(f"No task of project {opened.key} has data {field!r}; the first has: {known}. Name a --field.")
    return found


@app.command("label-config")
def label_config(
    bundle: Annotated[str | None, typer.Option(help="Its tags (default: the starter's).")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write (default: print it).")] = None,
) -> None:
    """Make a label config for Label Studio with all tags in a tree by category, with a confidence each."""
    from ram_backend.labelstudio.config_xml import vocabulary_config

    settings = load_settings()
    vocabulary = load_label_system() if bundle is None else find_bundle(bundle, settings.bundles_dir).vocabulary
    text = vocabulary_config(vocabulary)
    if out is None:
        typer.echo(text, nl=False)
        return
    with written_whole(out) as file:
        file.write(text.encode())
    typer.echo(f"{out}: {len(vocabulary)} tags")

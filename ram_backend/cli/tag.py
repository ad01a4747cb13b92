"""`ram-backend tag`: the tags of images, as a table, as JSON lines, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ram_backend.cli.opening import notes, open_tagger
from ram_backend.cli.output import Arrays, Shown, print_json_line, print_table, shown_tags
from ram_backend.errors import ImageError, InputError, VocabularyError
from ram_backend.images.decode import find_images, read_file
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging.image_loader import ImageLoader, LoadedImage
from ram_backend.tagging.tagger import Tagger

PROGRESS_FROM = 20
"""Images from which on a progress bar is worth its line."""


class Format(StrEnum):
    """How tags are printed."""

    table = "table"
    json = "json"


def tag(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders that are searched for images.")],
    bundle: Annotated[str | None, typer.Option(help="Name of the bundle (default: RAM_BUNDLE, else starter).")] = None,
    tags: Annotated[
        str | None, typer.Option(help='Score only these tags, e.g. "dog,red car"; any text can be a tag.')
    ] = None,
    tags_file: Annotated[Path | None, typer.Option(help="The same from a file, one tag a line.")] = None,
    descriptions: Annotated[
        Path | None,
        typer.Option(help="JSON list of {tag: \\[sentence, ...]}: score these tags from their descriptions (RAM++)."),
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show the K best tags, whatever their thresholds.")] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Show tags that score at least this, whatever their thresholds.")
    ] = None,
    format: Annotated[Format, typer.Option(help="A table, or one JSON object a line.")] = Format.table,
    out: Annotated[Path | None, typer.Option(help="Also write all logits and scores to this .npz file.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto (default: RAM_DEVICE, else auto).")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, fp16 or auto (default: RAM_PRECISION).")] = None,
) -> None:
    """Tag images.

    Without --tags all tags of the bundle are scored, and those above their thresholds are shown. With --tags,
    --tags-file or --descriptions each asked tag is shown with its score. Files that can't be read are reported and
    skipped; the exit status is then 1.
    """
    settings = load_settings(bundle=bundle, device=device, precision=precision)
    names = asked_tags(tags, tags_file)
    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: is a folder: name a file in it, such as {out / 'scores.npz'}.")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist: create it first.")
    found = find_images(images)
    if not found:
        raise InputError(
            f"No images in {', '.join(str(path) for path in images)}: name image files, or folders that hold some."
        )
    tagger = open_tagger(settings, names, descriptions)
    rows: list[Shown] = []
    arrays = Arrays(tagger.tags, tagger.thresholds)
    failed = 0
    for path, outcome in tag_files(tagger, found, settings):
        if isinstance(outcome, ImageError):
            failed += 1
            notes.print(f"skipped: {outcome}", markup=False)
            continue
        logits, scores = outcome
        if out is not None:
            arrays.add(path, logits, scores)
        shown = shown_tags(
            path, tagger, scores, top=top, min_score=min_score, all_asked=names is not None or descriptions is not None
        )
        if format is Format.json:
            print_json_line(shown)
        else:
            rows.append(shown)
    if format is Format.table and rows:
        print_table(rows)
    if out is not None:
        try:
            arrays.write(out)
        except OSError as error:
            raise InputError(f"--out {out}: can't be written ({error.strerror}): choose another place.") from None
    if failed:
        notes.print(f"{failed} of {len(found)} files could not be tagged.", markup=False)
        raise typer.Exit(1)


def asked_tags(tags: str | None, tags_file: Path | None) -> list[str] | None:
    """Tags of the two options; None where neither was given.

    Raises:
        VocabularyError: both were given, no tag is in them, or the file is no UTF-8 text.
    """
    if tags is not None and tags_file is not None:
        raise VocabularyError("--tags and --tags-file were both given: use one.")
    if tags is not None:
        names = [name.strip() for name in tags.split(",")]
    elif tags_file is not None:
        try:
            names = [line.strip() for line in tags_file.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise VocabularyError(
                f"{tags_file}: not readable as UTF-8 text ({error}): one tag a line is expected."
            ) from None
    else:
        return None
    names = [name for name in names if name]
    if not names:
        raise VocabularyError(f"No tags in {'--tags' if tags is not None else tags_file}: name at least one.")
    return names


Outcome = ImageError | tuple[np.ndarray, np.ndarray]


def tag_files(tagger: Tagger, paths: Sequence[Path], settings: Settings) -> Iterator[tuple[Path, Outcome]]:
    """Tags files in their order, with a progress bar where they are many.

    Yields:
        The path and either its logits and scores, (L,) float32 each, or why the image can't be tagged.
    """
    columns = (TextColumn("Tagging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=notes, transient=True) if len(paths) >= PROGRESS_FROM else None
    loader = ImageLoader(
        tagger.bundle.preprocessing,
        tagger.network.encoder_id,
        None,  # so that logits are those of unrounded tokens
        max_pixels=settings.max_image_pixels,
        max_bytes=settings.max_image_bytes,
        decoders=settings.cpu_threads(),
    )
    with bar or nullcontext():
        task = bar.add_task("", total=len(paths)) if bar else None
        for batch in _loaded_batches(loader, paths, settings):
            good = [image for _, image in batch if not isinstance(image, ImageError)]
            tokens = loader.encode(tagger.network, good)
            scored = tagger.score(
                np.stack(tokens) if tokens else np.empty((0, *tagger.network.token_shape), np.float32)
            )
            pairs = iter(zip(scored.logits, scored.scores, strict=True))
            for path, image in batch:
                yield path, (image if isinstance(image, ImageError) else next(pairs))
            if bar is not None and task is not None:
                bar.advance(task, len(batch))


def _loaded_batches(
    loader: ImageLoader, paths: Sequence[Path], settings: Settings
) -> Iterator[list[tuple[Path, LoadedImage | ImageError]]]:
    """Decodes one batch ahead of the network, so that both work at the same time."""

    def load(path: Path) -> LoadedImage | ImageError:
        try:
            return loader.load(read_file(path, settings.max_image_bytes, str(path)), name=str(path))
        except ImageError as error:
            return error

    size = settings.batch_size
    with ThreadPoolExecutor(max_workers=settings.cpu_threads(), thread_name_prefix="decode") as pool:

        def submit(start: int) -> list[tuple[Path, Future[LoadedImage | ImageError]]]:
            return [(path, pool.submit(load, path)) for path in paths[start : start + size]]

        ahead = submit(0)
        for start in range(size, len(paths) + size, size):
            current, ahead = ahead, submit(start)
            yield [(path, future.result()) for path, future in current]

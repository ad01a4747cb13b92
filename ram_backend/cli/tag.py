"""`ram-backend tag` and `demo`: the tags of images, as a table, as JSON lines, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ram_backend.cli.opening import BundleOption, DeviceOption, listed_tags, open_tagger
from ram_backend.cli.output import check_folder_of, notes, out, print_json, written_whole
from ram_backend.demo import photo_paths
from ram_backend.errors import ImageError, InputError
from ram_backend.images.decode import find_images, read_file
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging.image_loader import ImageLoader, LoadedImage
from ram_backend.tagging.tagger import Tagger

PROGRESS_FROM = 20
"""Number of images from which on a progress bar is shown."""

Format = StrEnum("Format", ["table", "json"])

Row = tuple[Path, list[tuple[str, float, bool]]]
"""An image and its tags, best first: tag, score, whether it is above its threshold."""


class TaggedImage(NamedTuple):
    """An image with its logits before calibration and its calibrated scores, (L,) float32 each."""

    path: Path
    logits: NDArray[np.float32]
    scores: NDArray[np.float32]


def tag(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders that are searched for images.")],
    bundle: BundleOption = None,
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
    arrays: Annotated[
        Path | None, typer.Option("--out", help="Also write all logits and scores to this .npz file.")
    ] = None,
    device: DeviceOption = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, fp16 or auto (default: RAM_PRECISION).")] = None,
) -> None:
    """Tag images.

    Without --tags all tags of the bundle are scored, and those above their
    thresholds are shown. With --tags, --tags-file or --descriptions each asked
    tag is shown with its score. Files that can't be read are reported and
    skipped; the exit status is then 1.
    """
    settings = load_settings(bundle=bundle, device=device, precision=precision)
    names = listed_tags(tags, tags_file)
    if arrays is not None:
        check_folder_of(arrays)
    found = find_images(images)
    if not found:
        listed = ", ".join(map(str, images))
        raise InputError(f"No images in {listed}: name image files, or folders that hold some.")
    tagger = open_tagger(settings, names, descriptions)
    every = top is not None or names is not None or descriptions is not None
    rows: list[Row] = []
    tagged: list[TaggedImage] = []
    failed = 0
    for image in tag_files(tagger, found, settings):
        if isinstance(image, ImageError):
            failed += 1
            notes.print(f"skipped: {image}", markup=False)
            continue
        if arrays is not None:
            tagged.append(image)
        best = _best(tagger, image.scores, top=top, min_score=min_score, every=every)
        if format is Format.json:
            scored = [{"tag": tag, "score": round(score, 6)} for tag, score, _ in best]
            print_json({"image": str(image.path), "model_version": tagger.model_version, "tags": scored})
        else:
            rows.append((image.path, best))
    if rows:
        _print_table(rows)
    if arrays is not None:
        _write_arrays(arrays, tagger, tagged)
    if failed:
        notes.print(f"{failed} of {len(found)} files could not be tagged.", markup=False)
        raise typer.Exit(1)


def demo(
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Show tags that score at least this.")] = 0.7,
) -> None:
    """Tag the photos that come with the package, and say what to do next.

    The bundle of RAM_BUNDLE (default: starter) is used; the starter is
    installed at its first use.
    """
    settings = load_settings()
    tagger = open_tagger(settings, None)
    rows: list[Row] = []
    for image in tag_files(tagger, photo_paths(), settings):
        if isinstance(image, ImageError):
            raise image
        rows.append((image.path, _best(tagger, image.scores, min_score=min_score)))
    title = f"{len(rows)} photos, {len(tagger.tags):,} tags; shown are those that score {min_score:g} or more"
    _print_table(rows, title=title, empty=f"no tag scores {min_score:g}")
    out.print(
        "Next: tag your own photos with  .venv/bin/ram-backend tag PHOTO_OR_FOLDER   (any text can be a tag:"
        ' --tags "golden retriever,my product name")',
        markup=False,
    )


def tag_files(tagger: Tagger, paths: Sequence[Path], settings: Settings) -> Iterator[TaggedImage | ImageError]:
    """Tags files in their order, or gives the error; many files get a progress bar."""
    columns = (TextColumn("Tagging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    few = len(paths) < PROGRESS_FROM
    loader = ImageLoader(
        tagger.bundle.preprocessing,
        tagger.network.encoder_id,
        None,  # so that logits are those of unrounded tokens
        max_pixels=settings.max_image_pixels,
        max_bytes=settings.max_image_bytes,
        decoders=settings.cpu_threads(),
    )
    with Progress(*columns, console=notes, transient=True, disable=few) as bar:
        task = bar.add_task("", total=len(paths))
        for batch in _loaded_batches(loader, paths, settings):
            good = [image for _, image in batch if not isinstance(image, ImageError)]
            tokens = loader.encode(tagger.network, good)
            nothing = np.empty((0, *tagger.network.token_shape), np.float32)
            scored = tagger.score(np.stack(tokens) if tokens else nothing)
            pairs = zip(scored.logits, scored.scores, strict=True)
            for path, image in batch:
                yield image if isinstance(image, ImageError) else TaggedImage(path, *next(pairs))
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
        batches = [paths[start : start + size] for start in range(0, len(paths), size)]
        ahead = pool.map(load, batches[0])
        for batch, following in zip_longest(batches, batches[1:], fillvalue=()):
            current, ahead = ahead, pool.map(load, following)
            yield list(zip(batch, current, strict=True))


def _best(
    tagger: Tagger,
    scores: NDArray[np.float32],
    *,
    top: int | None = None,
    min_score: float | None = None,
    every: bool = False,
) -> list[tuple[str, float, bool]]:
    """Tags of an image, best first: at least `min_score`, else all, else above their thresholds."""
    on = scores > tagger.thresholds
    chosen = scores >= min_score if min_score is not None else on | every
    order = [place for place in np.argsort(-scores, kind="stable") if chosen[place]][:top]
    return [(tagger.tags[place], float(scores[place]), bool(on[place])) for place in order]


def _print_table(rows: Sequence[Row], *, title: str | None = None, empty: str = "no tag above its threshold") -> None:
    table = Table("image", "tags", title=title, title_justify="left", show_lines=True, expand=False)
    table.columns[0].overflow = "fold"
    for path, tags in rows:
        text = Text() if tags else Text(empty, style="dim")
        for place, (tag, score, on) in enumerate(tags):
            text.append(", " if place else "")
            scored = f"{tag} {score:.2f}" if score >= 0.095 else f"{tag} {score:.3f}"
            text.append(scored if on else f"({scored})", style="bold" if on else "dim")
        table.add_row(path.name, text)
    out.print(table, soft_wrap=False)
    if not all(on for _, tags in rows for _, _, on in tags):
        out.print("In brackets: below the tag's threshold.", style="dim")


def _write_arrays(path: Path, tagger: Tagger, images: Sequence[TaggedImage]) -> None:
    """Writes `images` (N,), `tags` (L,), `logits` and `scores` (N, L) float32 and `thresholds` (L,) float32."""
    shape = (len(images), len(tagger.tags))
    arrays: dict[str, Any] = {
        "images": np.array([str(each.path) for each in images], dtype=np.str_),
        "tags": np.array(tagger.tags, dtype=np.str_),
        "logits": np.array([each.logits for each in images], dtype=np.float32).reshape(shape),
        "scores": np.array([each.scores for each in images], dtype=np.float32).reshape(shape),
        "thresholds": tagger.thresholds,
    }
    with written_whole(path) as file:
        np.savez(file, **arrays)

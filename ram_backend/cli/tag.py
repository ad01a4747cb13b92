"""`ram-backend tag` and `demo`: the tags of images, a line each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from ram_backend.captions.bundle import BundleCaptions
from ram_backend.cli.contact_sheet import ContactSheet
from ram_backend.cli.opening import BundleOption, DeviceOption, listed_tags, open_tagger
from ram_backend.cli.output import JsonLines, notes, out, print_json, printable
from ram_backend.cli.tag_files import SUFFIXES, BoxFile, Record, TagFile, TaggedImage, check_tag_file
from ram_backend.demo import familiar_first
from ram_backend.errors import ImageError, InputError
from ram_backend.images.decode import check_start, decode, find_images
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging.image_loader import open_image_loader
from ram_backend.tagging.tagger import Tagger

PROGRESS_FROM = 20
"""Number of images from which on a progress bar is shown."""

NAME_WIDTH = 32
"""Columns of a terminal for the names of images, at most."""

DEMO_TAGS, IN_BRACKETS = 5, "in brackets: below the tag's threshold"

Best = list[tuple[str, float, bool]]
"""Tags of an image, best first: tag, score, whether it is above its threshold."""


def tag(
    images: Annotated[list[str], typer.Argument(help="Image files, or folders that are searched for images.")],
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
    min_score: Annotated[float | None, typer.Option(min=0, max=1, help="Show tags that score at least this.")] = None,
    caption: Annotated[
        bool, typer.Option("--caption", help="Also write a sentence of each image's tags, or of --tags.")
    ] = False,
    beams: Annotated[int, typer.Option(min=1, max=20, help="Width of the caption's beam search; 1 is greedy.")] = 3,
    max_length: Annotated[
        int, typer.Option(min=5, max=200, help="Most word pieces of a caption, with its prompt's four.")
    ] = 30,
    as_json: JsonLines = False,
    regions: Annotated[
        bool, typer.Option("--regions", help="Also place shown tags: boxes in JSON, --out and --save.")
    ] = False,
    file: Annotated[Path | None, typer.Option("--out", help=f"Also write a file: {', '.join(SUFFIXES)}.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Also write photos with drawn tags, and index.html, to this folder.")
    ] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(help="Also write the regions: coco=FILE.json, yolo=FOLDER or voc=FOLDER; may be repeated."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with --out FILE.jsonl and --save: only new images."),
    ] = False,
    device: DeviceOption = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, fp16 or auto (default: RAM_PRECISION).")] = None,
) -> None:
    """Tag images, a line each as they are done.

    Without --tags all tags of the bundle are scored, and those above their
    thresholds are shown. With --tags, --tags-file or --descriptions each asked
    tag is shown with its score. Files that can't be read are reported and
    skipped; the exit status is then 1. Ctrl-C keeps what is done.
    """
    settings = load_settings(bundle=bundle, device=device, precision=precision)
    names = listed_tags(tags, tags_file)
    if file is not None:
        check_tag_file(file)
    if resume and file is None and save is None:
        raise InputError("--resume goes on with the files of --out or --save: name one of them.")
    if resume and (export or (file is not None and file.suffix.lower() != ".jsonl")):
        raise InputError("--resume goes on with --out FILE.jsonl and --save: other files are written as a whole.")
    found = found_files(images, save)
    paths = [path for path in found if is_there(path, settings)]
    exports = [BoxFile(each, paths, names) for each in export or ()]
    files: list[TagFile | ContactSheet | BoxFile] = []
    done, stopped = 0, False
    try:
        if paths:
            tagger = open_tagger(settings, names, descriptions)
            files += exports
            if file is not None:
                files.append(TagFile(file, tagger, resume=resume))
            if save is not None:
                files.append(ContactSheet(save, tagger, settings, resume=resume))
            had = set.intersection(*(each.images for each in files)) if files else set()
            new = [path for path in paths if printable(str(path)) not in had]
            done = len(paths) - len(new)
            captions = _captions(tagger, settings, beams, max_length) if caption else None
            given = names is not None or descriptions is not None
            shown = Shown(top, min_score, given, as_json, regions or bool(export), captions)
            for record, image in tagged(tagger, new, settings, shown):
                for each in files:
                    each.add(record, image)
                done += 1
    except KeyboardInterrupt:
        stopped = True
    finally:
        for each in files:
            each.close()
    _conclude(done, len(found), files, stopped=stopped)


def _captions(tagger: Tagger, settings: Settings, beams: int, longest: int) -> BundleCaptions:
    captions = BundleCaptions(tagger.bundle, device=settings.device, beams=beams, longest=longest)
    if captions.source == "template":
        notes.print(f"{tagger.bundle.name} has no captioner: lists of tags take its place.", markup=False)
    return captions


class Shown(NamedTuple):
    """Which tags are printed, and how."""

    top: int | None
    min_score: float | None
    given: bool
    as_json: bool
    regions: bool
    captions: BundleCaptions | None


def tagged(
    tagger: Tagger, paths: Sequence[Path], settings: Settings, shown: Shown
) -> Iterator[tuple[Record, TaggedImage]]:
    """Tags files; prints each when the caller has taken it, or why it is skipped."""
    find = region_finder(tagger, settings) if shown.regions else None
    width = max((len(path.name) for path in paths), default=0)
    below = False
    every = shown.given or shown.top is not None
    for image in tag_images(tagger, paths, settings, shown.captions, given=shown.given):
        if isinstance(image, ImageError):
            notes.print(f"skipped: {image}", markup=False)
            continue
        best = _best(tagger, image.scores, top=shown.top, min_score=shown.min_score, every=every)
        tags = [{"tag": name, "score": round(score, 6)} for name, score, _ in best]
        record: dict[str, Any] = {"image": str(image.path), "model_version": tagger.model_version, "tags": tags}
        if find is not None:
            record["regions"] = find(image, best)
        if shown.captions is not None:
            record |= {"caption": image.caption, "caption_source": shown.captions.source}
        yield record, image
        below |= not all(on for _, _, on in best)
        if shown.as_json:
            print_json(record)
        else:
            _print_tags(image.path, best, width)
            if image.caption and shown.captions is not None and shown.captions.source == "model":
                out.print(f"{'':{min(width, NAME_WIDTH)}}  {image.caption}", markup=False, style="italic")
    if below and not shown.as_json:
        notes.print(f"{IN_BRACKETS.capitalize()}.", style="dim")


def _conclude(done: int, images: int, files: Sequence[TagFile | ContactSheet | BoxFile], *, stopped: bool) -> None:
    """Says how many images are tagged; exits with 130 or 1 where not all are."""
    where = ", ".join(str(each.path) for each in files)
    if stopped:
        resume = f"and in {where}; --resume goes on" if files else "with --out FILE.jsonl, --resume goes on from there"
        notes.print(f"\nStopped: {done} of {images} images are tagged, {resume}.", markup=False)
        raise typer.Exit(130)
    if files:
        notes.print(f"{done} images are in {where}.", markup=False)
    if done < images:
        notes.print(f"{images - done} of {images} files could not be tagged.", markup=False)
        raise typer.Exit(1)


def found_files(images: Sequence[str], save: Path | None) -> list[Path]:
    """The image files of `images` and in its folders; none from the folder `save`."""
    if addresses := [name for name in images if re.match(r"https?://", name)]:
        raise InputError(f"{addresses[0]} is an address, and only files are tagged: download it first.")
    found = find_images([Path(name) for name in images])
    if save is not None:
        found = [path for path in found if save.resolve() not in path.resolve().parents]
    if not found:
        raise InputError(f"No images in {', '.join(images)}: name image files, or folders that hold some.")
    return found


def is_there(path: Path, settings: Settings) -> bool:
    """Whether a file can be opened, which is cheap; reports it where not."""
    try:
        check_start(path, settings.max_image_bytes, str(path))
    except ImageError as error:
        notes.print(f"skipped: {error}", markup=False)
        return False
    return True


def demo() -> None:
    """Tag the photos that come with the package, and say what to do next.

    The bundle of RAM_BUNDLE (default: starter) is used; the starter is
    installed at its first use.
    """
    settings = load_settings()
    tagger, paths = open_tagger(settings, None), familiar_first()
    out.print(f"{len(paths)} photos, {len(tagger.tags):,} tags; shown are the best {DEMO_TAGS} of each, {IN_BRACKETS}")
    for image in tag_images(tagger, paths, settings):
        if isinstance(image, ImageError):
            raise image
        _print_tags(image.path, _best(tagger, image.scores, top=DEMO_TAGS, every=True), NAME_WIDTH)
    if tagger.bundle.kind == "starter":
        out.print("The starter is small, and errs. RAM++:  ram-backend bundles pull ram-plus  and RAM_BUNDLE=ram-plus")
    out.print(
        "Next: tag your own photos with  .venv/bin/ram-backend tag PHOTO_OR_FOLDER   (any text can be a tag:"
        ' --tags "golden retriever,my product name")',
        markup=False,
    )


def region_finder(tagger: Tagger, settings: Settings) -> Callable[[TaggedImage, Best], list[dict[str, object]]]:
    """A function that places tags: regions as JSON.

    A segmenter adds `mask`, run lengths. Says what weights are missing. The
    function raises ImageError where the image has gone since it was tagged.
    """
    from ram_backend.regions.finder import RegionFinder
    from ram_backend.regions.segmenter import run_lengths

    finder = RegionFinder(settings.data_dir, device=settings.device)
    if finder.detector is None:
        notes.print("Regions are rough ones, of the tagging network: for better ones run")
        notes.print("  ram-backend bundles pull grounding-dino", markup=False)
    most, longest = settings.max_image_pixels, settings.max_image_bytes

    def find(image: TaggedImage, best: Best) -> list[dict[str, object]]:
        names = [name for name, _, _ in best]
        scores = [score for _, score, _ in best]
        entries = [tagger.subset.entries[tagger.tags.index(name)] for name in names]
        photo = partial(decode, image.path, exif_orientation=True, alpha="white", max_pixels=most, max_bytes=longest)
        found = finder.find(tagger.network, entries, names, scores, image.tokens, lambda: photo()[0])
        return [region.as_json() | ({} if mask is None else {"mask": run_lengths(mask)}) for region, mask in found]

    return find


def tag_images(
    tagger: Tagger,
    paths: Sequence[Path],
    settings: Settings,
    captions: BundleCaptions | None = None,
    *,
    given: bool = False,
) -> Iterator[TaggedImage | ImageError]:
    """Tags files in their order, or gives the error; with a progress bar.

    Captions are of all the tagger's tags where these were given, else of those
    above their thresholds.
    """
    hidden = len(paths) < PROGRESS_FROM or out.is_terminal  # the lines are there
    threads = settings.cpu_threads()
    encoder = tagger.network.encoder_id
    # without a cache, logits are those of unrounded tokens
    loader = open_image_loader(settings, tagger.bundle.preprocessing, encoder, cached=False, decoders=threads)
    with Progress(console=notes, transient=True, disable=hidden) as bar:
        task = bar.add_task("Tagging", total=len(paths))
        for batch in loader.batches(paths, settings.batch_size, threads=threads):
            good = [image for _, image in batch if not isinstance(image, ImageError)]
            encoded = loader.encode(tagger.network, good)
            tokens = np.stack(encoded) if encoded else np.empty((0, *tagger.network.token_shape), np.float32)
            scored = tagger.score(tokens)
            on = (scored.scores > tagger.thresholds) | given
            named = [[tagger.tags[place] for place in np.flatnonzero(row)] for row in on]
            texts = [None] * len(good) if captions is None else captions.write(tokens, named)
            sizes = [image.size for image in good]
            rows = zip(scored.logits, scored.scores, encoded, texts, sizes, strict=True)
            for path, image in batch:
                yield image if isinstance(image, ImageError) else TaggedImage(path, *next(rows))
            bar.advance(task, len(batch))


def _best(
    tagger: Tagger,
    scores: NDArray[np.float32],
    *,
    top: int | None = None,
    min_score: float | None = None,
    every: bool = False,
) -> Best:
    """Tags of an image: at least `min_score`, else all, else above their thresholds."""
    on = scores > tagger.thresholds
    chosen = scores >= min_score if min_score is not None else on | every
    order = [place for place in np.argsort(-scores, kind="stable") if chosen[place]][:top]
    return [(tagger.tags[place], float(scores[place]), bool(on[place])) for place in order]


def _print_tags(path: Path, tags: Best, width: int) -> None:
    """Prints a line; in a terminal, the tags of a long one stay in their column."""
    text = Text() if tags else Text("no tag scores enough", style="dim")
    for place, (tag, score, on) in enumerate(tags):
        text.append(", " if place else "")
        scored = f"{tag} {score:.2f}" if score >= 0.095 else f"{tag} {score:.3f}"
        text.append(scored if on else f"({scored})", style="bold" if on else "dim")
    name = printable(path.name)
    if not out.is_terminal:
        out.print(Text.assemble(name.ljust(min(width, NAME_WIDTH)), "  ", text))
        return
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(min_width=min(width, NAME_WIDTH), max_width=NAME_WIDTH, overflow="fold")
    line.add_row(Text(name), text)
    out.print(line, soft_wrap=False)

"""Concurrent fetching of tasks' images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import unquote
from zlib import crc32

from ram_backend.errors import ImageError, ImageRefused, ImageUnreachable, ImageUnreadable, LabelStudioUnreachable
from ram_backend.images.decode import SUFFIXES
from ram_backend.images.fetch import Fetcher, FetchLimits
from ram_backend.images.guard import LONGEST_URL, redacted
from ram_backend.labelstudio.client import LabelStudio

_UP = re.compile(r"(?:^|[/\\?&=])\.\.(?:$|[/\\?&#])")
_DECODINGS = 3

_CLOUD = ("s3://", "gs://", "azure-blob://")

Outcome = bytes | ImageError | ImageUnreachable
"""An image's bytes; ImageError: unreadable; ImageUnreachable: perhaps later."""


@dataclass(frozen=True)
class ImageReference:
    """A task's number, and what its data has for the image: a text, or anything."""

    task: int
    value: object


class TaskImages:
    """Fetches the images of a project's tasks.

    Args:
        label_studio: of the project; None: nobody has named it yet, and only
            addresses elsewhere work.
        limits: for images elsewhere where there is no Label Studio.
        threads: number of concurrent fetches.
    """

    def __init__(
        self, label_studio: LabelStudio | None, *, limits: FetchLimits | None = None, threads: int = 16
    ) -> None:
        self.label_studio = label_studio
        self._fetcher = label_studio.fetcher if label_studio is not None else Fetcher(limits)
        self._batch = 2 * threads
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="fetch")

    def fetch(self, reference: ImageReference) -> bytes:
        """The bytes of one image.

        Raises:
            ImageError: there is none, and asking again won't help.
            ImageUnreachable: asking again later may help.
            LabelStudioUnreachable: the same, and it is Label Studio that
                doesn't answer or lets us in.
        """
        value = reference.value
        if not isinstance(value, str) or not value.strip():
            raise ImageUnreadable(
                f"Task {reference.task} names no image: expected an address as text. Check the task's data and the"
                " `value` of the Image tag."
            )
        value, studio = value.strip(), self.label_studio
        if value[:5].lower() == "data:":
            return self._fetcher.get(value)
        if len(value) > LONGEST_URL:
            raise ImageRefused(
                f"{redacted(value)}: is longer than {LONGEST_URL:,} characters. Import the image in another way."
            )
        is_path = value.startswith("/") and not value.startswith(("//", "/\\"))
        is_cloud = value.lower().startswith(_CLOUD)
        if studio is None and (is_path or is_cloud):
            raise LabelStudioUnreachable(
                f"{redacted(value)}: is in Label Studio, whose address is not known. Set LABEL_STUDIO_URL."
            )
        if studio is not None and is_cloud:
            return studio.resolve(reference.task, value)
        if studio is not None and (own := studio.own_url(value)) is not None:
            _check_path(value)
            if studio.is_api(own):
                raise ImageRefused(f"{redacted(value)}: is of Label Studio's API, and no image. Check the task's data.")
            return studio.get(own)
        if value.partition(":")[0].lower() in ("http", "https"):
            return self._fetcher.get(value)
        raise ImageRefused(
            f"{redacted(value)}: isn't an address that can be fetched (http, https, data, s3, gs, azure-blob or in"
            " Label Studio). Import the image in another way."
        )

    def fetch_all(self, references: Iterable[ImageReference]) -> Iterator[Outcome]:
        """Images in the order of their references, fetched a batch ahead of the consumer.

        Yields:
            The bytes, an `ImageError`, or an `ImageUnreachable` where another
            host than Label Studio's is down now.

        Raises:
            LabelStudioUnreachable: Label Studio doesn't answer or let us in: no
                other image will fare better.
        """
        waiting = iter(references)
        while batch := list(islice(waiting, self._batch)):
            yield from self._pool.map(self._outcome, batch)

    def save_all(
        self, references: Sequence[ImageReference], folder: Path, failed: Callable[[str], object]
    ) -> list[Path | None]:
        """Files of images in a folder, named by their tasks; `failed` gets the errors.

        Raises:
            LabelStudioUnreachable: as `fetch_all`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        found = list[Path | None]()
        for each, outcome in zip(references, self.fetch_all(references), strict=True):
            if isinstance(outcome, bytes):
                value = str(each.value)
                suffix = Path(value.partition("?")[0]).suffix.lower()
                name = f"{each.task}-{crc32(value.encode()):08x}{suffix if suffix in SUFFIXES else '.jpg'}"
                path = folder / name
                path.write_bytes(outcome)
                found.append(path)
            else:
                failed(f"task {each.task}: {outcome}")
                found.append(None)
        return found

    def close(self) -> None:
        """Ends its threads, after what they do now."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _outcome(self, reference: ImageReference) -> Outcome:
        try:
            return self.fetch(reference)
        except LabelStudioUnreachable:
            raise
        except (ImageError, ImageUnreachable) as error:
            return error


def _check_path(value: str) -> None:
    """Whether a file lies below a folder: no step up, encoded or not, leads out.

    Raises:
        ImageRefused: the path, or that of a local file in the query, has a step
            up.
    """
    path = value
    for _ in range(_DECODINGS):
        if _UP.search(path):
            raise ImageRefused(f"{redacted(value)}: has a step up (..) in its path. Write the path without.")
        path = unquote(path)

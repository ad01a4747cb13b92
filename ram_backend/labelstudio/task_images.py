"""From a task's image reference to the image's bytes, many at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from urllib.parse import unquote

from ram_backend.errors import (
    ImageError,
    ImageRefused,
    ImageUnreachable,
    ImageUnreadable,
    LabelStudioUnreachable,
)
from ram_backend.images.fetch import Fetcher, FetchLimits
from ram_backend.images.guard import LONGEST_URL, AddressGuard, redacted
from ram_backend.labelstudio.client import LabelStudio

_UP = re.compile(r"(?:^|[/\\?&=])\.\.(?:$|[/\\?&#])")
_DECODINGS = 3

_CLOUD = ("s3://", "gs://", "azure-blob://")

Outcome = bytes | ImageError | ImageUnreachable
"""An image's bytes; ImageError: it can never be read; ImageUnreachable: asking again later may help."""


@dataclass(frozen=True)
class ImageReference:
    """An image that a task names.

    Attributes:
        task: number of the task.
        value: what stands in the task's data: it should be a text, but may be anything.
    """

    task: int
    value: object


class TaskImages:
    """Fetches the images of a project's tasks.

    Args:
        label_studio: where the project lives; None: nobody has named it yet, and only addresses elsewhere work.
        limits, guard: for images elsewhere where there is no Label Studio.
        threads: how many images are fetched at a time.
    """

    def __init__(
        self,
        label_studio: LabelStudio | None,
        *,
        limits: FetchLimits | None = None,
        guard: AddressGuard | None = None,
        threads: int = 16,
    ) -> None:
        self.label_studio = label_studio
        self._fetcher = label_studio.fetcher if label_studio is not None else Fetcher(limits, guard)
        self._batch = 2 * threads
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="fetch")

    def fetch(self, reference: ImageReference) -> bytes:
        """The bytes of one image.

        Raises:
            ImageError: there is none, and asking again won't help.
            ImageUnreachable: asking again later may help.
            LabelStudioUnreachable: the same, and it is Label Studio that doesn't answer or lets us in.
        """
        value = reference.value
        if not isinstance(value, str) or not value.strip():
            raise ImageUnreadable(
                f"Task {reference.task} names no image: expected an address as text. Check the task's data and the"
                " `value` of the Image tag."
            )
        value = value.strip()
        own = self._own_url(value)
        if own is not None:
            _check_path(value)
            studio = self._label_studio(value)
            if studio.is_api(own):
                raise ImageRefused(f"{redacted(value)}: is of Label Studio's API, and no image. Check the task's data.")
            return studio.get(own)
        scheme = value.partition(":")[0].lower()
        if value.lower().startswith(_CLOUD):
            return self._label_studio(value).resolve(reference.task, value)
        if scheme in ("http", "https", "data"):
            return self._fetcher.get(value)
        raise ImageRefused(
            f"{redacted(value)}: is no address that can be fetched (http, https, data, s3, gs, azure-blob, or a path in"
            " Label Studio). Import the image in another way."
        )

    def fetch_all(self, references: Iterable[ImageReference]) -> Iterator[Outcome]:
        """Images in the order of their references, fetched in batches a little ahead of the consumer.

        Yields:
            The bytes, an `ImageError`, or an `ImageUnreachable` where another host than Label Studio's is down now.

        Raises:
            LabelStudioUnreachable: Label Studio doesn't answer or let us in: no other image will fare better.
        """
        waiting = iter(references)
        while batch := list(islice(waiting, self._batch)):
            yield from self._pool.map(self._outcome, batch)

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

    def _own_url(self, value: str) -> str | None:
        """Address at Label Studio; a path is always one."""
        if self.label_studio is not None:
            return self.label_studio.own_url(value)
        return value if value.startswith("/") and not value.startswith(("//", "/\\")) else None

    def _label_studio(self, value: str) -> LabelStudio:
        if self.label_studio is None:
            raise LabelStudioUnreachable(
                f"{redacted(value)}: is in Label Studio, whose address is not known. Set LABEL_STUDIO_URL."
            )
        return self.label_studio


def _check_path(value: str) -> None:
    """A file of Label Studio lies below a folder: no step up leads out of it, however often it is encoded.

    Raises:
        ImageRefused: the path, or that of a local file in the query, has a step up, or is longer than any.
    """
    if len(value) > LONGEST_URL:
        raise ImageRefused(
            f"{redacted(value)}: is longer than {LONGEST_URL:,} characters. Import the image in another way."
        )
    path = value
    for _ in range(_DECODINGS):
        if _UP.search(path):
            raise ImageRefused(f"{redacted(value)}: has a step up (..) in its path. Write the path without.")
        path = unquote(path)

"""Tree of the errors that cross rooms.

`InputError` is HTTP 400 unless a class says another status, `NotAvailable` is
503; either is exit status 1. A message says in one line what happened, to what,
and what to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def listed(names: Sequence[Any], most: int, shown: Callable[[Any], str] = str) -> str:
    """Names in a message: at most `most` of them, then the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def first_line(error: BaseException) -> str:
    """A foreign error's first line in a message, at most 160 characters."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0][:160]


class RamError(Exception):
    """Base of all errors that this package raises on purpose."""


class SettingsError(RamError):
    """A setting has a value that can't be used."""


class InputError(RamError):
    """What was handed in can't be used: the same input fails again."""


class ImageError(InputError):
    """One image can't be tagged; the others continue."""


class ImageUnreadable(ImageError):
    """The bytes aren't an image that Pillow can decode, or they end early."""


class ImageTooLarge(ImageError):
    """The image has more bytes or pixels than the limits allow."""


class ImageRefused(ImageError):
    """Images aren't fetched from that address: internal, another scheme, a password."""


class VocabularyError(InputError):
    """A tag list, a threshold file or a description file is malformed."""


class CheckpointError(InputError):
    """A weight file can't become a bundle."""


class ProjectOptionsError(InputError):
    """An admin's setting can't be used; the message says what is allowed."""


class QuotaExceeded(InputError):
    """A quota of `what` is exceeded: "projects", "new_tags" or "events"."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(what, message)
        self.what = what

    def __str__(self) -> str:
        return str(self.args[1])


class ProjectNotFound(InputError):
    """No project of that number (HTTP 404); the message names the known ones."""


class ProjectAmbiguous(InputError):
    """Several projects have that number (HTTP 409); the message names each."""


class VersionNotFound(InputError):
    """A project has no version of that name (HTTP 404); the message lists them."""


class VersionRefused(InputError):
    """A version may not be served: rejected, quarantined, or removed (HTTP 409)."""


class ProjectPinned(InputError):
    """The served version was pinned by hand: nothing is published over it (HTTP 409)."""


class VersionConflict(InputError):
    """Another version is served than was compared, or a number is taken (HTTP 409)."""


class LabelConfigError(InputError):
    """A label config can't be read, or has nothing to tag."""


class LabelStudioRefused(InputError):
    """Label Studio answers a request of ours with HTTP 4xx.

    Attributes:
        status: of the answer; None: it is refused for another reason.
        detail: what the answer says, without the address that was asked.
    """

    def __init__(self, message: str, *, status: int | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class NotAvailable(RamError):
    """Something that has to be there is not; it may be there later."""


class BundleNotFound(NotAvailable):
    """No bundle of that name in the data folder."""


class BundleDamaged(NotAvailable):
    """A bundle directory lacks a file, or a file is not the one that was written."""


class VersionDamaged(NotAvailable):
    """A version lacks a file, was altered, or holds numbers that can't be right."""


class VersionsUnavailable(NotAvailable):
    """The folder of versions can't be written."""


class TextEncoderUnavailable(NotAvailable):
    """A tag outside the vocabulary needs a text encoder, and there is none."""


class DownloadError(NotAvailable):
    """A file could not be fetched."""


class DatabaseUnavailable(NotAvailable):
    """The database can't be reached, written or migrated."""


class JobLost(NotAvailable):
    """The lease of a job is gone: its former holder may publish nothing."""


class ImageUnreachable(NotAvailable):
    """The image's host doesn't answer now: connection, timeout, HTTP 5xx."""


class LabelStudioUnreachable(ImageUnreachable):
    """Label Studio doesn't answer now, or its address is not known."""


class LabelStudioUnauthorized(LabelStudioUnreachable):
    """Label Studio answers, but takes no token that we have."""

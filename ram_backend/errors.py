"""Tree of the errors that cross rooms.

    RamError
    ├── InputError                 what was handed in can't be used (HTTP 4xx, exit status 1 or 2)
    │   ├── ImageError             one image can't be tagged; the others go on
    │   │   ├── ImageUnreadable    not an image, truncated, unsupported
    │   │   ├── ImageTooLarge      more bytes or pixels than the limits allow
    │   │   └── ImageRefused       its address is none that images may be fetched from
    │   ├── VocabularyError        a tag list, a threshold or description file is malformed
    │   ├── CheckpointError        an official weight file can't become a bundle
    │   ├── ProjectOptionsError    an admin's setting for a project can't be used (HTTP 400)
    │   ├── ProjectNotFound        no project of that number (HTTP 404)
    │   ├── ProjectAmbiguous       several projects have that number (HTTP 409)
    │   ├── VersionNotFound        a project has no version of that name (HTTP 404)
    │   ├── VersionRefused         that version may not be served: rejected by the gate, damaged, removed (HTTP 409)
    │   ├── ProjectPinned          what the project is served was pinned by hand (HTTP 409)
    │   ├── VersionConflict        another version is served than the one it was compared with (HTTP 409)
    │   ├── LabelConfigError       a label config can't be read, or has nothing to tag (HTTP 400)
    │   ├── LabelStudioRefused     Label Studio answers that it won't: no such project, a wrong value (HTTP 400)
    │   └── RequestError           a request's body is not what Label Studio sends (HTTP 400)
    ├── NotAvailable               something that has to be there is not (HTTP 503, exit status 1)
    │   ├── BundleNotFound         no bundle of that name
    │   ├── BundleDamaged          a bundle directory lacks a file or a checksum differs
    │   ├── VersionDamaged         a project's version lacks a file, differs from what was written, or can't be right
    │   ├── TextEncoderUnavailable new tags need a text encoder, and there is none at hand
    │   ├── DownloadError          a file could not be fetched
    │   ├── DatabaseUnavailable    the database can't be reached, written or migrated
    │   ├── VersionsUnavailable    the folder of versions can't be written
    │   ├── ValkeyUnavailable      the queue of jobs can't be reached or started
    │   ├── JobLost                the claim on a job has passed to another worker
    │   ├── PredictionsLate        a request's predictions are not done within the time that its caller waits
    │   └── ImageUnreachable       where the image is doesn't answer now; asking again later may help
    │       └── LabelStudioUnreachable      that is Label Studio, or its address is not known
    │           └── LabelStudioUnauthorized  it answers, but takes no token that we have
    └── SettingsError              a setting has a value that can't be used

A message says what happened, to what, and what to do next, in one line: it is shown to people as it is.
"""

from __future__ import annotations


class RamError(Exception):
    """Base of all errors that this package raises on purpose."""


class InputError(RamError):
    """What was handed in can't be used; asking again with the same input fails again."""


class ImageError(InputError):
    """One image can't be tagged."""


class ImageUnreadable(ImageError):
    """The bytes are no image that Pillow can decode, or they end early."""


class ImageTooLarge(ImageError):
    """The image has more bytes or pixels than the limits allow."""


class VocabularyError(InputError):
    """A tag list, a threshold file or a description file is malformed."""


class CheckpointError(InputError):
    """A weight file can't become a bundle; the message names the key or the file."""


class NotAvailable(RamError):
    """Something that has to be there is not; it may be there later."""


class BundleNotFound(NotAvailable):
    """No bundle of that name in the data folder."""


class BundleDamaged(NotAvailable):
    """A bundle directory lacks a file, or a file is not the one that was written."""


class VersionDamaged(NotAvailable):
    """A project's version lacks a file, is not the one that was written, or holds numbers that can't be right."""


class TextEncoderUnavailable(NotAvailable):
    """A tag outside the vocabulary needs a text encoder, and there is none at hand."""


class DownloadError(NotAvailable):
    """A file could not be fetched."""


class SettingsError(RamError):
    """A setting has a value that can't be used."""


class ProjectOptionsError(InputError):
    """An admin's setting for a project can't be used; the message names the key, the value and what is allowed."""


class ProjectNotFound(InputError):
    """No project of that number; the message names those that there are."""


class ProjectAmbiguous(InputError):
    """Several projects have that number; the message names each so that it can be told apart."""


class VersionNotFound(InputError):
    """A project has no version of that name; the message names those that there are."""


class VersionRefused(InputError):
    """A version may not be served: the gate didn't accept it, it is quarantined, or its directory was removed."""


class ProjectPinned(InputError):
    """What a project is served was pinned by hand: nothing is published over it until it is unpinned."""


class VersionConflict(InputError):
    """What is served has changed since it was compared with, or a version's number is taken: look again."""


class VersionsUnavailable(NotAvailable):
    """The folder of versions can't be written."""


class DatabaseUnavailable(NotAvailable):
    """The database can't be reached, written or migrated."""


class ImageRefused(ImageError):
    """The image's address is none that images may be fetched from: internal, another scheme, with a password in it."""


class ImageUnreachable(NotAvailable):
    """Where the image is doesn't answer now: connection, timeout, HTTP 5xx. It may be there later."""


class ValkeyUnavailable(NotAvailable):
    """The queue of jobs can't be reached, or the embedded one can't be started. Jobs wait in the database meanwhile."""


class JobLost(NotAvailable):
    """The claim on a job has passed to another worker, or has ended: whoever held it may publish nothing."""


class PredictionsLate(NotAvailable):
    """The predictions of a request are not done within the time that its caller waits; what is done is remembered."""


class LabelStudioUnreachable(ImageUnreachable):
    """Label Studio doesn't answer now, or its address is not known."""


class LabelStudioUnauthorized(LabelStudioUnreachable):
    """Label Studio answers, but takes no token that we have."""


class LabelStudioRefused(InputError):
    """Label Studio answers a request of ours with HTTP 4xx: there is no such thing, or it doesn't take the value.

    Attributes:
        status: of the answer; None: it is refused for another reason.
        detail: what the answer says, without the address that was asked.
    """

    def __init__(self, message: str, *, status: int | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class LabelConfigError(InputError):
    """A project's label config can't be read or has nothing to tag; the message says what to change."""


class RequestError(InputError):
    """The body of a request is not what Label Studio sends; the message names the field, never its value."""

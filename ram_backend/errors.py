"""Every error that crosses a room, drawn once.

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
    │   ├── LabelConfigError       a label config can't be read, or has nothing to tag (HTTP 400)
    │   └── RequestError           a request's body is not what Label Studio sends (HTTP 400)
    ├── NotAvailable               something that has to be there is not (HTTP 503, exit status 1)
    │   ├── BundleNotFound         no bundle of that name
    │   ├── BundleDamaged          a bundle directory lacks a file or a checksum differs
    │   ├── TextEncoderUnavailable new tags need a text encoder, and there is none at hand
    │   ├── DownloadError          a file could not be fetched
    │   ├── DatabaseUnavailable    the database can't be reached, written or migrated
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


class DatabaseUnavailable(NotAvailable):
    """The database can't be reached, written or migrated."""


class ImageRefused(ImageError):
    """The image's address is none that images may be fetched from: internal, another scheme, with a password in it."""


class ImageUnreachable(NotAvailable):
    """Where the image is doesn't answer now: connection, timeout, HTTP 5xx. It may be there later."""


class LabelStudioUnreachable(ImageUnreachable):
    """Label Studio doesn't answer now, or its address is not known."""


class LabelStudioUnauthorized(LabelStudioUnreachable):
    """Label Studio answers, but takes no token that we have."""


class LabelConfigError(InputError):
    """A project's label config can't be read or has nothing to tag; the message says what to change."""


class RequestError(InputError):
    """The body of a request is not what Label Studio sends; the message names the field, never its value."""

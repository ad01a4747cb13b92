"""Reading a version's directory without trusting it: every byte that is used was checked first."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ram_backend.errors import VersionDamaged
from ram_backend.models.delta import Delta

MAX_MANIFEST_BYTES = 64_000_000
CHECKSUM = "checksum"


def canonical(value: object) -> str:
    """The one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest, with a checksum of all the rest.

    Raises:
        VersionDamaged: there is something in it that JSON doesn't have, such as NaN.
    """
    try:
        checksum = _checksum(manifest)
        return json.dumps({**manifest, CHECKSUM: checksum}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        message = f"A version's lineage or verdict holds what JSON can't say ({error}): leave it out."
        raise VersionDamaged(message) from None


class Folder:
    """A version's directory while it is read.

    Args:
        path: the directory.

    Raises:
        VersionDamaged: it is not there, or it or the project's folder is a link.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if os.path.islink(path) or os.path.islink(path.parent):  # noqa: PTH114 - says no where it may not look
            raise self.damaged("is a link to somewhere else")
        if not os.path.isdir(path):  # noqa: PTH112
            raise self.damaged("is missing")

    def damaged(self, what: str) -> VersionDamaged:
        """The error that says what is wrong with this directory."""
        return VersionDamaged(
            f"Version {self.path.name} in {self.path.parent} {what}: it isn't served. Restore that directory, roll back"
            " to another version, or train again."
        )

    def manifest(self, name: str, format_number: int) -> dict[str, Any]:
        """The manifest, its own checksum checked.

        Raises:
            VersionDamaged: it is missing, unreadable, of another format or altered.
        """
        try:
            manifest = json.loads(self._bytes(name, MAX_MANIFEST_BYTES))
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"has an unreadable {name} ({type(error).__name__})") from None
        if not isinstance(manifest, dict):
            raise self.damaged(f"has an unreadable {name} (no object)")
        if manifest.get("format") != format_number:
            shown = repr(manifest.get("format"))[:40]
            raise self.damaged(f"has format {shown}, and this version of ram-backend reads {format_number}")
        try:
            intact = manifest.pop(CHECKSUM, None) == _checksum(manifest)
        except (ValueError, RecursionError):
            intact = False
        if not intact:
            raise self.damaged(f"has a {name} that was altered (its checksum differs)")
        return manifest

    def read(self, name: str, entry: Mapping[str, Any]) -> bytes:
        """A file's bytes.

        Args:
            name: in the directory.
            entry: its "bytes" and "sha256" as written.

        Raises:
            VersionDamaged: it is missing, no plain file, or not the one that was written.
        """
        data = self._bytes(name, None, entry["bytes"])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise self.damaged(f"has a corrupted {name} (its checksum differs)")
        return data

    def delta(self, data: bytes, tags: Any) -> Delta:
        """The delta in a file.

        Raises:
            VersionDamaged: it can't be read, its shapes don't fit, or a number in it can't be.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(data)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise self.damaged(f"has an unreadable delta ({error})") from None
        if not isinstance(tags, list):
            raise self.damaged("names no tags")
        try:
            return Delta.from_tensors(tags, tensors)
        except VersionDamaged as error:
            what = str(error).partition(":")[0].removeprefix("A version's delta ")
            raise self.damaged(f"has a delta that {what}") from None

    def _bytes(self, name: str, limit: int | None, size: int | None = None) -> bytes:
        """All of a plain file; `size` is what it must have, `limit` what it may have at most."""
        try:
            flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            descriptor = os.open(self.path / name, flags)
        except FileNotFoundError:
            raise self.damaged(f"lacks {name}") from None
        except OSError as error:
            raise self.damaged(f"has a {name} that can't be opened ({error.strerror})") from None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self.damaged(f"has a {name} that is no plain file")
            if size is not None and status.st_size != size:
                raise self.damaged(f"has a {name} of {status.st_size} bytes instead of {size}")
            if limit is not None and status.st_size > limit:
                raise self.damaged(f"has a {name} of {status.st_size} bytes, too large to be right")
            try:
                return file.read()
            except OSError as error:
                raise self.damaged(f"has a {name} that can't be read ({error.strerror})") from None


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(manifest).encode()).hexdigest()

"""Version directories: written once, whole or not at all; opened only where every byte is the one that was written.

    VERSIONS/                          the settings' `versions_dir`
        7.1795452148-3f1c0a9b2d4e/     a project: number, creation time, digest of its Label Studio's address
            v0001/
                manifest.json          project, name, bundle, digest, tags, lineage, verdict, checksums
                delta.safetensors      see `models.delta`
                ...                    what else its recipe needs

A process that is killed while it writes leaves a `.partial` directory, which the next writer removes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ram_backend.errors import VersionDamaged, VersionsUnavailable
from ram_backend.models.bundle import Bundle
from ram_backend.models.delta import Delta
from ram_backend.projects.keys import ProjectKey
from ram_backend.versions.lineage import Lineage
from ram_backend.versions.names import folder_of, name_of, number_of
from ram_backend.versions.reading import Folder, canonical, manifest_text

FORMAT = 1
MANIFEST = "manifest.json"
DELTA = "delta.safetensors"
ACCEPTED = "accept"
"""The only outcome of the gate with which a version may be served."""

WAIT_S = 60.0
"""How long one writer waits for another one of the same project."""

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LOCK = ".lock"
_PARTIAL = ".partial"


@dataclass(frozen=True)
class StoredVersion:
    """A version that was written.

    Attributes:
        key: whose it is.
        name: "v0001", "v0002", ... in the order of writing.
        number: the same as a number.
        path: its directory.
        digest: 64 hex digits: names the behaviour of bundle and version together.
        bundle_digest: of the bundle that it belongs to.
        lineage: where it comes from.
        verdict: of the gate; `verdict["outcome"]` is "accept", "reject" or "needs_data".
    """

    key: ProjectKey
    name: str
    number: int
    path: Path
    digest: str
    bundle_digest: str
    lineage: Lineage
    verdict: Mapping[str, Any]

    @property
    def outcome(self) -> str:
        """What the gate said."""
        return str(self.verdict["outcome"])


@dataclass(frozen=True)
class Version(StoredVersion):
    """A version in memory, every byte of it checked.

    Attributes:
        delta: what it changes about the bundle's tags.
        files: what else its recipe needs, by name.
    """

    delta: Delta = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)


def write_version(
    versions_dir: Path,
    key: ProjectKey,
    delta: Delta,
    files: Mapping[str, bytes],
    lineage: Lineage,
    verdict: Mapping[str, Any],
    *,
    first_number: int = 1,
) -> StoredVersion:
    """Writes a version, whole or not at all; when it returns, it is on disk for good.

    Args:
        versions_dir: made where it is not there.
        key: whose it is.
        delta: what it changes.
        files: what else its recipe needs, by name; names of letters, digits, dots, dashes and underscores.
        lineage: where it comes from; names the bundle.
        verdict: an object of JSON, with "outcome".
        first_number: the version's number is at least this (see `VersionTable.next_number`).

    Raises:
        VersionsUnavailable: the folder can't be written, or another process has been writing there for long.
        VersionDamaged: a file's name can't be used.
    """
    wrong = next((name for name in files if not _FILE.fullmatch(name) or name in (MANIFEST, DELTA)), None)
    if wrong is not None:
        raise VersionDamaged(f"A version can't have a file named {wrong!r}: use letters, digits, dots and dashes.")
    from safetensors.numpy import save

    contents = {DELTA: save(delta.to_tensors()), **files}
    listed = {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in sorted(contents.items())}
    digest = _digest(lineage.bundle_digest, delta.tags, listed)
    manifest = {
        "format": FORMAT,
        "project": {"instance": key.instance, "id": key.id, "created": key.created},
        "digest": digest,
        "tags": list(delta.tags),
        "lineage": lineage.to_json(),
        "verdict": dict(verdict),
        "files": listed,
    }
    folder = versions_dir / folder_of(key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / _LOCK, timeout=WAIT_S):
            number = _place(folder, contents, manifest, first_number)
    except Timeout:
        message = f"Another process has been writing to {folder} for {WAIT_S:.0f} s: look at it, or stop it."
        raise VersionsUnavailable(message) from None
    except OSError as error:
        remedy = "see that it is a folder that you may write to, with space left"
        raise VersionsUnavailable(f"A version can't be written to {folder} ({error}): {remedy}.") from error
    name = name_of(number)
    return StoredVersion(key, name, number, folder / name, digest, lineage.bundle_digest, lineage, dict(verdict))


def open_version(
    path: Path,
    bundle: Bundle | None,
    *,
    key: ProjectKey | None = None,
    digest: str | None = None,
    width: int | None = None,
) -> Version:
    """Reads a version and checks all of it, against the bytes that it returns.

    Args:
        path: its directory.
        bundle: that it has to belong to; None: any.
        key: of the project that it has to belong to; None: the one that its folder is named after.
        digest: that it has to have, as the database knows it; None: the one that it names itself.
        width: features of an image, as its network makes them; None: not known.

    Raises:
        VersionDamaged: a file is missing, a link, truncated or another one than was written; it is of another format,
            project, name, bundle or digest; a number in it can't be. The message says which.
    """
    folder = Folder(path)
    manifest, lineage = _manifest(folder, key)
    if digest is not None and manifest["digest"] != digest:
        raise folder.damaged("is another version than the one that was recorded under this name")
    if bundle is not None and lineage.bundle_digest != bundle.digest:
        raise folder.damaged(
            f"belongs to another bundle ({lineage.bundle!r}, digest {lineage.bundle_digest[:12]}) than the one in use"
            f" ({bundle.name!r}, digest {bundle.digest[:12]})"
        )
    contents = {name: folder.read(name, entry) for name, entry in manifest["files"].items()}
    delta = folder.delta(contents.pop(DELTA), manifest["tags"])
    if width is not None and delta.width != width:
        raise folder.damaged(f"is for images with {delta.width} features, the bundle's have {width}")
    project = manifest["project"]
    return Version(
        key=ProjectKey(project["instance"], project["id"], project["created"]),
        name=path.name,
        number=int(path.name[1:]),
        path=path,
        digest=manifest["digest"],
        bundle_digest=lineage.bundle_digest,
        lineage=lineage,
        verdict=manifest["verdict"],
        delta=delta,
        files=contents,
    )


def remove_version(versions_dir: Path, key: ProjectKey, name: str) -> None:
    """Removes a version's directory; first it loses its name, so that nobody finds half of it.

    Raises:
        VersionsUnavailable: it can't be removed.
    """
    folder = versions_dir / folder_of(key)
    try:
        with FileLock(folder / _LOCK, timeout=WAIT_S):
            gone = folder / f".{name}{_PARTIAL}"
            if (folder / name).is_symlink():
                (folder / name).unlink()
            elif (folder / name).exists():
                shutil.rmtree(gone, ignore_errors=True)
                (folder / name).rename(gone)
                shutil.rmtree(gone)
    except (OSError, Timeout) as error:
        raise VersionsUnavailable(f"{folder / name} can't be removed ({error}): remove it by hand.") from error


def _place(folder: Path, contents: Mapping[str, bytes], manifest: dict[str, Any], first_number: int) -> int:
    """Writes the directory under the next free number; the folder's lock is held."""
    for left in folder.glob(f".*{_PARTIAL}"):
        shutil.rmtree(left, ignore_errors=True)  # its writer was killed: a living one holds the lock
    taken = [number for path in folder.iterdir() if (number := number_of(path.name)) is not None]
    number = max([first_number, *(each + 1 for each in taken)])
    partial = folder / f".{name_of(number)}{_PARTIAL}"
    partial.mkdir()
    try:
        text = manifest_text({"name": name_of(number), **manifest})
        for name, data in {**contents, MANIFEST: text.encode()}.items():
            with (partial / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(partial)
        partial.rename(folder / name_of(number))
        _sync(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return number


def _manifest(folder: Folder, key: ProjectKey | None) -> tuple[dict[str, Any], Lineage]:
    """The manifest, checked as far as it can be without the other files."""
    manifest = folder.manifest(MANIFEST, FORMAT)
    try:
        project = manifest["project"]
        owner = ProjectKey(project["instance"], project["id"], project["created"])
        files = {str(name): (entry["sha256"], entry["bytes"]) for name, entry in manifest["files"].items()}
        tags, name, digest = manifest["tags"], manifest["name"], manifest["digest"]
        outcome = manifest["verdict"]["outcome"]
        lineage = Lineage.from_json(manifest["lineage"])
        placed = folder_of(owner)
        expected = _digest(lineage.bundle_digest, tags, manifest["files"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise folder.damaged(f"has a {MANIFEST} that lacks or garbles {error}") from None
    if not isinstance(outcome, str) or DELTA not in files or not all(_FILE.fullmatch(each) for each in files):
        raise folder.damaged(f"has a {MANIFEST} that can't be right")
    if owner != (owner if key is None else key) or placed != folder.path.parent.name:
        raise folder.damaged(f"belongs to another project ({owner})")
    if name != folder.path.name or number_of(name) is None:
        raise folder.damaged(f"was written as {name!r}, and stands under another name")
    if digest != expected:
        raise folder.damaged("has another digest than its files")
    return manifest, lineage


def _digest(bundle_digest: str, tags: Any, files: Mapping[str, Mapping[str, Any]]) -> str:
    sums = {name: entry["sha256"] for name, entry in files.items()}
    return _sha256(canonical({"format": FORMAT, "bundle": bundle_digest, "tags": list(tags), "files": sums}).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync(folder: Path) -> None:
    """Makes what was named in a folder last; a no-op where folders can't be opened (Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Version directories: safetensors and a manifest with checksums, written once.

    VERSIONS/                          the settings' `versions_dir`
        7.1795452148-3f1c0a9b2d4e/     a project: number, creation time, digest of its address
            v0001/
                manifest.json          project, name, bundle, digest, tags, lineage, verdict, sums
                delta.safetensors      see `models.delta`
                ...                    further files of its trainer

A process that is killed while it writes leaves a `.partial` directory, which
the next writer removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ram_backend.errors import VersionDamaged, VersionsUnavailable
from ram_backend.models.bundle import Bundle, flush, new_directory
from ram_backend.models.delta import Delta
from ram_backend.projects.keys import ProjectKey
from ram_backend.versions.records import Lineage, name_of, number_of

FORMAT = 1
MANIFEST = "manifest.json"
DELTA = "delta.safetensors"
WAIT_S = 60.0
"""How long a writer waits for another writer of the same project."""

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LOCK = ".lock"
_PARTIAL = ".partial"
_CHECKSUM = "checksum"


@dataclass(frozen=True)
class Version:
    """A version in memory, as it was written or with every byte of it verified.

    Attributes:
        name: "v0001", "v0002", ... in the order of writing.
        digest: 64 hex digits: names the behaviour of bundle and version
            together.
        verdict: of the gate; `verdict["outcome"]` is "accept", "reject" or
            "needs_data".
        files: further files of its trainer, by name.
    """

    key: ProjectKey
    name: str
    path: Path
    digest: str
    lineage: Lineage
    verdict: Mapping[str, Any]
    delta: Delta = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def outcome(self) -> str:
        """The gate's outcome."""
        return str(self.verdict["outcome"])


def folder_of(key: ProjectKey) -> str:
    """Name of a project's folder."""
    return f"{key.id}.{key.created}-{hashlib.sha256(key.instance.encode()).hexdigest()[:12]}"


def version_path(versions_dir: Path, key: ProjectKey, name: str) -> Path:
    """The directory of a project's version."""
    return versions_dir / folder_of(key) / name


def engine_folder(versions_dir: Path, key: ProjectKey) -> Path:
    """Folder of the workers' data engine in a project, removed with its versions."""
    return versions_dir / folder_of(key) / "engine"


def write_version(
    versions_dir: Path,
    key: ProjectKey,
    delta: Delta,
    files: Mapping[str, bytes],
    lineage: Lineage,
    verdict: Mapping[str, Any],
    *,
    first_number: int = 1,
) -> Version:
    """Writes a version, whole or not at all, and syncs it to disk.

    Names of `files` are of letters, digits, dots, dashes and underscores;
    `verdict` is a JSON object with "outcome". The version's number is at least
    `first_number` (see `VersionTable.next_number`).

    Raises:
        VersionsUnavailable: the folder can't be written, or another process has
            been writing there for `WAIT_S`.
        VersionDamaged: a file's name can't be used.
        ValueError: lineage or verdict hold NaN.
    """
    for name in files:
        if not _FILE.fullmatch(name) or name in (MANIFEST, DELTA):
            raise VersionDamaged(f"A version can't have a file named {name!r}: use letters, digits, dots.")
    from safetensors.numpy import save

    contents = {DELTA: save(delta.to_tensors()), **files}
    listed = {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in sorted(contents.items())}
    digest = version_digest(lineage.bundle_digest, delta.tags, listed)
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
            number = _write_next(folder, contents, manifest, first_number)
    except Timeout:
        message = f"Another process has been writing to {folder} for {WAIT_S:.0f} s: look at it, or stop it."
        raise VersionsUnavailable(message) from None
    except OSError as error:
        remedy = "see that you may write to it, and that space is left"
        raise VersionsUnavailable(f"A version can't be written to {folder} ({error}): {remedy}.") from error
    path = folder / name_of(number)
    return Version(key, path.name, path, digest, lineage, dict(verdict), delta, dict(files))


def open_version(
    path: Path,
    bundle: Bundle | None,
    *,
    key: ProjectKey | None = None,
    digest: str | None = None,
) -> Version:
    """Reads a version and verifies the very bytes that it returns.

    Args:
        path: its directory.
        bundle: that it has to belong to; None: any.
        key: the project that it has to belong to; None: the one that its folder
            is named after.
        digest: that it has to have according to the database; None: the one in
            its manifest.

    Raises:
        VersionDamaged: a file is missing, truncated or altered; the
            format, project, name, bundle or digest is another one; a number is
            out of range. The message says which.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - False for folders that may not be read
        raise _damaged(path, "is missing")
    manifest, owner, lineage = _read_manifest(path, key)
    if digest is not None and manifest["digest"] != digest:
        raise _damaged(path, "is another version than the one that was recorded under this name")
    if bundle is not None and lineage.bundle_digest != bundle.digest:
        belongs = f"{lineage.bundle!r}, digest {lineage.bundle_digest[:12]}"
        in_use = f"{bundle.name!r}, digest {bundle.digest[:12]}"
        raise _damaged(path, f"belongs to another bundle ({belongs}) than the one in use ({in_use})")
    contents: dict[str, bytes] = {}
    for name, entry in manifest["files"].items():
        contents[name] = _read(path, name)
        if len(contents[name]) != entry["bytes"]:
            raise _damaged(path, f"has a {name} of {len(contents[name])} bytes instead of {entry['bytes']}")
        if _sha256(contents[name]) != entry["sha256"]:
            raise _damaged(path, f"has a corrupted {name} (its checksum differs)")
    delta = _read_delta(path, contents.pop(DELTA), manifest["tags"])
    return Version(owner, path.name, path, manifest["digest"], lineage, manifest["verdict"], delta, contents)


def remove_version(versions_dir: Path, key: ProjectKey, name: str) -> None:
    """Removes a version's directory; no reader finds half of it.

    Raises:
        VersionsUnavailable: it can't be removed.
    """
    folder = versions_dir / folder_of(key)
    try:
        with FileLock(folder / _LOCK, timeout=WAIT_S):
            renamed = folder / f".{name}{_PARTIAL}"
            if (folder / name).exists():
                shutil.rmtree(renamed, ignore_errors=True)
                (folder / name).rename(renamed)
                shutil.rmtree(renamed)
    except (OSError, Timeout) as error:
        raise VersionsUnavailable(f"{folder / name} can't be removed ({error}): remove it by hand.") from error


def version_digest(bundle_digest: str, tags: Any, files: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over the bundle's digest, the tags and the checksums of the files."""
    sums = {name: entry["sha256"] for name, entry in files.items()}
    return _json_sha256({"format": FORMAT, "bundle": bundle_digest, "tags": list(tags), "files": sums})


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest with its own checksum; ValueError for NaN."""
    whole = {**manifest, _CHECKSUM: _json_sha256(manifest)}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write_next(folder: Path, contents: Mapping[str, bytes], manifest: dict[str, Any], first_number: int) -> int:
    """Writes the directory under the next free number, under the folder's lock."""
    for partial in folder.glob(f".*{_PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)  # its writer was killed
    taken = [number for path in folder.iterdir() if (number := number_of(path.name)) is not None]
    number = max([first_number, *(each + 1 for each in taken)])
    with new_directory(folder / name_of(number)) as partial:
        text = manifest_text({"name": name_of(number), **manifest})
        for name, data in {**contents, MANIFEST: text.encode()}.items():
            (partial / name).write_bytes(data)
    flush(folder.parent)
    return number


def _read_manifest(path: Path, key: ProjectKey | None) -> tuple[dict[str, Any], ProjectKey, Lineage]:
    """The verified manifest, its project and its lineage."""
    try:
        manifest = json.loads(_read(path, MANIFEST))
        intact = manifest.pop(_CHECKSUM, None) == _json_sha256(manifest)
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise _damaged(path, f"has an unreadable {MANIFEST} ({type(error).__name__})") from None
    if manifest.get("format") != FORMAT:
        found = repr(manifest.get("format"))[:40]
        raise _damaged(path, f"has format {found}, and this version of ram-backend reads {FORMAT}")
    if not intact:
        raise _damaged(path, f"has a {MANIFEST} that was altered (its checksum differs)")
    try:
        project = manifest["project"]
        owner = ProjectKey(project["instance"], project["id"], project["created"])
        files = {str(name): (entry["sha256"], entry["bytes"]) for name, entry in manifest["files"].items()}
        name, outcome = manifest["name"], manifest["verdict"]["outcome"]
        lineage = Lineage.from_json(manifest["lineage"])
        folder, tags = folder_of(owner), manifest["tags"]
        differs = manifest["digest"] != version_digest(lineage.bundle_digest, tags, manifest["files"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, f"has a {MANIFEST} that lacks or garbles {error}") from None
    typed = isinstance(outcome, str) and isinstance(tags, list)
    if not typed or DELTA not in files or not all(_FILE.fullmatch(each) for each in files):
        raise _damaged(path, f"has a {MANIFEST} that can't be right")
    if key not in (owner, None) or folder != path.parent.name:
        raise _damaged(path, f"belongs to another project ({owner})")
    if name != path.name or number_of(name) is None:
        raise _damaged(path, f"was written as {name!r}, and stands under another name")
    if differs:
        raise _damaged(path, "has another digest than its files")
    return manifest, owner, lineage


def _read_delta(path: Path, data: bytes, tags: Any) -> Delta:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return Delta.from_tensors(tags, load(data))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, f"has an unreadable delta ({error})") from None
    except VersionDamaged as error:
        what = str(error).partition(":")[0].removeprefix("A version's delta ")
        raise _damaged(path, f"has a delta that {what}") from None


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except FileNotFoundError:
        raise _damaged(path, f"lacks {name}") from None
    except OSError as error:
        raise _damaged(path, f"has a {name} that can't be read ({error.strerror})") from None


def _damaged(path: Path, what: str) -> VersionDamaged:
    return VersionDamaged(f"Version {path.name} in {path.parent} {what}: restore it, roll back, or train again.")


def _json_sha256(value: object) -> str:
    """SHA-256 of the canonical JSON text of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return _sha256(text.encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

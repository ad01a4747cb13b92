"""Bundles: a base model in one directory, written once.

    bundle.json                    kind, digest, architecture, preprocessing, provenance, ...
    network.safetensors            weights (the starter has ONNX files instead)
    label_embeddings.safetensors   see `label_embeddings.py`
    vocabulary.json                the tags, with their thresholds
    calibration.safetensors        optional, see `calibration.py`
    captioner.safetensors          the captioner's weights by their official names
    training_images.txt            optional: sha256 and perceptual hash of each, a line

What is in a bundle never changes: another model is another bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ram_backend.errors import BundleDamaged, BundleNotFound, CheckpointError, VocabularyError
from ram_backend.models.calibration import Calibration
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.vocabulary.tags import Vocabulary

FORMAT = 1
MANIFEST = "bundle.json"
NETWORK = "network.safetensors"
CAPTIONER = "captioner.safetensors"
VOCABULARY = "vocabulary.json"
TRAINING_IMAGES = "training_images.txt"
STARTER = "starter"
"""Name of the bundle that installs itself."""
WAIT_S = 600.0
"""Longest wait for another process that writes the same bundle, in seconds."""

BundleKind = Literal["ram", "ram_plus", "tag2text", "starter"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Bundle:
    """A base model on disk.

    Attributes:
        digest: 64 hex digits that name its behaviour: equal on every machine
            that made it from the same files.
        vocabulary: its L tags.
        text_encoder: which encoder makes label embeddings for new tags; None:
            it can't take new tags.
        new_tag_threshold: score above which a new tag is on.
        manifest: everything in bundle.json.
    """

    path: Path
    name: str
    kind: BundleKind
    digest: str
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    calibration: Calibration
    text_encoder: str | None
    new_tag_threshold: float
    manifest: Mapping[str, Any]

    @property
    def lacks_captioner(self) -> str | None:
        """Why the bundle can't write captions, and what to do; None: it can."""
        if CAPTIONER in self.manifest["files"]:
            return None
        if self.kind in ("starter", "ram_plus"):
            return "this model has no captioner: import RAM or Tag2Text for captions"
        if "captioner_keys" in self.manifest.get("provenance", {}):
            return "the imported file had none: import the authors' file again under another name"
        return "it was imported before they were kept: import the file again under another name"


def open_bundle(path: Path) -> Bundle:
    """Opens a bundle directory; no weights are read.

    Raises:
        BundleNotFound: there is no such directory.
        BundleDamaged: a file is missing, of another size, or malformed; or the
            format is unknown to this version.
    """
    if not path.is_dir():
        raise BundleNotFound(f"There is no bundle at {path}: see `ram-backend bundles list`.")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format"]
        elsewhere = [name for name in manifest["files"] if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"{MANIFEST} can't be read ({error})") from None
    if elsewhere or not manifest["files"]:
        raise _damaged(path, f"{MANIFEST} names no file beside it, or one elsewhere")
    if version != FORMAT:
        raise BundleDamaged(f"Bundle {path} has format {version}, this version reads {FORMAT}: update ram_backend.")
    try:
        for name, entry in manifest["files"].items():
            file = path / name
            if not file.is_file():
                raise _damaged(path, f"{name} is missing")
            if file.stat().st_size != entry["bytes"]:
                raise _damaged(path, f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}")
        vocabulary = Vocabulary.load(path / VOCABULARY)
        new = manifest.get("new_tag_calibration", {})
        return Bundle(
            path=path,
            name=path.name,
            kind=manifest["kind"],
            digest=manifest["digest"],
            vocabulary=vocabulary,
            preprocessing=Preprocessing(**manifest["preprocessing"]),
            calibration=Calibration.load(
                path, len(vocabulary), new_slope=new.get("slope", 1.0), new_offset=new.get("offset", 0.0)
            ),
            text_encoder=manifest["text_encoder"],
            new_tag_threshold=float(manifest["new_tag_threshold"]),
            manifest=manifest,
        )
    except VocabularyError as error:
        raise _damaged(path, str(error)) from None
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"{MANIFEST} lacks or garbles {error}") from None


def verify(bundle: Bundle) -> None:
    """Compares every file's checksum; BundleDamaged where one differs."""
    for name, entry in bundle.manifest["files"].items():
        if file_sha256(bundle.path / name) != entry["sha256"]:
            raise _damaged(bundle.path, f"the checksum of {name} differs")


def bundle_digest(
    kind: BundleKind, architecture: Mapping[str, Any], preprocessing: Preprocessing, sources: Mapping[str, str]
) -> str:
    """Names a bundle's behaviour; `sources`: sha256 of what it was made from, by role."""
    identity = {"kind": kind, "architecture": architecture, "preprocessing": asdict(preprocessing), "sources": sources}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_bundle(bundles_dir: Path, name: str, manifest: dict[str, Any]) -> Iterator[Path]:
    """Writes a bundle whole or not at all: the body fills an empty directory.

    Writers of the same name wait for each other on a file lock, which also
    holds between hosts that share the folder, and ends with its holder.
    `manifest` is bundle.json without "format", "name" and "files".

    Raises:
        CheckpointError: see `check_new_name`; nothing can be written there; or
            another process takes longer than `WAIT_S`.
    """
    check_new_name(bundles_dir, name)
    try:
        bundles_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the data folder
        bundles_dir.mkdir(exist_ok=True)
        with FileLock(bundles_dir / f".{name}.lock", timeout=WAIT_S):
            check_new_name(bundles_dir, name)  # another process was faster
            with new_directory(bundles_dir / name) as partial:
                yield partial
                files = sorted(path for path in partial.iterdir() if path.is_file())
                sums = {path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for path in files}
                whole = {"format": FORMAT, "name": name, **manifest, "files": sums}
                text = json.dumps(whole, indent=1, ensure_ascii=False)
                (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
    except Timeout:
        raise CheckpointError(f"Another process has been writing the bundle {name!r} for long: stop it.") from None
    except OSError as error:
        raise CheckpointError(f"{bundles_dir} can't be written to ({error.strerror}): set RAM_DATA_DIR.") from None


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Makes a directory, whole or not at all, which the body fills.

    The caller holds a lock; what a killed writer has left is removed.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for each in (*partial.iterdir(), partial):
            flush(each)
        partial.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def flush(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_new_name(bundles_dir: Path, name: str) -> None:
    """Raises CheckpointError for a name that is taken or has odd characters."""
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{name!r} can't name a bundle: use up to 64 letters, digits, dots and dashes.")
    if (bundles_dir / name).exists():
        raise CheckpointError(f"There is already a bundle {name!r}: remove it, or choose another --name.")


def _damaged(path: Path, what: str) -> BundleDamaged:
    return BundleDamaged(f"Bundle {path} is damaged: {what}. Make or pull it again.")

"""Weights of detector and segmenter: folders, and download from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from ram_backend.errors import BundleDamaged, BundleNotFound, DownloadError, first_line

Kind = Literal["grounding-dino", "sam"]
KINDS: tuple[Kind, ...] = get_args(Kind)

REPOSITORIES: dict[Kind, str] = {
    "grounding-dino": "IDEA-Research/grounding-dino-base",
    "sam": "facebook/sam-vit-base",
}
"""In transformers' format; SAM 2 is taken, too (facebook/sam2.1-hiera-base-plus)."""
_FILES = ("*.json", "*.txt", "model.safetensors")


def folder_of(kind: Kind, data_dir: Path) -> Path:
    """Where the weights are in a data folder."""
    return data_dir / "detectors" / kind


def is_installed(kind: Kind, data_dir: Path) -> bool:
    """Whether there are weights."""
    return (folder_of(kind, data_dir) / "config.json").is_file()


@contextmanager
def loading(kind: Kind, folder: Path) -> Iterator[None]:
    """Names the weights and the helping command where a load inside fails.

    Raises:
        BundleNotFound: the folder has no weights.
        BundleDamaged: they are not those of a checkpoint.
    """
    if not (folder / "config.json").is_file():
        raise BundleNotFound(
            f"{folder} has no {kind}: run  ram-backend bundles pull {kind}  or put a checkpoint of transformers there"
            " (config.json, model.safetensors, preprocessor_config.json)."
        )
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BundleDamaged(f"{folder} is no checkpoint of {kind} ({first_line(error)}): pull it again.") from None


def pull(
    kind: Kind, data_dir: Path, *, repository: str | None = None, revision: str | None = None, endpoint: str | None
) -> Path:
    """Downloads the weights (0.4 to 1 GB), or the rest; returns their folder.

    Args:
        kind: which.
        data_dir: the folder of all data.
        repository: another one than in `REPOSITORIES`.
        revision: branch, tag or commit.
        endpoint: address of the hub; None: HF_ENDPOINT, else huggingface.co.

    Raises:
        DownloadError: a file is unavailable.
    """
    from huggingface_hub import snapshot_download

    repository, folder = repository or REPOSITORIES[kind], folder_of(kind, data_dir)
    try:
        snapshot_download(
            repository, revision=revision, endpoint=endpoint, local_dir=folder, allow_patterns=list(_FILES)
        )
    except Exception as error:  # of the hub, HTTP or the file system
        raise DownloadError(
            f"{repository} can't be downloaded ({first_line(error)}). Check the connection and pull again, or put its"
            f" files into {folder}."
        ) from None
    return folder

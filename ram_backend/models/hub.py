"""Download of the authors' released files from the hub, resumed where it stopped.

Weights come from the Hugging Face hub (a mirror by HF_ENDPOINT); tag lists and
thresholds are text files in the authors' code repository.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import requests
from filelock import FileLock

from ram_backend.errors import DownloadError, first_line
from ram_backend.models.bundle import Bundle, check_new_name, file_sha256

Released = Literal["ram-plus", "ram", "tag2text"]
RELEASED: tuple[Released, ...] = get_args(Released)

_AUTHORS = "xinyu1205"
_LISTS = f"https://raw.githubusercontent.com/{_AUTHORS}/recognize-anything/main/ram/data"
_RAM_LISTS = f"{_LISTS}/ram_tag_list.txt", f"{_LISTS}/ram_tag_list_threshold.txt"
_TAG2TEXT_LIST = f"{_LISTS}/tag2text_ori_tag_list.txt"
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Release:
    """Where one released model is.

    Attributes:
        repository: on the hub; with the prefix "spaces/" a demo space.
        filename: of the weights in that repository.
        tags: URL or path of the tag list.
        thresholds: likewise; None: the model has the authors' flat ones.
        revision: branch, tag or commit on the hub.
    """

    repository: str
    filename: str
    tags: str
    thresholds: str | None
    revision: str = "main"


RELEASES: dict[Released, Release] = {
    "ram-plus": Release(f"{_AUTHORS}/recognize-anything-plus-model", "ram_plus_swin_large_14m.pth", *_RAM_LISTS),
    "ram": Release(f"{_AUTHORS}/recognize_anything_model", "ram_swin_large_14m.pth", *_RAM_LISTS),
    "tag2text": Release(f"{_AUTHORS}/recognize_anything_model", "tag2text_swin_14m.pth", _TAG2TEXT_LIST, None),
}
"""As the authors' README names them."""


def pull(
    kind: Released,
    *,
    bundles_dir: Path,
    cache_dir: Path,
    name: str | None = None,
    release: Release | None = None,
    endpoint: str | None = None,
    progress: Callable[[str], Any] | None = None,
    **options: Any,
) -> Bundle:
    """Downloads a released model and makes a bundle of it.

    The weights are kept in `cache_dir` until the bundle is there: a download
    that stopped resumes, and a complete one is not repeated.

    Args:
        kind: which model.
        bundles_dir: where bundles live.
        cache_dir: where downloads are kept.
        name: of the new bundle; None: `kind`.
        release: other addresses than the authors'.
        endpoint: address of the hub; None: HF_ENDPOINT, else huggingface.co.
        progress: gets each step in a few words.
        options: further ones of `import_checkpoint`.

    Raises:
        DownloadError: a file is unavailable.
        CheckpointError, VocabularyError: see `import_checkpoint`.
    """
    from ram_backend.models.importing import import_checkpoint

    name = name or kind
    check_new_name(bundles_dir, name)
    release = release or RELEASES[kind]
    say = progress or (lambda _: None)
    with tempfile.TemporaryDirectory(prefix="ram-lists-") as folder:
        say("Fetching the tag list")
        tags = _list_file(release.tags, Path(folder) / "tags.txt", kind)
        thresholds = release.thresholds and _list_file(release.thresholds, Path(folder) / "thresholds.txt", kind)
        say(f"Downloading {release.filename}")
        weights, origin = _weights(release, cache_dir / "downloads", endpoint, kind)
        bundle = import_checkpoint(
            weights,
            tags,
            thresholds=thresholds or None,
            name=name,
            bundles_dir=bundles_dir,
            origin={**origin, "tags": release.tags, "thresholds": release.thresholds},
            progress=progress,
            **options,
        )
    shutil.rmtree(weights.parent, ignore_errors=True)
    return bundle


def _weights(release: Release, downloads: Path, endpoint: str | None, kind: Released) -> tuple[Path, dict[str, Any]]:
    """Downloads the weights; gives their path, and address, commit and etag."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    space = release.repository.startswith("spaces/")
    url = hf_hub_url(
        release.repository.removeprefix("spaces/"),
        release.filename,
        repo_type="space" if space else "model",
        revision=release.revision,
        endpoint=endpoint,
    )
    try:
        metadata = get_hf_file_metadata(url)
        etag = metadata.etag
        folder = downloads / hashlib.sha256(f"{url} {etag}".encode()).hexdigest()[:16]
        path = _resumed(url, metadata.size, folder / release.filename)
    except Exception as error:  # of the hub, HTTP or the file system
        raise _unavailable(url, error, kind) from None
    if etag is not None and len(etag) == 64 and (found := file_sha256(path)) != etag:  # a large file's is its sha256
        path.unlink()
        raise DownloadError(f"{url}: its checksum is {found}, the hub announced {etag}: pull again.")
    return path, {"weights": url, "commit": metadata.commit_hash, "etag": etag}


def _resumed(url: str, size: int | None, target: Path) -> Path:
    """Downloads a file, or the rest: `hf_hub_download` begins anew after a stop."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.incomplete")
    with FileLock(target.parent / ".lock"):
        if target.is_file():
            return target
        with partial.open("ab") as file:
            headers, start = build_hf_headers(), file.tell()
            http_get(url, file, resume_size=start, headers=headers, expected_size=size, displayed_filename=target.name)
        partial.replace(target)
    return target


def _list_file(address: str, target: Path, kind: Released) -> Path:
    """A tag list or threshold file: a local path as it is, a URL as a download."""
    if "://" not in address:
        return Path(address)
    try:
        answer = requests.get(address, timeout=_TIMEOUT_S)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise _unavailable(address, error, kind) from None
    target.write_bytes(answer.content)
    return target


def _unavailable(address: str, error: Exception, kind: Released) -> DownloadError:
    return DownloadError(
        f"{address}: can't be downloaded ({first_line(error)}). Check the connection, pull again (it resumes where it"
        f" stopped), or get the file and run: ram-backend bundles import FILE.pth --tags TAGS.txt --name {kind}"
    )

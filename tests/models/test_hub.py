"""Downloads, against a small server that speaks the hub's protocol: etag, commit, ranges, and a cut connection."""

import hashlib
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny
from support.http_server import HttpServer, Reply, Request

from ram_backend.errors import CheckpointError, DownloadError
from ram_backend.models.hub import RELEASES, Release, pull

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = "ram_swin_large_14m.pth"
WEIGHTS = f"/xinyu1205/recognize_anything_model/resolve/main/{FILE}"


class Hub(HttpServer):
    """Serves `files` by path; `cuts` is how many bytes the next answers send before the connection breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.cuts: list[int] = []

    def reply(self, request: Request) -> Reply:
        wanted, content = request.headers.get("Range"), self.files.get(request.path)
        if content is None:
            return Reply(404)
        start = int(re.fullmatch(r"bytes=(\d+)-\d*", wanted)[1]) if wanted else 0  # type: ignore[index]
        etag = self.etags.get(request.path, hashlib.sha256(content).hexdigest())
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.cuts.pop(0) if self.cuts and request.method == "GET" else None
        return Reply(206 if wanted else 200, content[start:], headers, cut=cut)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    file, tags = tiny.write(tmp_path / "source", "ram")
    server.files = {
        WEIGHTS: file.read_bytes(),
        f"/spaces/someone/mirror/resolve/v1/{FILE}": file.read_bytes(),
        "/data/tags.txt": tags.read_bytes(),
        "/data/thresholds.txt": b"0.4\n" * 7,
    }
    with server:
        yield server


@pytest.fixture
def target(hub: Hub, tmp_path: Path) -> dict[str, Any]:
    """Options of a pull from the hub."""
    lists = {"tags": f"{hub.url}/data/tags.txt", "thresholds": f"{hub.url}/data/thresholds.txt"}
    folders = {"bundles_dir": tmp_path / "bundles", "cache_dir": tmp_path / "cache"}
    return {"release": replace(RELEASES["ram"], **lists), "endpoint": hub.url, "image_size": tiny.IMAGE, **folders}


def test_a_pull_makes_the_bundle_that_an_import_would(hub: Hub, target: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    bundle = pull("ram", progress=said.append, **target)
    assert (bundle.name, bundle.kind, bundle.vocabulary.names) == ("ram", "ram", tiny.TAGS)
    assert bundle.vocabulary.thresholds.tolist() == pytest.approx([0.4] * 7)
    assert any(FILE in text for text in said)
    origin = bundle.manifest["provenance"]["origin"]
    assert origin["commit"] == COMMIT
    assert origin["weights"] == f"{hub.url}{WEIGHTS}"
    assert origin["etag"] == bundle.manifest["provenance"]["sources"]["checkpoint"]["sha256"]
    assert not list(target["cache_dir"].rglob("*.pth"))
    thresholds = tmp_path / "thresholds.txt"
    thresholds.write_bytes(hub.files["/data/thresholds.txt"])
    assert tiny.loaded(tmp_path / "source", "ram", thresholds=thresholds).digest == bundle.digest


@pytest.mark.parametrize("stalls", [0, 8], ids=["by itself", "when asked again"])
def test_a_cut_download_goes_on_where_it_stopped(hub: Hub, target: dict[str, Any], tmp_path: Path, stalls: int) -> None:
    """The hub's client writes in pieces of 10 MiB, so the file has to be larger than that."""
    padded, _ = tiny.write(tmp_path / "padded", "ram", optimizer={"exp_avg": torch.zeros(6 << 20)})
    hub.files[WEIGHTS] = padded.read_bytes()
    cuts = [12 << 20] + [0] * stalls

    def cut_the_weights(text: str) -> None:
        if text.startswith("Downloading"):
            hub.cuts = cuts

    if stalls:
        with pytest.raises(DownloadError, match="resumes where it stopped"):
            pull("ram", progress=cut_the_weights, **target)
        assert not target["bundles_dir"].exists()
        cuts = []
        hub.cuts = []
    bundle = pull("ram", progress=cut_the_weights, **target)
    digest = bundle.manifest["provenance"]["sources"]["checkpoint"]["sha256"]
    assert digest == hashlib.sha256(hub.files[WEIGHTS]).hexdigest()
    last = [each for each in hub.requests if (each.method, each.path) == ("GET", WEIGHTS)][-1]
    assert last.headers["Range"] == "bytes=10485760-"


def test_refused_weights_are_not_downloaded_again(hub: Hub, target: dict[str, Any], tmp_path: Path) -> None:
    odd, _ = tiny.write(tmp_path / "odd", "ram", {**tiny.state_dict("ram"), "odd": torch.zeros(2)})
    hub.files[WEIGHTS] = odd.read_bytes()
    with pytest.raises(CheckpointError, match="--allow-extra"):
        pull("ram", **target)
    assert pull("ram", allow_extra=True, **target).kind == "ram"
    assert [each.path for each in hub.requests if each.method == "GET"].count(WEIGHTS) == 1
    assert not list(target["cache_dir"].rglob("*.pth"))


def test_other_addresses_and_local_lists(hub: Hub, target: dict[str, Any], tmp_path: Path) -> None:
    release = Release("spaces/someone/mirror", FILE, str(tmp_path / "source" / "tags.txt"), None, revision="v1")
    bundle = pull("ram", name="mine", **{**target, "release": release})
    assert bundle.name == "mine"
    assert bundle.vocabulary.thresholds.tolist() == pytest.approx([0.68] * 7)


def test_bytes_that_are_not_those_announced_are_refused(hub: Hub, target: dict[str, Any]) -> None:
    hub.etags[WEIGHTS] = "0" * 64
    with pytest.raises(DownloadError, match="checksum"):
        pull("ram", **target)
    assert not target["bundles_dir"].exists()
    assert not list(target["cache_dir"].rglob("*.pth"))


@pytest.mark.parametrize("part", ["weights", "tags", "thresholds"])
def test_a_missing_file_is_named_with_the_way_around(hub: Hub, target: dict[str, Any], part: str) -> None:
    gone = next(path for path in hub.files if path.endswith(FILE if part == "weights" else f"{part}.txt"))
    del hub.files[gone]
    with pytest.raises(DownloadError, match=re.escape(gone) + r".*ram-backend bundles import .* --tags") as caught:
        pull("ram", **target)
    assert "\n" not in str(caught.value)
    assert not target["bundles_dir"].exists()


def test_without_a_connection_the_address_is_named(target: dict[str, Any], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    target["endpoint"] = nobody
    target["release"] = replace(target["release"], tags=str(tmp_path / "source" / "tags.txt"), thresholds=None)
    with pytest.raises(DownloadError, match=rf"{nobody}/.*{FILE}.*Check the connection.*bundles import"):
        pull("ram", **target)
    with pytest.raises(DownloadError, match=rf"{nobody}/tags.*Check the connection"):
        pull("ram", **{**target, "release": replace(target["release"], tags=f"{nobody}/tags")})


def test_a_taken_name_is_refused_before_anything_is_downloaded(hub: Hub, target: dict[str, Any]) -> None:
    (target["bundles_dir"] / "ram").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="already a bundle"):
        pull("ram", **target)
    assert hub.requests == []


def test_a_cut_list_is_not_taken_for_a_short_one(hub: Hub, target: dict[str, Any]) -> None:
    hub.cuts = [10]
    with pytest.raises(DownloadError, match=r"tags\.txt.*10 bytes read, 36 more expected"):
        pull("ram", **target)

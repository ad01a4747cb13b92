"""CLIP's ViT-B/16 with OpenAI's weights: where they are, and how the tensors of one tower are read from their file.

OpenAI's networks use the quick GELU, x * sigmoid(1.702 x): open_clip's "ViT-B-16-quickgelu". Its plain "ViT-B-16"
takes the same weights without complaint and gives other numbers.
"""

from __future__ import annotations

import hashlib
import socket
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from ram_backend.errors import TextEncoderUnavailable

MODEL = "ViT-B-16-quickgelu"
PRETRAINED = "openai"
ARCHIVE_SHA256 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
"""OpenAI's TorchScript archive `ViT-B-16.pt`, as its address names it: the only archive that is opened."""

_REMEDY = (
    "put a state dict of open_clip's ViT-B-16 with OpenAI's weights (.safetensors or .pt) on this machine"
    " and name it in RAM_CLIP_WEIGHTS"
)
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_CONNECT_S = 5.0

Keys = Callable[[str], "str | None"]
"""From a key in a file to that in the tower; None: of another tower."""


def load_tower(tower: nn.Module, weights: Path | None, keys: Keys, name: str) -> None:
    """Gives a tower its weights: all of them, or none.

    Args:
        tower: of open_clip, float32.
        weights: a state dict (.safetensors or .pt) or OpenAI's TorchScript archive; None: from the hub, or what was
            fetched from it before.
        keys: which tensors are the tower's.
        name: of the tower, for people.

    Raises:
        TextEncoderUnavailable: the weights are not at hand or don't fit; names the file and the remedy.
    """
    state = read_tower(weights if weights is not None else _from_hub(), keys, name)
    _load(tower, state, str(weights) if weights is not None else "the hub's file")


def read_tower(path: Path, keys: Keys, name: str) -> dict[str, Tensor]:
    """One tower's tensors of a weight file, float32; others are not read where the format allows it.

    Raises:
        TextEncoderUnavailable: no such file, not readable without running code, or no such tower in it.
    """
    if not path.is_file():
        raise TextEncoderUnavailable(f"CLIP's weights: {path} is no file; {_REMEDY}.")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = _read_safetensors(path, keys)
        elif _is_torchscript(path):
            state = _read_archive(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except TextEncoderUnavailable:
        raise
    except Exception as error:  # many libraries' own errors: one line is what a person needs
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TextEncoderUnavailable(f"CLIP's weights: {path} can't be read ({reason[:200]}); {_REMEDY}.") from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    found = {_own(key, keys): value for key, value in state.items()} if isinstance(state, Mapping) else {}
    tensors = {key: value.float() for key, value in found.items() if key is not None and isinstance(value, Tensor)}
    if not tensors:
        raise TextEncoderUnavailable(f"CLIP's weights: {path} holds no {name} tower; {_REMEDY}.")
    return tensors


def digest_of(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values: the same for every file format."""
    digest = hashlib.sha256()
    for key in sorted(state):
        values = state[key].detach().float().cpu().contiguous().numpy()
        digest.update(f"{key}{values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def chosen_device(device: str) -> str:
    """Where "auto" runs: on a CUDA device where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _own(key: object, keys: Keys) -> str | None:
    """Key in the tower: the prefix of data-parallel training goes."""
    return keys(key.removeprefix("module.")) if isinstance(key, str) else None


def _read_safetensors(path: Path, keys: Keys) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys() if _own(key, keys) is not None}  # noqa: SIM118


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_archive(path: Path) -> dict[str, Tensor]:
    """OpenAI's archive carries code, so only the one with the published checksum is opened."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != ARCHIVE_SHA256:
        raise TextEncoderUnavailable(
            f"CLIP's weights: {path} is a TorchScript archive, but not OpenAI's ViT-B-16.pt (sha256 {digest[:12]}..."
            f" instead of {ARCHIVE_SHA256[:12]}...); {_REMEDY}."
        )
    return dict(torch.jit.load(str(path), map_location="cpu").state_dict())  # type: ignore[no-untyped-call]


def _load(tower: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Loads strictly: a silent partial load is the worst failure."""
    own = tower.state_dict()
    for key, value in own.items():
        if key not in state:
            raise TextEncoderUnavailable(f"CLIP's weights: {where} lacks {key!r}; {_REMEDY}.")
        if state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(value.shape)}"
            raise TextEncoderUnavailable(f"CLIP's weights: {where} has {key!r} of shape {shapes}; {_REMEDY}.")
        if not torch.isfinite(state[key]).all():
            raise TextEncoderUnavailable(
                f"CLIP's weights: {where} has values in {key!r} that are no numbers; {_REMEDY}."
            )
    tower.load_state_dict({key: state[key] for key in own}, strict=True)


def _from_hub() -> Path:
    """Path of the weights: as fetched before, else fetched now by open_clip.

    A machine that can't reach the hub learns it within seconds: the hub's library alone would try for a minute.
    """
    from open_clip import download_pretrained, get_pretrained_cfg

    config = get_pretrained_cfg(MODEL, PRETRAINED)
    cached = _cached(config["hf_hub"].rstrip("/"))
    if cached is not None:
        return cached
    try:
        _reach_hub()
        return Path(download_pretrained(config))
    except Exception as error:  # huggingface_hub, its HTTP library and the file system each have their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TextEncoderUnavailable(
            f"CLIP's weights could not be fetched ({reason[:200]}): connect this machine to the internet, or {_REMEDY}."
        ) from None


def _cached(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in _HUB_FILES:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return Path(path)
    return None


def _reach_hub() -> None:
    """Connects to the hub once.

    Raises:
        OSError: it can't be reached. Not raised where a proxy stands between: then only the download can tell.
    """
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if address.scheme in getproxies():
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise OSError(f"{address.netloc} can't be reached: {error.strerror or error}") from None

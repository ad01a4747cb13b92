"""Weights of OpenAI's CLIP ViT-B/16: found, read by open_clip without running code, and loaded strictly.

OpenAI's networks use the quick GELU, x * sigmoid(1.702 x): open_clip's "ViT-B-16-quickgelu". Its plain "ViT-B-16"
takes the same weights without complaint and gives other numbers.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from ram_backend.errors import TextEncoderUnavailable

MODEL = "ViT-B-16-quickgelu"
PRETRAINED = "openai"

_REMEDY = (
    "put a state dict of open_clip's ViT-B-16 with OpenAI's weights (.safetensors or .pt) on this machine"
    " and name it, or its folder, in RAM_CLIP_WEIGHTS"
)
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_CONNECT_S = 5.0

Keys = Callable[[str], "str | None"]
"""From a key in a file to that in the tower; None: of another tower."""


def load_tower(tower: nn.Module, weights: Path | None, keys: Keys, name: str) -> None:
    """Gives a tower its weights: all of them, or none.

    Args:
        tower: of open_clip, float32.
        weights: a state dict (.safetensors or .pt), or a folder with one under the hub's name; None: from the hub, or
            what was fetched from it before.
        keys: which tensors are the tower's.
        name: of the tower, for people.

    Raises:
        TextEncoderUnavailable: the weights are not at hand, need code to be run, or don't fit; names the file and the
            remedy.
    """
    path = _from_hub() if weights is None else _file(weights)
    where = "the hub's file" if weights is None else str(path)
    state = _read(path, keys)
    if not state:
        raise TextEncoderUnavailable(f"CLIP's weights: {where} holds no {name} tower; {_REMEDY}.")
    own = tower.state_dict()
    for key, value in own.items():
        if key not in state:
            raise TextEncoderUnavailable(f"CLIP's weights: {where} lacks {key!r}; {_REMEDY}.")
        if state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(value.shape)}"
            raise TextEncoderUnavailable(f"CLIP's weights: {where} has {key!r} of shape {shapes}; {_REMEDY}.")
        if not torch.isfinite(state[key]).all():
            raise TextEncoderUnavailable(f"CLIP's weights: {where} has NaN or infinity in {key!r}; {_REMEDY}.")
    tower.load_state_dict({key: state[key] for key in own}, strict=True)


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


def _file(path: Path) -> Path:
    """The weight file that a setting names, itself or by its folder."""
    found = next((path / name for name in _HUB_FILES if (path / name).is_file()), path)
    if not found.is_file():
        raise TextEncoderUnavailable(f"CLIP's weights: {path} is no file, and no folder with one; {_REMEDY}.")
    return found


def _read(path: Path, keys: Keys) -> dict[str, Tensor]:
    """One tower's tensors, float32. Pickles are read as plain tensors only; TorchScript holds code and is refused."""
    from open_clip.factory import load_state_dict

    try:
        state = load_state_dict(str(path), weights_only=True)
        named = {keys(str(key)): value for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # many libraries' own errors: one line is what a person needs
        raise TextEncoderUnavailable(f"CLIP's weights: {path} can't be read ({_line(error)}); {_REMEDY}.") from None
    return {key: value.float() for key, value in named.items() if key is not None}


def _from_hub() -> Path:
    """Path of the weights: as fetched before, else fetched now by open_clip.

    A machine that can't reach the hub learns it within seconds: the hub's library alone would try for a minute.
    """
    from huggingface_hub import try_to_load_from_cache
    from open_clip import download_pretrained, get_pretrained_cfg

    config = get_pretrained_cfg(MODEL, PRETRAINED)
    for name in _HUB_FILES:
        cached = try_to_load_from_cache(config["hf_hub"].rstrip("/"), name)
        if isinstance(cached, str):
            return Path(cached)
    try:
        _reach_hub()
        return Path(download_pretrained(config))
    except Exception as error:  # huggingface_hub, its HTTP library and the file system each have their own
        raise TextEncoderUnavailable(
            f"CLIP's weights could not be fetched ({_line(error)}): connect this machine to the internet, or {_REMEDY}."
        ) from None


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


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

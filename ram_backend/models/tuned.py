"""Fine-tuned tagging head of a version: its file, and the network that it makes of the bundle's.

The file holds every tensor of the head by its name, or LoRA factors: `<name>.a` (r, in) and `<name>.b` (out, r), whose
product b a is added to the bundle's weight `<name>`. The tuned network shares encoder, label embeddings and tokens
with the bundle's, and so its `encoder_id`. No import here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import VersionDamaged
from ram_backend.models.network import Network

FloatArray = NDArray[np.float32]
Tensors = Mapping[str, FloatArray]

HEAD_FILE = "head.safetensors"
LOW_RANK_FILE = "head_low_rank.safetensors"
TUNED_FILES = (HEAD_FILE, LOW_RANK_FILE)
"""Files that a version with a tuned head may have: one of them."""

_A, _B = ".a", ".b"


class LowRank(NamedTuple):
    """What LoRA adds to a weight (out, in): `b @ a`.

    Attributes:
        a: (r, in) float32.
        b: (out, r) float32, any scale included.
    """

    a: FloatArray
    b: FloatArray


def has_tuned_head(files: Mapping[str, bytes]) -> bool:
    """Whether a version's files bring a head of their own."""
    return any(name in files for name in TUNED_FILES)


def head_files(tensors: Tensors) -> dict[str, bytes]:
    """The file of a whole head; `tensors` float32 by their names in the state dict of a `TaggingHead`."""
    from safetensors.numpy import save

    return {HEAD_FILE: save({name: np.ascontiguousarray(array) for name, array in tensors.items()})}


def low_rank_files(factors: Mapping[str, LowRank]) -> dict[str, bytes]:
    """The file of a head that differs from the bundle's by a low-rank product per weight; `factors` by its name."""
    from safetensors.numpy import save

    stored = {f"{name}{_A}": np.ascontiguousarray(pair.a) for name, pair in factors.items()}
    stored |= {f"{name}{_B}": np.ascontiguousarray(pair.b) for name, pair in factors.items()}
    return {LOW_RANK_FILE: save(stored)}


def tuned_tensors(base: Tensors, files: Mapping[str, bytes]) -> dict[str, FloatArray]:
    """All tensors of a tuned head.

    Args:
        base: those of the bundle's head, float32.
        files: of a version; those that are none of `TUNED_FILES` are not looked at.

    Returns:
        By the names in `base`, in the same shapes, finite.

    Raises:
        VersionDamaged: there is no file of a tuned head, or both; it is not readable; it is for another head; a value
            is not finite.
    """
    names = [name for name in TUNED_FILES if name in files]
    if len(names) != 1:
        raise _damaged(f"has {' and '.join(names) or 'no file of a tuned head'}, and one of {TUNED_FILES} is needed")
    tensors = _read(names[0], files[names[0]])
    if names[0] == LOW_RANK_FILE:
        tensors = _merged(base, tensors)
    odd = sorted(set(tensors) ^ set(base)) or [name for name in base if tensors[name].shape != base[name].shape]
    if odd:
        raise _damaged(f"holds another head than the bundle's: they differ in {odd[0]}")
    broken = next((name for name, array in tensors.items() if not np.isfinite(array).all()), None)
    if broken is not None:
        raise _damaged(f"has values in {broken} that are not finite")
    return tensors


def tuned_network(base: Network, files: Mapping[str, bytes]) -> Network:
    """The bundle's network with the head that a version brings.

    Args:
        base: the bundle's network as `load_network` gave it; goes on working, unchanged.
        files: contents of the version's files by name.

    Returns:
        A network whose tokens are the base's, with the same `encoder_id`; thread-safe as the base is.

    Raises:
        VersionDamaged: see `tuned_tensors`; or the network takes no head (the starter's was fine-tuned by earlier
            releases), or the head computes something that is not finite.
    """
    from ram_backend.models.torch_network import TorchNetwork

    if not isinstance(base, TorchNetwork):
        raise _damaged(f"brings a fine-tuned head, and a {type(base).__name__} takes none")
    network = cast(Network, base.with_head(tuned_tensors(base.head_tensors(), files)))
    tokens = np.linspace(-1, 1, int(np.prod(base.token_shape)), dtype=np.float32).reshape(1, *base.token_shape)
    if not np.isfinite(network.logits(tokens, network.select([0]))).all():
        raise _damaged("has a head whose logits are not finite")
    return network


def _read(name: str, content: bytes) -> dict[str, FloatArray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        stored = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(f"has a {name} that can't be read ({str(error).splitlines()[0][:160]})") from None
    wrong = next((tensor for tensor, array in stored.items() if array.dtype != np.float32), None)
    if wrong is not None:
        raise _damaged(f"has {wrong} in {name} as {stored[wrong].dtype} instead of float32")
    return stored


def _merged(base: Tensors, stored: Tensors) -> dict[str, FloatArray]:
    """The base's tensors plus the products of LoRA factors."""
    tensors = {name: np.array(array) for name, array in base.items()}
    for name in {key.removesuffix(_A).removesuffix(_B) for key in stored}:
        a, b = stored.get(f"{name}{_A}"), stored.get(f"{name}{_B}")
        fit = name in tensors and a is not None and b is not None and a.ndim == b.ndim == 2
        if not fit or b.shape[1] != len(a) or (len(b), a.shape[1]) != tensors[name].shape:  # type: ignore[union-attr, arg-type]
            raise _damaged(f"holds another head than the bundle's, or only a part of one: {name}")
        tensors[name] += b @ a  # type: ignore[operator]
    return tensors


def _damaged(what: str) -> VersionDamaged:
    return VersionDamaged(f"A version {what}: it isn't served. Train again, or roll back to another version.")

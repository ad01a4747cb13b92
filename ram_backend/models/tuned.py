"""A tagging head that a project's training tuned: its file in a version, and the network that it makes of the bundle's.

    head.safetensors            every tensor of the head; or
    head_low_rank.safetensors   what is added to it: `<name>.a` (r, in) and `<name>.b` (out, r), whose product b a is
                                added to the weight `<name>`

The tuned network shares encoder, label embeddings and everything else with the bundle's network: a hundred projects
cost a hundred heads. Its tokens are the bundle's, and so is its `encoder_id`. No import here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import BundleDamaged, VersionDamaged
from ram_backend.models.network import Network

FloatArray = NDArray[np.float32]
Tensors = Mapping[str, FloatArray]

HEAD_FILE = "head.safetensors"
LOW_RANK_FILE = "head_low_rank.safetensors"
TUNED_FILES = (HEAD_FILE, LOW_RANK_FILE)
"""Files that a version with a tuned head may have: one of them."""

_A, _B = ".a", ".b"


class LowRank(NamedTuple):
    """What low-rank tuning adds to a weight (out, in): `b @ a`.

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

    stored: dict[str, FloatArray] = {}
    for name, pair in factors.items():
        stored[f"{name}{_A}"], stored[f"{name}{_B}"] = np.ascontiguousarray(pair.a), np.ascontiguousarray(pair.b)
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
    stored = _read(names[0], files[names[0]])
    tensors = dict(stored) if names[0] == HEAD_FILE else _added(base, stored)
    if set(tensors) != set(base):
        odd = sorted(set(tensors) ^ set(base))
        raise _damaged(f"holds another head than the bundle's: {odd[0]} is in one of them only")
    for name, array in tensors.items():
        if array.shape != base[name].shape:
            raise _damaged(f"holds another head than the bundle's: {name} is {array.shape}, not {base[name].shape}")
        if not np.isfinite(array).all():
            raise _damaged(f"has values in {name} that are not finite")
    return tensors


def tuned_network(base: Network, files: Mapping[str, bytes]) -> Network:
    """The bundle's network with the head that a version brings.

    Args:
        base: the bundle's network as `load_network` gave it; goes on working, unchanged.
        files: contents of the version's files by name.

    Returns:
        A network whose tokens are the base's, with the same `encoder_id`; thread-safe as the base is.

    Raises:
        VersionDamaged: see `tuned_tensors`; or the head computes something that is not finite.
        BundleDamaged: the bundle's own head can't be read.
    """
    network = _with_head(base, files)
    tokens = np.linspace(-1, 1, int(np.prod(base.token_shape)), dtype=np.float32).reshape(1, *base.token_shape)
    if not np.isfinite(network.logits(tokens, network.select([0]))).all():
        raise _damaged("has a head whose logits are not finite")
    return network


def _with_head(base: Network, files: Mapping[str, bytes]) -> Network:
    from ram_backend.models.starter.network import StarterNetwork

    if isinstance(base, StarterNetwork):
        from ram_backend.models.onnx_head import OnnxHead

        head = OnnxHead(base.directory)
        tensors = tuned_tensors(head.tensors(), files)
        try:
            return cast(Network, base.with_head(head.files(tensors)))
        except BundleDamaged as error:
            raise _damaged(f"has a head that doesn't run ({error})") from None
    from ram_backend.models.torch_network import TorchNetwork

    if not isinstance(base, TorchNetwork):
        raise _damaged(f"brings a tagging head, and a {type(base).__name__} takes none")
    return cast(Network, base.with_head(tuned_tensors(base.head_tensors(), files)))


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


def _added(base: Tensors, stored: Tensors) -> dict[str, FloatArray]:
    """The base's tensors plus the products of a low-rank file."""
    tensors = {name: np.array(array) for name, array in base.items()}
    for name in {key.removesuffix(_A).removesuffix(_B) for key in stored}:
        a, b = stored.get(f"{name}{_A}"), stored.get(f"{name}{_B}")
        if name not in tensors or a is None or b is None:
            raise _damaged(f"holds another head than the bundle's, or only a part of one: {name}")
        if a.ndim != 2 or b.ndim != 2 or b.shape[1] != len(a) or (len(b), a.shape[1]) != tensors[name].shape:
            raise _damaged(
                f"holds another head than the bundle's: {name} is {tensors[name].shape}, its factors are {b.shape} and"
                f" {a.shape}"
            )
        tensors[name] += b @ a
    return tensors


def _damaged(what: str) -> VersionDamaged:
    return VersionDamaged(f"A version {what}: it isn't served. Train again, or roll back to another version.")

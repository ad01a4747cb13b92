"""Fine-tuned tagging head of a version: its file, and the network that it makes of the bundle's.

The file holds every tensor of the head by its name, or LoRA factors: `<name>.a`
(r, in) and `<name>.b` (out, r), whose product b a is added to the bundle's
weight `<name>`. The tuned network shares encoder, label embeddings and tokens
with the bundle's, and so its `encoder_id`. No import here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

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


def head_file(name: str, tensors: Tensors) -> dict[str, bytes]:
    """One of `TUNED_FILES` with its content; `tensors` float32 by the names that it stores."""
    from safetensors.numpy import save

    return {name: save({key: np.ascontiguousarray(array) for key, array in tensors.items()})}


def tuned_network(base: Network, files: Mapping[str, bytes]) -> Network:
    """The bundle's network with the head that a version brings, if any; its tokens and `encoder_id` stay the same.

    Args:
        base: the bundle's network as `load_network` gave it; stays usable,
            unchanged.
        files: contents of the version's files by name.

    Raises:
        VersionDamaged: there are both of `TUNED_FILES`; the file is not
            readable, or for another head; a value, or what the head computes,
            is not finite; or the network takes no head (the starter's was
            fine-tuned by earlier releases).
    """
    names = [name for name in TUNED_FILES if name in files]
    if not names:
        return base
    if len(names) > 1:
        raise _damaged(f"has {' and '.join(names)}, and one of them is needed")
    from ram_backend.models.torch_network import TorchNetwork

    if not isinstance(base, TorchNetwork):
        raise _damaged(f"brings a fine-tuned head, and a {type(base).__name__} takes none")
    network = cast(Network, base.with_head(_tensors(base.head_tensors(), names[0], files[names[0]])))
    tokens = np.linspace(-1, 1, int(np.prod(base.token_shape)), dtype=np.float32).reshape(1, *base.token_shape)
    if not np.isfinite(network.logits(tokens, network.select([0]))).all():
        raise _damaged("has a head whose logits are not finite")
    return network


def _tensors(base: Tensors, file: str, data: bytes) -> Tensors:
    """All tensors of a tuned head, by the names and in the shapes of the bundle's head `base`, finite."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: Tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(f"has a {file} that can't be read ({str(error).splitlines()[0][:160]})") from None
    if file == LOW_RANK_FILE:
        tensors = _merged(base, tensors)
    for name in base.keys() | tensors.keys():
        if name not in tensors or name not in base or tensors[name].shape != base[name].shape:
            raise _damaged(f"holds another head than the bundle's: they differ in {name}")
        if tensors[name].dtype != base[name].dtype or not np.isfinite(tensors[name]).all():
            raise _damaged(f"has values in {name} that are not finite float32")
    return tensors


def _merged(base: Tensors, factors: Tensors) -> Tensors:
    """The base's tensors plus the products of LoRA factors."""
    tensors = dict(base)
    try:
        for name in {key.removesuffix(".a").removesuffix(".b") for key in factors}:
            product = factors[f"{name}.b"] @ factors[f"{name}.a"]
            tensors[name] = base[name] + product.reshape(base[name].shape)
    except (KeyError, ValueError) as error:
        raise _damaged(f"holds another head than the bundle's, or only a part of one ({error})") from None
    return tensors


def _damaged(what: str) -> VersionDamaged:
    return VersionDamaged(f"A version {what}: it isn't served. Train again, or roll back to another version.")

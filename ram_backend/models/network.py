"""Protocol of a network (encode, select tags, compute logits), and its loading.

A version may bring a fine-tuned tagging head. Its file holds every tensor of
the head by its name, or LoRA factors: `<name>.a` (r, in) and `<name>.b` (out,
r), whose product b a is added to the bundle's weight `<name>`. The tuned
network shares all else with the bundle's. No import here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from ram_backend.errors import VersionDamaged, first_line
from ram_backend.models.bundle import Bundle
from ram_backend.models.delta import FloatArray
from ram_backend.settings import Device, Precision

Tensors = Mapping[str, FloatArray]

HEAD_FILE = "head.safetensors"
LOW_RANK_FILE = "head_low_rank.safetensors"
TUNED_FILES = (HEAD_FILE, LOW_RANK_FILE)
"""Files that a version with a tuned head may have: one of them."""


class Queries(Protocol):
    """What a network has precomputed for L chosen tags; only good for that network."""

    def __len__(self) -> int: ...


class Network(Protocol):
    """An encoder and a tagging head.

    Attributes:
        encoder_id: names weights, engine and precision: equal ids give equal
            tokens. Part of cache keys.
        side_by_side: whether two threads that encode at once get more done than
            one.
        token_shape: (T, D), number and width of an image's tokens.
    """

    encoder_id: str
    side_by_side: bool
    token_shape: tuple[int, int]

    def encode(self, pixels: FloatArray) -> FloatArray:
        """Prepared pixels (B, 3, S, S) to tokens (B, T, D), both float32."""

    def select(self, tags: Sequence[int | FloatArray]) -> Queries:
        """Precomputes what the head needs of L tags: rows, or text embeddings (k, d).

        Raises:
            TextEncoderUnavailable: a new tag, and the network learned its tags
                without a text encoder.
            VocabularyError: a row outside the vocabulary, or an embedding of
                another width.
        """

    def logits(self, tokens: FloatArray, queries: Queries) -> FloatArray:
        """Logits (B, L) float32 before calibration, whatever other tags are chosen."""

    def evidence(self, tokens: FloatArray, queries: Queries) -> FloatArray:
        """Evidence maps (B, S, S, L) float32: how much each cell speaks for each tag.

        Comparable within a map only. Axis 1 goes down, axis 2 to the right.
        """


def load_network(
    bundle: Bundle, *, device: Device = "auto", precision: Precision = "auto", threads: int | None = None
) -> Network:
    """Loads the weights of a bundle.

    Args:
        bundle: whose network.
        device: "auto" takes a CUDA device where there is one.
        precision: of the matrix products; "auto" is fp32 on the CPU and bf16 on
            CUDA devices that have it. What this CPU only emulates (8 to 9 times
            slower) becomes fp32 with a warning, unless it is forced.
        threads: CPU threads for inference, on torch those of the whole process;
            None leaves the engine's default.

    Raises:
        BundleDamaged: the weights don't fit the bundle's architecture.
        SettingsError: the device is not there, or can't do that precision.
    """
    return _engine(bundle)(bundle, device=device, precision=precision, threads=threads)


def encoder_id_of(bundle: Bundle, *, device: Device = "auto", precision: Precision = "auto") -> str:
    """The `encoder_id` of `load_network`, without weights; SettingsError: no device."""
    return str(_engine(bundle).id_of(bundle, device=device, precision=precision))


def _engine(bundle: Bundle) -> Any:
    """The class of a bundle's network."""
    if bundle.kind == "starter":
        from ram_backend.models.starter.network import StarterNetwork

        return StarterNetwork
    from ram_backend.models.torch_network import TorchNetwork

    return TorchNetwork


def head_file(name: str, tensors: Tensors) -> dict[str, bytes]:
    """One of `TUNED_FILES` with its content; `tensors` float32 by their names."""
    from safetensors.numpy import save

    return {name: save({key: np.ascontiguousarray(array) for key, array in tensors.items()})}


def tuned_network(base: Network, files: Mapping[str, bytes]) -> Network:
    """The bundle's network with the head that a version's files bring, if any.

    Raises:
        VersionDamaged: there are both of `TUNED_FILES`; the file is not
            readable, or for another head; a value or a logit is not finite; or
            the network takes no head (the starter's was fine-tuned by earlier
            releases).
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
    """All tensors of a tuned head, finite, by names and in shapes of `base`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: Tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(f"has a {file} that can't be read ({first_line(error)})") from None
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
    return VersionDamaged(f"A version {what}: it isn't served. Train again, or roll back.")

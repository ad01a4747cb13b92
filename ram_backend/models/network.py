"""Protocol of a network (encode images, select tags, compute logits), and loading of a bundle's network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ram_backend.models.bundle import Bundle
from ram_backend.models.delta import FloatArray
from ram_backend.settings import Device, Precision


class Queries(Protocol):
    """What a network has precomputed for L chosen tags; opaque, and only good for the network that made it."""

    def __len__(self) -> int: ...


class Network(Protocol):
    """An encoder and a tagging head.

    Attributes:
        encoder_id: names weights, engine and precision: equal ids give equal
            tokens. Part of cache keys.
        side_by_side: whether two threads that encode at once get more done than
            one; if not, the engine uses all its threads for each call.
        token_shape: (T, D), number and width of an image's tokens.
    """

    encoder_id: str
    side_by_side: bool
    token_shape: tuple[int, int]

    def encode(self, pixels: FloatArray) -> FloatArray:
        """Pixels (B, 3, S, S) from the bundle's preprocessing to tokens (B, T, D), both float32."""

    def select(self, tags: Sequence[int | FloatArray]) -> Queries:
        """Precomputes what the head needs to know about L tags: rows of the vocabulary, or text embeddings (k, d).

        Raises:
            TextEncoderUnavailable: a new tag, and the network learned its tags
                without a text encoder.
            VocabularyError: a row outside the vocabulary, or an embedding of
                another width.
        """

    def logits(self, tokens: FloatArray, queries: Queries) -> FloatArray:
        """Logits (B, L) float32 before calibration; a tag's logit doesn't depend on the other tags chosen."""

    def evidence(self, tokens: FloatArray, queries: Queries) -> FloatArray:
        """Evidence maps (B, S, S, L) float32: how much each cell of the image speaks for each tag.

        Comparable within a map only, not between tags or images. Axis 1 goes
        down, axis 2 to the right.
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
            slower than fp32) is replaced by fp32 with a warning, unless it is
            forced.
        threads: CPU threads for inference, on torch those of the whole process;
            None leaves the engine's default.

    Raises:
        BundleDamaged: the weights are not those of the architecture that the
            bundle names.
        SettingsError: the device is not there, or can't do that precision.
    """
    return _engine(bundle)(bundle, device=device, precision=precision, threads=threads)


def encoder_id_of(bundle: Bundle, *, device: Device = "auto", precision: Precision = "auto") -> str:
    """The `encoder_id` that `load_network` will give; imports the engine, reads no weights.

    Raises:
        SettingsError: the device is not there.
    """
    return str(_engine(bundle).id_of(bundle, device=device, precision=precision))


def _engine(bundle: Bundle) -> Any:
    """The class of a bundle's network."""
    if bundle.kind == "starter":
        from ram_backend.models.starter.network import StarterNetwork

        return StarterNetwork
    from ram_backend.models.torch_network import TorchNetwork

    return TorchNetwork

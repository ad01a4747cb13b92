"""Loading of a bundle's network, on the engine of its kind."""

from __future__ import annotations

from typing import Any, Literal

from ram_backend.models.bundle import Bundle
from ram_backend.models.network import Network

Device = Literal["cpu", "cuda", "auto"]
Precision = Literal["fp32", "bf16", "fp16", "auto"]


def load_network(
    bundle: Bundle, *, device: Device = "auto", precision: Precision = "auto", threads: int | None = None
) -> Network:
    """Loads the weights of a bundle.

    Args:
        bundle: what to load.
        device: "auto" takes a CUDA device where there is one.
        precision: of the matrix products; "auto" is fp32 on the CPU and bf16 on CUDA devices that have it.
        threads: CPU threads for inference; None leaves the engine's default.

    Raises:
        BundleDamaged: the weights are not those of the architecture that the bundle names.
        SettingsError: the device is not there, or can't do that precision.
    """
    if bundle.kind == "starter":
        from ram_backend.models.starter.network import load_starter_network

        starter: Any = load_starter_network(bundle, device=device, precision=precision, threads=threads)
        return starter
    from ram_backend.models.torch_network import load_torch_network

    return load_torch_network(bundle, device=device, precision=precision, threads=threads)


def encoder_id_of(bundle: Bundle, *, device: Device = "auto", precision: Precision = "auto") -> str:
    """The `encoder_id` that `load_network` will give; imports the engine, reads no weights.

    Raises:
        SettingsError: the device is not there.
    """
    if bundle.kind == "starter":
        from ram_backend.models.starter.network import encoder_id

        return encoder_id(bundle.manifest["architecture"])
    from ram_backend.models.torch_network import torch_encoder_id

    return torch_encoder_id(bundle, device=device, precision=precision)

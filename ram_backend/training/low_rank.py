"""Low-rank tuning of a tagging head with peft: every large weight W becomes W + b a, and only a and b learn."""

from __future__ import annotations

from typing import Any

from torch import nn

from ram_backend.errors import NotAvailable
from ram_backend.models.head import TaggingHead
from ram_backend.models.tuned import LowRank

PRODUCTS = ("query", "key", "value", "attention_output", "up", "down")
"""Products of a layer that get factors; the classifier and the projection of label embeddings stay the bundle's."""

_ADAPTER = "default"


def add_factors(head: TaggingHead, rank: int) -> None:
    """Puts factors into a head, in place, and freezes everything else; at first they change nothing.

    Args:
        head: plain, as `TaggingHead` makes it.
        rank: r, at least 1.

    Raises:
        NotAvailable: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise NotAvailable(
            "Low-rank tuning needs peft, which is not installed: `pip install 'peft>=0.15,<1'`, or tune the whole head."
        ) from None
    targets = [name for name, part in head.named_modules() if isinstance(part, nn.Linear) and _is_product(name)]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, bias="none", lora_dropout=0.0)
    inject_adapter_in_model(config, head, adapter_name=_ADAPTER)


def factors_of(head: TaggingHead) -> dict[str, LowRank]:
    """The factors of a head that `add_factors` changed, by the name that their weight has in a plain head."""
    found: dict[str, LowRank] = {}
    for name, part in head.named_modules():
        if not _has_factors(part):
            continue
        layer: Any = part
        scale = float(layer.scaling[_ADAPTER])
        a = layer.lora_A[_ADAPTER].weight.detach().float().cpu().numpy()
        b = layer.lora_B[_ADAPTER].weight.detach().float().cpu().numpy()
        found[f"{name}.weight"] = LowRank(a.copy(), b * scale)
    return found


def _is_product(name: str) -> bool:
    return name.startswith("layers.") and name.rpartition(".")[2] in PRODUCTS


def _has_factors(part: nn.Module) -> bool:
    return hasattr(part, "lora_A") and _ADAPTER in part.lora_A  # type: ignore[operator]

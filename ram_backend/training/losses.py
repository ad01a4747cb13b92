"""Losses for tagging: many tags, few of them right, some of them unknown."""

from __future__ import annotations

import torch
from torch import Tensor


def asymmetric_loss(
    logits: Tensor, labels: Tensor, known: Tensor, *, focus: float = 4.0, margin: float = 0.05
) -> Tensor:
    """Binary cross-entropy that turns away from easy negatives (Ridnik et al. 2021, "Asymmetric Loss", equation 7).

    With p the probability of a tag: -log p where it is right, -q^focus log(1 - q) with q = max(p - margin, 0) where it
    is wrong, nothing where nobody knows. Focus 0 and margin 0 give plain binary cross-entropy.

    Args:
        logits: (B, L).
        labels: (B, L), 1 = right, 0 = wrong; anything where unknown.
        known: (B, L), 0 = unknown: no loss and no gradient; 1 = known; in between, the pair counts that much.
        focus: how fast negatives lose weight as they get easy, at least 0.
        margin: probability below which a negative counts nothing, in [0, 1).

    Returns:
        The weighted sum over all known pairs divided by B: a scalar, at least 0.
    """
    probability = torch.sigmoid(logits)
    positive = torch.nn.functional.softplus(-logits)
    shifted = (probability - margin).clamp_min(0) if margin else probability
    negative = -torch.log1p(-shifted.clamp_max(1 - 1e-06)) if margin else torch.nn.functional.softplus(logits)
    pairs = torch.where(labels > 0, positive, negative * shifted**focus if focus else negative)
    weighted = torch.where(known > 0, pairs, torch.zeros_like(pairs)) * known.to(pairs.dtype)
    return weighted.sum() / logits.shape[0]

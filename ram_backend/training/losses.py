"""Asymmetric loss for multi-label tagging with unknown labels."""

from __future__ import annotations

import torch
from torch import Tensor


def asymmetric_loss(
    logits: Tensor, labels: Tensor, known: Tensor, *, gamma_neg: float = 4.0, clip: float = 0.05
) -> Tensor:
    """Binary cross-entropy that turns away from easy negatives (Ridnik et al. 2021, "Asymmetric Loss", equation 7).

    With p the probability of a tag: -log p where it is right, -q^gamma_neg log(1 - q) with q = max(p - clip, 0) where
    it is wrong, nothing where nobody knows. The focusing weight q^gamma_neg carries gradient; RAM's training detaches
    it. gamma_neg 0 and clip 0 give plain binary cross-entropy.

    Args:
        logits: (B, L).
        labels: (B, L), 1 = right, 0 = wrong; anything where unknown.
        known: (B, L), 0 = unknown: no loss and no gradient; 1 = known; in between, the pair counts that much.
        gamma_neg: how fast negatives lose weight as they get easy, at least 0.
        clip: probability below which a negative counts nothing, in [0, 1).

    Returns:
        The weighted sum over all known pairs divided by B: a scalar, at least 0.
    """
    probability = torch.sigmoid(logits)
    positive = torch.nn.functional.softplus(-logits)
    shifted = (probability - clip).clamp_min(0) if clip else probability
    negative = -torch.log1p(-shifted.clamp_max(1 - 1e-06)) if clip else torch.nn.functional.softplus(logits)
    pairs = torch.where(labels > 0, positive, negative * shifted**gamma_neg if gamma_neg else negative)
    weighted = torch.where(known > 0, pairs, torch.zeros_like(pairs)) * known.to(pairs.dtype)
    return weighted.sum() / logits.shape[0]

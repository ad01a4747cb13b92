"""What a tuned head is held to besides the corrections: what the bundle said before, and what CLIP sees.

The encoder stays as it is, so what can follow CLIP's image feature is what the head makes of the image tokens: the mean
of its queries' last states (RAM paper, section 3.3, aligns the image features of its encoder in the same way).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def drift_loss(drift: Tensor, *, tolerance: float = 1.0) -> Tensor:
    """How far tags went from what the bundle says about them (replay of its own behaviour).

    Args:
        drift: (B, L) log-odds now minus the bundle's: squared where small, linear beyond `tolerance` (Huber).
        tolerance: log-odds, above 0.

    Returns:
        The mean over all pairs: a scalar, at least 0.
    """
    return functional.huber_loss(drift, torch.zeros_like(drift), delta=tolerance)


class ImageAligner(nn.Module):
    """Turns the head's last states into an image feature that can be compared with CLIP's; thrown away afterwards."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden, width)

    def forward(self, states: Tensor) -> Tensor:
        """States (B, L, H) of any tags to features (B, width), not normalised."""
        feature: Tensor = self.projection(states.mean(dim=1))
        return feature


def distillation_loss(features: Tensor, teacher: Tensor) -> Tensor:
    """L1 distance of normalised features (RAM paper, section 3.3).

    Args:
        features: (B, d) of the student.
        teacher: (B, d); a row of zeros says that there is no feature of that image.

    Returns:
        The mean over all images with a feature of the summed distance: a scalar, 0 where there is none.
    """
    known = teacher.abs().sum(dim=1) > 0
    if not known.any():
        return features.sum() * 0
    distance = functional.normalize(features[known], dim=1) - functional.normalize(teacher[known], dim=1)
    return distance.abs().sum(dim=1).mean()

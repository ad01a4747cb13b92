"""Promptable segmentation with SAM and SAM 2 (Kirillov et al. 2023, Ravi et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ram_backend.regions.weights import loading

if TYPE_CHECKING:
    import torch

Box = tuple[float, float, float, float]


class SegmentAnything:
    """A `Segmenter` on transformers' SAM or SAM 2. Safe for one thread.

    Args:
        folder: a checkpoint as the hub has it; its config.json says which of
            the two it is.
        device: a torch device.

    Raises:
        BundleNotFound: the folder is not there.
        BundleDamaged: it is not such a checkpoint.
    """

    def __init__(self, folder: Path, *, device: torch.device | str = "cpu") -> None:
        from transformers import AutoConfig, Sam2Model, Sam2Processor, SamModel, SamProcessor

        with loading("sam", folder):
            second = AutoConfig.from_pretrained(folder, local_files_only=True).model_type.startswith("sam2")
            model, processor = (Sam2Model, Sam2Processor) if second else (SamModel, SamProcessor)
            self._model: Any = model.from_pretrained(folder, local_files_only=True).to(device).eval()
            self._processor: Any = processor.from_pretrained(folder, local_files_only=True)
        self._device = device

    def masks(self, image: Image.Image, boxes: Sequence[Box]) -> NDArray[np.bool_]:
        """See `finder.Segmenter`."""
        import torch

        if not boxes:
            return np.empty((0, image.height, image.width), dtype=bool)
        scale = (image.width, image.height) * 2
        pixels = [[edge * side for edge, side in zip(box, scale, strict=True)] for box in boxes]
        inputs = self._processor(images=image.convert("RGB"), input_boxes=[pixels], return_tensors="pt")
        tensors = {name: inputs[name].to(self._device) for name in ("pixel_values", "input_boxes")}
        with torch.inference_mode():
            answer = self._model(**tensors, multimask_output=False)
        sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
        (found,) = self._processor.post_process_masks(answer.pred_masks.float().cpu(), *sizes)
        result: NDArray[np.bool_] = found[:, 0].numpy().astype(bool)
        return result


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """A mask (height, width) as COCO's run lengths: by columns, first a run of False."""
    flat = np.concatenate([[False], mask.flatten(order="F"), [False]])
    counts = np.diff([0, *np.flatnonzero(flat[1:-1] != flat[:-2]), mask.size])
    return {"size": [*map(int, mask.shape)], "counts": [*map(int, counts)]}

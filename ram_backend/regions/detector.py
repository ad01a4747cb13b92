"""Open-set detection with Grounding DINO (Liu et al. 2023, arXiv 2303.05499)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ram_backend.errors import InputError
from ram_backend.regions.evidence import Region
from ram_backend.regions.weights import loading

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float32]

BOX_THRESHOLD, TEXT_THRESHOLD = 0.35, 0.25
"""The authors': of the best token of a tag, and of the mean over its tokens."""
NMS_OVERLAP = 0.7
PROMPTS_AT_ONCE = 2
_SPLITTERS = ".?"
"""Characters that end a phrase for the network."""


class GroundingDino:
    """A `Detector` on transformers' Grounding DINO. Safe for one thread.

    A prompt holds as many tags as fit the text limit of the checkpoint (256
    tokens). Tags don't attend to each other; each is mapped to its own tokens.

    Args:
        folder: a checkpoint as the hub has it: config.json,
            model.safetensors, preprocessor_config.json, tokenizer files.
        device: a torch device.

    Raises:
        BundleNotFound: the folder is not there.
        BundleDamaged: it is not such a checkpoint.
    """

    def __init__(self, folder: Path, *, device: torch.device | str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, GroundingDinoForObjectDetection

        with loading("grounding-dino", folder):
            self._model: Any = GroundingDinoForObjectDetection.from_pretrained(folder, local_files_only=True)
            self._images: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = self._model.to(device).eval()
        self._device = device
        self.text_limit = int(self._model.config.max_text_len)

    def detect(self, image: Image.Image, tags: Sequence[str]) -> list[Region]:
        """See `finder.Detector`.

        Raises:
            InputError: a tag is longer than the text limit.
        """
        found: list[list[Region]] = [[] for _ in tags]
        waiting = list(self.prompts(tags))
        for start in range(0, len(waiting), PROMPTS_AT_ONCE):
            prompts = waiting[start : start + PROMPTS_AT_ONCE]
            boxes, scores = self._scores(image, [prompt for prompt, _ in prompts])
            for (_, spans), places, per_token in zip(prompts, boxes, scores, strict=True):
                for tag, span in spans:
                    found[tag] = _regions(tags[tag], places, per_token[:, span])
        return [region for regions in found for region in regions]

    def prompts(self, tags: Sequence[str]) -> Iterator[tuple[list[int], list[tuple[int, slice]]]]:
        """As few prompts as fit the tags in their order.

        Yields:
            Token ids, [CLS] first and [SEP] last, and per tag its number and
            the span of its tokens.

        Raises:
            InputError: a tag is longer than the text limit.
        """
        tokenizer = self._tokenizer
        stop = tokenizer.convert_tokens_to_ids(".")
        prompt: list[int] = [tokenizer.cls_token_id]
        spans: list[tuple[int, slice]] = []
        for number, tag in enumerate(tags):
            phrase = tag.lower().translate(str.maketrans(_SPLITTERS, " " * len(_SPLITTERS)))
            ids = tokenizer(phrase, add_special_tokens=False)["input_ids"]
            if not ids:
                continue
            if len(ids) + 3 > self.text_limit:
                raise InputError(f"The tag {tag[:40]!r}... has {len(ids)} of {self.text_limit - 3} tokens: shorten it.")
            if len(prompt) + len(ids) + 2 > self.text_limit:
                yield [*prompt, tokenizer.sep_token_id], spans
                prompt, spans = [tokenizer.cls_token_id], []
            spans.append((number, slice(len(prompt), len(prompt) + len(ids))))
            prompt += [*ids, stop]
        if spans:
            yield [*prompt, tokenizer.sep_token_id], spans

    def _scores(self, image: Image.Image, prompts: Sequence[list[int]]) -> tuple[FloatArray, FloatArray]:
        """Boxes (P, Q, 4) as shares (x0, y0, x1, y1), scores (P, Q, tokens) of P prompts."""
        import torch

        texts = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._device)
        pixels = self._images(images=[image.convert("RGB")] * len(prompts), return_tensors="pt").to(self._device)
        with torch.inference_mode():
            answer = self._model(**pixels, **texts, token_type_ids=torch.zeros_like(texts["input_ids"]))
        centre, size = answer.pred_boxes[..., :2], answer.pred_boxes[..., 2:]
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1).clamp(0, 1)
        return corners.float().cpu().numpy(), answer.logits.sigmoid().float().cpu().numpy()


def _regions(tag: str, boxes: FloatArray, per_token: FloatArray) -> list[Region]:
    """Regions of a tag, from boxes (Q, 4) and its tokens' scores (Q, n), after NMS."""
    import torch
    from torchvision.ops import nms

    scores = per_token.max(axis=1)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = np.flatnonzero((scores > BOX_THRESHOLD) & (per_token.mean(axis=1) > TEXT_THRESHOLD) & (area > 0))
    order = nms(torch.from_numpy(boxes[kept]), torch.from_numpy(scores[kept]), NMS_OVERLAP).numpy()
    found = []
    for place in kept[order]:
        x0, y0, x1, y1 = map(float, boxes[place])
        found.append(Region(tag, float(scores[place]), (x0, y0, x1, y1), ((x0 + x1) / 2, (y0 + y1) / 2)))
    return found

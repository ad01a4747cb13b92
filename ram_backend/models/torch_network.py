"""Inference of RAM, RAM++ and Tag2Text on torch: device, precision, selected tags."""

from __future__ import annotations

import copy
import logging
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ram_backend.errors import BundleDamaged, SettingsError, TextEncoderUnavailable, first_line
from ram_backend.models.bundle import NETWORK, Bundle
from ram_backend.models.head import TaggingHead, TagQueries
from ram_backend.models.label_embeddings import Entry, FloatArray, LabelEmbeddings
from ram_backend.models.ram import Architecture, LabelBlock, TaggingNetwork

PAIRS_AT_ONCE = 8192
"""Pairs of image and tag in the head together: some 100 MB."""

DESCRIBED_AT_ONCE = 512
"""Tags with descriptions in the head together: 53 MB."""

RESIDENT_ROWS = DESCRIBED_AT_ONCE * 51
"""Label rows of a selection that stay in memory; others are read as needed."""

FixedPrecision = Literal["fp32", "bf16", "fp16"]
_log = logging.getLogger(__name__)
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TorchQueries:
    """L chosen tags: their queries where fixed; else (RAM++) embeddings, if few."""

    entries: tuple[Entry, ...]
    fixed: TagQueries | None = field(default=None, repr=False)
    labels: LabelBlock | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.entries)


class TorchNetwork:
    """A `Network` on torch; may be used by several threads at once."""

    side_by_side = False  # each calling thread would bring a team of its own

    def __init__(self, bundle: Bundle, *, device: str, precision: str, threads: int | None) -> None:
        """Maps a bundle's weights; large products are in `precision`, the rest fp32."""
        self._device = torch_device(device)
        fixed = fixed_precision(precision, self._device)
        if fixed == "fp32" and precision not in ("fp32", "auto"):
            _log.warning(
                "This CPU has no instructions for %s and would emulate it, many times slower than fp32: fp32 is used."
                " Set RAM_PRECISION=auto, or force-%s to use it anyway.",
                precision,
                precision,
            )
        if threads is not None:
            torch.set_num_threads(threads)
        module = load_module(bundle)
        self._labels = LabelEmbeddings.open(bundle.path)
        if len(self._labels) != len(bundle.vocabulary):
            raise BundleDamaged(f"{bundle.path} has label embeddings of other tags. Make the bundle again.")
        self._half = _HALF.get(fixed)
        if self._half is not None:
            _halve_products(module, module.head, self._half)
            module.encoder.keep_residuals_in_float32()
        self._module = module.to(self._device).requires_grad_(False)
        self._new_tags = bundle.text_encoder is not None
        self.token_shape = module.architecture.encoder.token_shape
        self.encoder_id = self.id_of(bundle, device=device, precision=precision)

    @staticmethod
    def id_of(bundle: Bundle, *, device: str, precision: str) -> str:
        """The `encoder_id` of the constructor's network; see `encoder_id_of`."""
        place = torch_device(device)
        return f"{bundle.digest[:16]}-torch-{place.type}-{fixed_precision(precision, place)}"

    def head_tensors(self) -> dict[str, FloatArray]:
        """Copies of the tensors of a `TaggingHead` by their names, as float32."""
        state = self._module.head.state_dict()
        return {name: np.array(tensor.float().cpu().numpy()) for name, tensor in state.items()}

    def with_head(self, tensors: Mapping[str, FloatArray]) -> TorchNetwork:
        """A network with the head of these `head_tensors` that shares all else."""
        module = self._module.with_head({name: torch.tensor(array) for name, array in tensors.items()})
        if self._half is not None:
            _halve_products(module.head, module.head, self._half)
        module.head.to(self._device).requires_grad_(False)
        network = copy.copy(self)
        network._module = module
        return network

    @torch.inference_mode()
    def encode(self, pixels: FloatArray) -> FloatArray:
        """Pixels (B, 3, S, S) to tokens (B, T, D), both float32."""
        if len(pixels) == 0:
            return np.empty((0, *self.token_shape), dtype=np.float32)
        with self._autocast():
            tokens: Tensor = self._module.encoder(self._tensor(pixels))
        return tokens.float().cpu().numpy()

    @torch.inference_mode()
    def select(self, tags: Sequence[Entry]) -> TorchQueries:
        """Precomputes what the head needs of L tags; reads their label rows only."""
        if not self._new_tags and any(isinstance(entry, np.ndarray) for entry in tags):
            raise TextEncoderUnavailable("A bundle without a text encoder: ask for tags of its vocabulary.")
        if self._module.reweight_scale is None:
            labels = self._module.label_block(self._labels, tags)
            return TorchQueries(tuple(tags), fixed=self._module.queries(labels, None))
        few = sum(self._labels.count(entry) for entry in tags) <= RESIDENT_ROWS
        resident = tags and (few or self._device.type != "cpu")
        rows = self._module.label_block(self._labels, tags) if resident else None
        return TorchQueries(tuple(tags), labels=rows)

    @torch.inference_mode()
    def logits(self, tokens: FloatArray, queries: TorchQueries) -> FloatArray:
        """Logits (B, L) float32 of the selected tags on images with tokens (B, T, D)."""
        result = np.empty((len(tokens), len(queries)), dtype=np.float32)
        if result.size == 0:
            return result
        seen, head = self._tensor(tokens), self._module.head
        with self._autocast():
            memory = head.keys_values(seen)
        step = max(1, PAIRS_AT_ONCE // len(tokens))
        if queries.fixed is None:
            step = min(step, DESCRIBED_AT_ONCE)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            some = self._part(queries, part, seen)
            with self._autocast():
                hidden = head.hidden_states(memory, some)
            result[:, part] = head.classify(hidden.float(), some).cpu().numpy()
        return result

    def evidence(self, tokens: FloatArray, queries: TorchQueries) -> FloatArray:
        """Evidence maps (B, S, S, L), see `Network`; token 0 has no place."""
        side = int((self.token_shape[0] - 1) ** 0.5)
        maps = np.empty((len(tokens), side, side, len(queries)), dtype=np.float32)
        for row, one in enumerate(tokens):
            with torch.no_grad(), self._autocast():
                seen = self._tensor(one[None])
                some = self._part(queries, slice(None), seen)
                some = TagQueries(*(None if array is None else array.clone() for array in some))  # type: ignore[arg-type]
                found = self._module.head.relevance(seen, some)[0, :, 1:]
            maps[row] = found.float().cpu().numpy().T.reshape(side, side, -1)
        return maps

    def _part(self, queries: TorchQueries, part: slice, tokens: Tensor) -> TagQueries:
        if queries.fixed is not None:
            return TagQueries(*(None if array is None else array[part] for array in queries.fixed))  # type: ignore[arg-type]
        labels = queries.labels
        some = labels.part(part) if labels else self._module.label_block(self._labels, queries.entries[part])
        return self._module.queries(some, tokens)

    def _tensor(self, array: FloatArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self._device)

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self._half is None else torch.autocast(self._device.type, self._half)


def load_module(bundle: Bundle) -> TaggingNetwork:
    """A bundle's network as a torch module: CPU, fp32, evaluation mode.

    The weights are private pages of the bundle's file: changing them never
    changes the bundle.

    Raises:
        BundleDamaged: the weights don't fit the bundle's architecture.
    """
    path = bundle.path / NETWORK
    try:
        architecture = Architecture.from_json(bundle.manifest["architecture"])
        return TaggingNetwork.with_weights(architecture, load_file(path))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleDamaged(f"{path} doesn't fit its bundle ({first_line(error)}). Make it again.") from None


def torch_device(name: str) -> torch.device:
    """A setting's device, "auto": CUDA if any; SettingsError: it is missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("The device is cuda, and torch finds none: set RAM_DEVICE=auto, or check the driver.")
    on_gpu = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if on_gpu else "cpu")


def fixed_precision(name: str, device: torch.device) -> FixedPrecision:
    """The precision that is used where `name` is asked for."""
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    plain = cast(FixedPrecision, name.removeprefix("force-"))
    emulated = plain != "fp32" and plain == name and device.type == "cpu" and _is_emulated(plain)
    return "fp32" if emulated else plain


def _is_emulated(precision: Literal["bf16", "fp16"]) -> bool:
    """Whether this CPU has no instructions for products in that precision."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        names = {"bf16": ("avx512_bf16", "amx_tile"), "fp16": ("amx_fp16",)}[precision]
        checks = (getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in names)
        return not any(check() for check in checks)
    return not getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")()


def _halve_products(module: nn.Module, head: TaggingHead, half: torch.dtype) -> None:
    """Stores the weights of large products in half precision."""
    exact = {head.projection, head.classifier, head.layers[0].query}
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d) and part not in exact:
            part.to(half)

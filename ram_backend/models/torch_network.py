"""Inference of RAM, RAM++ and Tag2Text on torch: device, mixed precision, thread count, selected tags only."""

from __future__ import annotations

import copy
import logging
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ram_backend.errors import BundleDamaged, SettingsError, TextEncoderUnavailable, VocabularyError
from ram_backend.models.bundle import NETWORK, Bundle
from ram_backend.models.head import KeysValues, TaggingHead, TagQueries
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.models.ram import Architecture, Descriptions, TaggingNetwork

PAIRS_AT_ONCE = 8192
"""Pairs of image and tag that go through the head together: bounds its memory to some 100 MB."""

DESCRIBED_AT_ONCE = 512
"""Tags with descriptions that go through together: their rows take 53 MB at 51 rows of width 512."""

RESIDENT_ROWS = 512 * 51
"""Label rows of a selection that stay in memory (53 MB at width 512); more are read from the mapped file as needed."""

Entry = int | NDArray[np.float32]
FixedPrecision = Literal["fp32", "bf16", "fp16"]
_log = logging.getLogger(__name__)
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class FixedQueries:
    """Queries that don't depend on the image: computed once."""

    tags: TagQueries

    def __len__(self) -> int:
        return len(self.tags.hidden)


@dataclass(frozen=True)
class ImageDependentQueries:
    """Tags whose queries depend on the image (RAM++): their rows, in memory if they are few."""

    entries: tuple[Entry, ...]
    resident: Descriptions | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.entries)


class TorchNetwork:
    """A `Network` (see `network.py`) on torch; may be used by several threads at once."""

    side_by_side = False  # each calling thread would bring a team of its own

    def __init__(
        self,
        module: TaggingNetwork,
        labels: LabelEmbeddings,
        *,
        device: torch.device,
        precision: FixedPrecision,
        identity: str,
        new_tags: bool,
        threads: int | None = None,
    ) -> None:
        """Takes over a module.

        Args:
            module: in evaluation mode; moved to `device`, and its large weights to `precision`.
            labels: label embeddings of the vocabulary.
            device: where to compute.
            precision: of matrix products and convolutions; everything else stays in float32.
            identity: names the weights.
            new_tags: whether tags outside the vocabulary can be scored.
            threads: CPU threads of each call; None leaves torch's own number.
        """
        self._half = _HALF.get(precision)
        if self._half is not None:
            _halve(module, self._half)
        self._module = module.to(device).requires_grad_(False)
        self._labels = labels
        self._device = device
        self._new_tags = new_tags
        self._threads = threads
        self.token_shape = module.architecture.encoder.token_shape
        self.encoder_id = _encoder_id(identity, device, precision)

    def head_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the head's tensors by their names in the state dict of a `TaggingHead`, as float32."""
        state = self._module.head.state_dict()
        return {name: np.array(tensor.float().cpu().numpy()) for name, tensor in state.items()}

    def with_head(self, tensors: Mapping[str, NDArray[np.float32]]) -> TorchNetwork:
        """A network with another head that shares encoder and label embeddings with this one.

        Args:
            tensors: float32, in the names and shapes of `head_tensors`; copied.
        """
        head = self._module.head_of({name: torch.tensor(array) for name, array in tensors.items()})
        if self._half is not None:
            _halve_products(head, head, self._half)
        network = copy.copy(self)
        network._module = self._module.with_head(head.to(self._device).requires_grad_(False))
        return network

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixels (B, 3, S, S) to tokens (B, T, D), both float32."""
        if len(pixels) == 0:
            return np.empty((0, *self.token_shape), dtype=np.float32)
        with self._computing():
            tokens: Tensor = self._module.encoder(self._tensor(pixels))
        return tokens.float().cpu().numpy()

    @torch.inference_mode()
    def select(self, tags: Sequence[Entry]) -> FixedQueries | ImageDependentQueries:
        """Precomputes what the head needs to know about L tags; reads the label rows of these tags and no others.

        Raises:
            TextEncoderUnavailable: a new tag, and the network learned its tags without a text encoder.
            VocabularyError: a row outside the vocabulary, or an embedding of another width.
        """
        entries = tuple(self._checked(entry) for entry in tags)
        if self._module.reweight_scale is not None:
            rows = sum(int(self._labels.counts[entry]) if isinstance(entry, int) else len(entry) for entry in entries)
            resident = self._device.type != "cpu" or rows <= RESIDENT_ROWS
            return ImageDependentQueries(entries, self._descriptions(entries) if resident and entries else None)
        embeddings = self._label_rows(entries)
        if self._module.architecture.head.classifier == "shared":
            return FixedQueries(self._module.head.queries(embeddings))
        rows_of_tags = torch.tensor(entries, dtype=torch.int64, device=self._device)
        return FixedQueries(self._module.head.queries(embeddings, rows_of_tags))

    @torch.inference_mode()
    def logits(self, tokens: NDArray[np.float32], queries: FixedQueries | ImageDependentQueries) -> NDArray[np.float32]:
        """Logits (B, L) float32 of the selected tags on images with tokens (B, T, D)."""
        result = np.empty((len(tokens), len(queries)), dtype=np.float32)
        if result.size == 0:
            return result
        seen = self._tensor(tokens)
        with self._computing():
            memory = self._module.head.keys_values(seen)
        step = max(1, PAIRS_AT_ONCE // len(tokens))
        if isinstance(queries, ImageDependentQueries):
            step = min(step, DESCRIBED_AT_ONCE)
        for start in range(0, len(queries), step):
            part = slice(start, min(start + step, len(queries)))
            result[:, part] = self._score(memory, self._part(queries, part, seen)).cpu().numpy()
        return result

    def _score(self, memory: list[KeysValues], queries: TagQueries) -> Tensor:
        with self._computing():
            hidden = self._module.head.hidden_states(memory, queries)[-1]
        return self._module.head.classify(hidden.float(), queries)

    def _part(self, queries: FixedQueries | ImageDependentQueries, part: slice, tokens: Tensor) -> TagQueries:
        if isinstance(queries, FixedQueries):
            return TagQueries(*(None if array is None else array[part] for array in queries.tags))  # type: ignore[arg-type]
        if queries.resident is None:
            descriptions = self._descriptions(queries.entries[part])
        else:
            rows, absent = queries.resident
            descriptions = Descriptions(rows[part], None if absent is None else absent[part])
        return self._module.head.queries(self._module.reweighted(tokens, descriptions))

    def _checked(self, entry: Entry) -> Entry:
        if not isinstance(entry, np.ndarray):
            if not 0 <= entry < len(self._labels):
                raise VocabularyError(f"There is no tag {entry}: the bundle has the tags 0 to {len(self._labels) - 1}.")
            return int(entry)
        if not self._new_tags:
            raise TextEncoderUnavailable(
                "This bundle learned its tags without a text encoder and can't score a new one: ask for tags of its"
                " vocabulary, or use another bundle."
            )
        rows = np.atleast_2d(np.asarray(entry, dtype=np.float32))
        if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != self._labels.width:
            raise VocabularyError(
                f"The embedding of a new tag has shape {entry.shape}, this bundle needs (k, {self._labels.width}):"
                " embed it with the bundle's own text encoder."
            )
        return rows

    def _label_rows(self, entries: Sequence[Entry]) -> Tensor:
        """(L, d): one row per tag; several embeddings of a new tag are averaged and brought back to length 1."""
        rows = np.empty((len(entries), self._labels.width), dtype=np.float32)
        known = [place for place, entry in enumerate(entries) if isinstance(entry, int)]
        if known:
            rows[known] = self._labels.gather([int(entries[place]) for place in known])
        for place, entry in enumerate(entries):
            if isinstance(entry, np.ndarray):
                mean = entry.mean(axis=0)
                rows[place] = entry[0] if len(entry) == 1 else mean / max(float(np.linalg.norm(mean)), 1e-12)
        return self._tensor(rows)

    def _descriptions(self, entries: Sequence[Entry]) -> Descriptions:
        rows = [torch.from_numpy(self._labels.of(entry) if isinstance(entry, int) else entry) for entry in entries]
        return Descriptions.of(rows).to(self._device)

    def _tensor(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self._device)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch_threads(self._threads), self._precision():
            yield

    def _precision(self) -> AbstractContextManager[object]:
        return nullcontext() if self._half is None else torch.autocast(self._device.type, self._half)


class _ThreadCount:
    """Torch's number of CPU threads, which is one per process: set for a while, restored when the last user is done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0

    @contextmanager
    def __call__(self, threads: int | None) -> Iterator[None]:
        """Computes with so many threads (at least 1); None changes nothing."""
        if threads is None:
            yield
            return
        with self._lock:
            if self._users == 0:
                self._before = torch.get_num_threads()
            self._users += 1
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                torch.set_num_threads(self._before)


torch_threads = _ThreadCount()


def load_torch_network(bundle: Bundle, *, device: str, precision: str, threads: int | None) -> TorchNetwork:
    """Implements `network.load_network` for RAM, RAM++ and Tag2Text; weights are mapped from the bundle's file."""
    place = _device(device)
    fixed = _precision(precision, place)
    if fixed == "fp32" and precision not in ("fp32", "auto"):
        _log.warning(
            "This CPU has no instructions for %s and would emulate it, many times slower than fp32: fp32 is used."
            " Set RAM_PRECISION=auto, or force-%s to use it anyway.",
            precision,
            precision,
        )
    module = load_module(bundle)
    labels = LabelEmbeddings.open(bundle.path)
    if len(labels) != len(bundle.vocabulary):
        raise BundleDamaged(
            f"Bundle {bundle.path} has {len(bundle.vocabulary)} tags and label embeddings for {len(labels)}."
            " Remove the bundle and make it again."
        )
    return TorchNetwork(
        module,
        labels,
        device=place,
        precision=fixed,
        identity=bundle.digest[:16],
        new_tags=bundle.text_encoder is not None,
        threads=threads,
    )


def torch_encoder_id(bundle: Bundle, *, device: str, precision: str) -> str:
    """The `encoder_id` of the network that `load_torch_network` gives; reads no weights.

    Raises:
        SettingsError: the device is not there.
    """
    place = _device(device)
    return _encoder_id(bundle.digest[:16], place, _precision(precision, place))


def _encoder_id(identity: str, device: torch.device, precision: str) -> str:
    return f"{identity}-torch-{device.type}-{precision}"


def load_module(bundle: Bundle) -> TaggingNetwork:
    """The network of a bundle as a torch module on the CPU, in fp32 and evaluation mode; for training see its class.

    The weights are private pages of the bundle's file: changing them changes this module and never the bundle.

    Raises:
        BundleDamaged: the weights are not those of the architecture that the bundle names.
    """
    path = bundle.path / NETWORK
    try:
        architecture = Architecture.from_json(bundle.manifest["architecture"])
        return TaggingNetwork.with_weights(architecture, load_file(path))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).splitlines()[0]
        raise BundleDamaged(f"{path} doesn't fit its bundle ({first}). Remove the bundle and make it again.") from None


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "The device is cuda, and torch finds none: set RAM_DEVICE=cpu or auto, or check the driver."
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _precision(name: str, device: torch.device) -> FixedPrecision:
    """The precision that is used where `name` is asked for."""
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    plain = cast(FixedPrecision, name.removeprefix("force-"))
    return "fp32" if plain == name and device.type == "cpu" and _is_emulated(plain) else plain


def _is_emulated(precision: FixedPrecision) -> bool:
    """Whether this CPU has no instructions for products in that precision."""
    if precision == "fp32":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        names = {"bf16": ("avx512_bf16", "amx_tile"), "fp16": ("amx_fp16",)}[precision]
        return not any(getattr(torch.cpu, f"_is_{name}_supported", lambda: False)() for name in names)
    return not getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")()


def _halve(module: TaggingNetwork, half: torch.dtype) -> None:
    """Stores the weights of large products in half precision; what is small or feeds the logits stays."""
    _halve_products(module, module.head, half)
    module.encoder.keep_residuals_in_float32()


def _halve_products(module: nn.Module, head: TaggingHead, half: torch.dtype) -> None:
    kept = {head.projection, head.classifier, head.layers[0].query}
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d) and part not in kept:
            part.to(half)

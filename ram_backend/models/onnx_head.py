"""The starter's tagging head inside its two ONNX files: its weights read out, and other weights put in; without torch.

The exporter keeps the names of biases and norms, and of some weights; other weights it stores transposed, under made-up
names, as the second factor of the product that the bias is added to. Both are found by walking the graph, so that a
head that was tuned runs in the very graph that the bundle's own head runs in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import BundleDamaged
from ram_backend.models.starter.network import HEAD, HEAD_QUERIES

FloatArray = NDArray[np.float32]

_PREFIX = "head."
_WEIGHT, _BIAS = ".weight", ".bias"


@dataclass(frozen=True)
class _Place:
    """Where a head's tensor is stored: the initializer's name, and whether it is transposed there."""

    initializer: str
    transposed: bool


class OnnxHead:
    """The head of one starter bundle, opened for reading its weights and for making files with others.

    Args:
        directory: the bundle's.

    Raises:
        BundleDamaged: a file is missing or is no ONNX file.
    """

    def __init__(self, directory: Path) -> None:
        import onnx

        self._directory = directory
        try:
            self._models = {name: onnx.load(str(directory / name)) for name in (HEAD_QUERIES, HEAD)}
        except Exception as error:  # onnx raises protobuf's own errors, which share no base class
            raise _damaged(directory, f"can't be read ({str(error).splitlines()[0][:160]})") from None
        self._places = {name: _places(model.graph) for name, model in self._models.items()}

    def tensors(self) -> dict[str, FloatArray]:
        """Copies of the head's tensors, named and shaped as in the state dict of a `TaggingHead`; float32."""
        from onnx import numpy_helper

        found: dict[str, FloatArray] = {}
        for file, places in self._places.items():
            stored = {entry.name: entry for entry in self._models[file].graph.initializer}
            for tensor, place in places.items():
                array = np.array(numpy_helper.to_array(stored[place.initializer]), dtype=np.float32)
                found[tensor] = np.ascontiguousarray(array.T if place.transposed else array)
        if not found:
            raise _damaged(self._directory, "hold no tagging head")
        return found

    def files(self, tensors: Mapping[str, FloatArray]) -> dict[str, bytes]:
        """The two ONNX files with other weights.

        Args:
            tensors: all of those that `tensors` gives, in the same shapes.

        Returns:
            The files' contents, by the names that they have in a bundle.
        """
        import onnx
        from onnx import numpy_helper

        made: dict[str, bytes] = {}
        for file, places in self._places.items():
            model = onnx.ModelProto()
            model.CopyFrom(self._models[file])
            stored = {entry.name: entry for entry in model.graph.initializer}
            for tensor, place in places.items():
                array = np.asarray(tensors[tensor], dtype=np.float32)
                array = np.ascontiguousarray(array.T if place.transposed else array)
                stored[place.initializer].CopyFrom(numpy_helper.from_array(array, place.initializer))
            made[file] = model.SerializeToString()
        return made


def _places(graph: Any) -> dict[str, _Place]:
    """Where each tensor of the head is, by its name in the state dict."""
    stored = {entry.name for entry in graph.initializer}
    places = {name.removeprefix(_PREFIX): _Place(name, False) for name in stored if name.startswith(_PREFIX)}
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        bias = next((name for name in node.input if name.startswith(_PREFIX) and name.endswith(_BIAS)), None)
        if node.op_type != "Add" or bias is None:
            continue
        weight = bias.removeprefix(_PREFIX).removesuffix(_BIAS) + _WEIGHT
        other = next(name for name in node.input if name != bias)
        product = made_by.get(other)
        if weight not in places and product is not None and product.op_type == "MatMul" and product.input[1] in stored:
            places[weight] = _Place(product.input[1], True)
    return places


def _damaged(directory: Path, what: str) -> BundleDamaged:
    return BundleDamaged(f"{HEAD} and {HEAD_QUERIES} of {directory} {what}: remove that directory, it is made again.")

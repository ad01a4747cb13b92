"""ONNX: export of a torch module to one file, and its session."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def package_file(package: str, name: str) -> Path | None:
    """A file of an installed package, which is not imported; None: there is none."""
    found = find_spec(package)
    files = [Path(place) / name for place in (found.submodule_search_locations or ()) if found] if found else []
    return next((file for file in files if file.is_file()), None)


def export_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    input_names: list[str],
    output_names: list[str],
    axes: tuple[dict[int, str], ...],
) -> None:
    """Exports a module in evaluation mode to one ONNX file.

    `inputs` are examples, at least 2 long on every dynamic axis; `axes` has,
    per input, the names of the dynamic lengths by axis: equal names have equal
    lengths.
    """
    import torch

    dimensions = {name: torch.export.Dim(name) for axis in axes for name in axis.values()}
    shapes = tuple({at: dimensions[name] for at, name in axis.items()} for axis in axes)
    for name in ("torch.onnx", "onnxscript"):  # the exporter is verbose; errors still raise
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()), torch.no_grad():
        torch.onnx.export(
            module,
            inputs,
            str(path),
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def onnx_session(path: Path, threads: int | None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU; `threads` None: its default.

    Raises:
        RuntimeError: the file is missing or damaged; names it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise RuntimeError(f"{path.name}: {str(error).splitlines()[0][:160]}") from None

"""ONNX graphs with 8-bit arithmetic, by onnxruntime's static quantisation.

Weights have a scale for each output channel, activations one for each tensor: from their smallest to their largest
value on the given images. Convolutions, and the ReLUs and max-pools between them, are in 8 bits. Sums, concatenations
and resampling stay in float32, because 8 bits would harm the masks there more than they save time; so do the last
convolutions, whose output decides the class.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

OPERATORS = ("Conv", "ConvTranspose", "Relu", "MaxPool")
_CONVOLUTIONS = ("Conv", "ConvTranspose")


def quantised(model: Any, name: str, samples: Iterable[Tensor]) -> Any:
    """Return ``model``, an ``onnx.ModelProto``, with 8-bit convolutions.

    Args:
        model: in float32; its only input is called ``name``.
        name: of the input.
        samples: inputs to calibrate on.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self.left, None)
            return None if sample is None else {name: sample.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "quantised.onnx"
        quantize_static(
            model,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=last_convolutions(model.graph),
        )
        return onnx.load(target)


def last_convolutions(graph: Any) -> list[str]:
    """Return the names of the convolutions from which the output is reached without another convolution."""
    makers = {output: node for node in graph.node for output in node.output}
    waiting, seen, found = [value.name for value in graph.output], set[str](), []
    while waiting:
        value = waiting.pop()
        if value in seen or value not in makers:
            continue
        seen.add(value)
        node = makers[value]
        if node.op_type in _CONVOLUTIONS:
            found.append(node.name)
        elif node.op_type != "Shape":  # only sizes continue from there
            waiting += node.input
    return found

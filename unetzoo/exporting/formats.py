"""Turns a network into the bytes of a file, and the bytes of a file into something to run."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from unetzoo import __version__
from unetzoo.exporting import qgis
from unetzoo.exporting.network import example, ports
from unetzoo.exporting.quantising import quantised
from unetzoo.exporting.quiet import quiet
from unetzoo.exporting.request import Request

OPSET, IR_VERSION = 20, 9
"""Versions of ONNX files, for onnxruntime from 1.17 on; torch writes IR version 10, which needs onnxruntime 1.18."""
ANY_SIZE = 2**31
METADATA_FILE = "unetzoo.json"
"""Name of the metadata among the extra files of a ``.pt2``."""


def content(request: Request, network: nn.Module, facts: Mapping[str, str], samples: Iterable[Tensor]) -> bytes:
    """Return the content of the file.

    Args:
        request: the export.
        network: the network to export.
        facts: metadata to store.
        samples: inputs of the network to calibrate on, for int8.
    """
    with quiet(), torch.no_grad():
        program = torch.export.export(network, (example(request),), dynamic_shapes=request.dynamic_shapes)
        match request.format:
            case "onnx":
                return _onnx(request, program, facts, samples)
            case "pt2":
                return _pt2(program, facts)
        return _aoti(program, facts)


def runner(form: str, file: bytes) -> Callable[[Tensor], Tensor]:
    """Return a function that runs a file on the CPU, with as many threads as torch uses."""
    with quiet():
        if form == "pt2":
            run: Callable[[Tensor], Tensor] = torch.export.load(io.BytesIO(file)).module()
            return run
        if form == "aoti":
            with tempfile.TemporaryDirectory() as folder:
                package = Path(folder) / "model.pt2"
                package.write_bytes(file)
                loaded: Callable[[Tensor], Tensor] = torch._inductor.aoti_load_package(str(package))
                return loaded
        return _session(file)


def _onnx(request: Request, program: ExportedProgram, facts: Mapping[str, str], samples: Iterable[Tensor]) -> bytes:
    import onnxscript.optimizer

    taken, given = ports(request)
    exported = torch.onnx.export(
        program,
        (),
        input_names=[taken.name],
        output_names=[given.name],
        dynamic_shapes=request.dynamic_shapes,  # for the names of the sides
        opset_version=OPSET if request.qgis is None else qgis.OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert exported is not None
    # torch leaves the reshaping of large weights to each start, which prevents their quantisation to 8 bits.
    onnxscript.optimizer.fold_constants(exported.model, input_size_limit=ANY_SIZE, output_size_limit=ANY_SIZE)
    model = exported.model_proto
    if request.precision == "int8":
        model = quantised(model, taken.name, samples)
    _anonymise(model.graph)
    model.ir_version = IR_VERSION if request.qgis is None else qgis.IR_VERSION  # nothing in it is newer
    model.producer_name, model.producer_version = "unetzoo", __version__
    del model.metadata_props[:]
    for name, text in facts.items():
        model.metadata_props.add(key=name, value=text)
    file: bytes = model.SerializeToString()
    return file


def _anonymise(graph: Any) -> None:
    """Remove torch's notes about its own graph, which include folders of this machine."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]


def _pt2(program: ExportedProgram, facts: Mapping[str, str]) -> bytes:
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(facts, indent=2) + "\n"})
    return file.getvalue()


def _aoti(program: ExportedProgram, facts: Mapping[str, str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        package = str(Path(folder) / "model.pt2")
        options = {"aot_inductor.metadata": dict(facts)}
        torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=options)
        return Path(package).read_bytes()


def _session(file: bytes) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    return run

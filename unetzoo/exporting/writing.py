"""From a model to a file that was run before it was kept."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from unetzoo.errors import UnetzooError
from unetzoo.exporting.comparing import Run, agreement_on, trials
from unetzoo.exporting.formats import content, runner
from unetzoo.exporting.network import Deployed, deployed, metadata, ports
from unetzoo.exporting.outcome import ExportReport
from unetzoo.exporting.pictures import Given, Pictures, read_pictures, samples
from unetzoo.exporting.request import Request, check
from unetzoo.files.writing import replacing
from unetzoo.folding import optimize
from unetzoo.model import SegmentationModel


def export(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    *,
    inputs: str = "normalised",
    outputs: str = "logits",
    precision: str = "float32",
    pictures: Pictures | None = None,
    size: Sequence[int] | None = None,
) -> ExportReport:
    """Write ``model`` as a file that runs without unetzoo, and compare it with the model before it is kept.

    What is written is :func:`unetzoo.folding.optimize`'s copy, in evaluation mode; ``model`` stays as it is.
    Images are (batch, in_channels, height, width); batch, height and width stay free.

    Args:
        model: of any kind, on any device, in either mode.
        path: its ending says the format. ``.onnx``: ONNX, opset 20, one file; needs ``unetzoo[export]``. ``.pt2``: a
            program of ``torch.export``. ``.aoti.pt2``: a package compiled by AOTInductor, for this kind of
            processor and ``torch._inductor.aoti_load_package``; takes minutes and a C++ compiler.
        inputs: "normalised": float32 as the model itself takes them; "uint8" or "uint16": pixels as stored, scaled
            to [0, 1] and normalised by ``config.mean`` and ``config.std`` inside, as ``images.prepare`` does.
        outputs: "logits" or "probabilities": (batch, num_classes, height, width) float32; "mask": uint8, of
            (batch, height, width) the index of the likeliest class, or 1 where a binary model's probability is above
            0.5, and for ``task="multilabel"`` the same of each class, (batch, num_classes, height, width).
        precision: of weights and arithmetic; what goes in and comes out stays as above. "float32". "float16" (.onnx,
            .pt2) and "bfloat16" (.pt2, .aoti.pt2) halve the file. "int8" (.onnx) quarters it: convolutions in 8 bits,
            with ranges taken from ``pictures``.
        pictures: a folder of pictures, or one that has them in ``images/``, or a list of files: some like those that
            the file will see. int8 needs them; of any precision the masks are compared on them. Up to 32 are used,
            spread evenly over more, and of each up to 512 × 512 pixels from the middle.
        size: height and width, to fix them; ``unet_valid``, whose sides are 16 k + 60, can be exported no other way.
            None: any from the largest stride of the encoder plus 1 up, 33 for ResNets.

    Returns:
        Differences, agreement of masks and times at three sizes. Print it.

    Raises:
        ConfigError: lists all that is wrong with the arguments, or missing on this machine.
        InputError: pictures that cannot be read, or do not fit; lists them.
        UnetzooError: the exporter failed; or the file does not do what the model does: in float32 its logits differ
            by more than 1e-4 of their spread; in other precisions its masks agree on less than 90 % of the pixels, or
            have an IoU under 0.5 on ``pictures``. Nothing is left behind then.
        WeightsError: the file cannot be written.
    """
    start = time.perf_counter()
    request, files = check(
        model, path, inputs=inputs, outputs=outputs, precision=precision, size=size, pictures=pictures
    )
    stored = read_pictures(files, model.config, inputs)
    whole = samples(stored, model.config, inputs, request.size, request.least)
    exact = _exact(model)
    network = deployed(request, exact)
    with replacing(request.path) as stream:
        file = _file(request, network, whole)
        eager, run = torch.inference_mode()(exact), _running(request, file)
        tried = trials(request, eager, run, stored)
        agreement = agreement_on(request, eager, run, whole) if whole else None
        stream.write(file)
    taken, given = ports(request)
    seconds = time.perf_counter() - start
    return ExportReport(
        str(request.path), request.format, precision, len(file), seconds, taken, given, tried, agreement
    )


def _exact(model: SegmentationModel) -> SegmentationModel:
    try:
        copied = copy.deepcopy(model)
    except RuntimeError:
        optimize(model)  # says which weight is made of others, so that it cannot be copied
        raise
    return copied.to("cpu", torch.float32).eval()


def _file(request: Request, network: Deployed, whole: Sequence[Given]) -> bytes:
    try:
        return content(request, network, metadata(request), [sample.file for sample in whole])
    # The exporters of torch and onnxruntime raise errors of many kinds.
    except Exception as error:
        raise _failed(request, "could not be exported", error) from error


def _running(request: Request, file: bytes) -> Run:
    try:
        run = runner(request.format, file)
    except Exception as error:
        raise _failed(request, "was exported, and cannot be loaded", error) from error

    def checked(images: Tensor) -> Tensor:
        try:
            return run(images)
        except Exception as error:
            raise _failed(request, f"was exported, and cannot be run on {tuple(images.shape)}", error) from error

    return checked


def _failed(request: Request, what: str, error: Exception) -> UnetzooError:
    said = (str(error).strip().splitlines() or [""])[0]
    return UnetzooError(
        f"{request.model.config.name} {what} as {request.format}, {request.precision} "
        f"({type(error).__name__}: {said:.300}); nothing was written"
    )

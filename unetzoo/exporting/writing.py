"""Exports a model to a file, which is run and compared before it is kept."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unetzoo.errors import InputError, UnetzooError
from unetzoo.exporting import qgis
from unetzoo.exporting.about import About, card_beside
from unetzoo.exporting.comparing import Eager, Run, agreement_on, checks
from unetzoo.exporting.formats import content, runner
from unetzoo.exporting.network import Deployed, average_logits, deployed, metadata, ports
from unetzoo.exporting.outcome import ExportReport
from unetzoo.exporting.package import package, tested
from unetzoo.exporting.quiet import quiet
from unetzoo.exporting.request import INTEGERS, Images, Request, check
from unetzoo.exporting.samples import Samples, read_images
from unetzoo.exporting.whole import logits_of
from unetzoo.files.notes import Note
from unetzoo.files.packages import SUFFIX as PACKAGE
from unetzoo.files.writing import folder_made, replacing
from unetzoo.folding import OptimizedModel, optimize
from unetzoo.model import SegmentationModel
from unetzoo.prediction import Predictor
from unetzoo.prediction.networks import Model, check_weights, listed, loaded


def export(
    model: Predictor | Model | Sequence[Model],
    path: str | os.PathLike[str],
    *,
    inputs: str | None = None,
    outputs: str | None = None,
    precision: str = "float32",
    images: Images | None = None,
    size: Sequence[int] | None = None,
    consumer: str | None = None,
    resolution: float | None = None,
    about: About | None = None,
) -> ExportReport:
    """Write ``model`` as a file that runs without unetzoo, and compare it with the model before it is kept.

    The file holds the copy made by :func:`unetzoo.folding.optimize`, in evaluation mode; ``model`` does not change.
    Images are (batch, in_channels, height, width); batch, height and width stay free.

    Args:
        model: any model, on any device, in training or evaluation mode; or what ``unetzoo.Predictor`` takes: the name
            or path of a model; or a list of these, or a predictor, whose networks' probabilities are averaged in one
            file, each network with its own normalisation. Views, tiles and thresholds of a predictor are left out,
            except the threshold for QGIS.
        path: its ending gives the format. ``.onnx``: ONNX, opset 20, one file; needs ``unetzoo[export]``. ``.pt2``: a
            program of ``torch.export``. ``.aoti.pt2``: a package compiled by AOTInductor, for this kind of processor
            and ``torch._inductor.aoti_load_package``; takes minutes and a C++ compiler. ``.zip``: a BioImage.IO package
            of one model, for Fiji, QuPath, ilastik and napari; needs ``unetzoo[bioimageio]``.
        inputs: "normalised": float32 as the model itself takes them; "uint8", "uint16" or "int16": pixels as stored,
            which the file scales to [0, 1] and normalises by ``config.mean`` and ``config.std``, as ``images.prepare``
            does. The latter are not for models that normalise each image on its own, because a file cannot know whether
            it sees a whole image. Packages take such pixels as float32, also for those models, because the program that
            reads the package normalises. None: "normalised"; in packages, the type that the model was trained on, or
            "uint8" if it is unknown.
        outputs: "logits" or "probabilities": (batch, ``config.channels``, height, width) float32; the logits of an
            average are the log-odds of the mean probability, for multi-class models its log. "mask": uint8; (batch,
            height, width) with the index of the likeliest class, or with 1 where a binary model's probability is above
            0.5; for ``task="multilabel"`` the same for each class, (batch, num_classes, height, width). In packages, a
            mask of one channel is (batch, 1, height, width). None: "logits"; in packages "probabilities".
        precision: of weights and arithmetic; input and output stay as above. "float32". "float16" (.onnx, .pt2) and
            "bfloat16" (.pt2, .aoti.pt2) halve the file. "int8" (.onnx) quarters it: convolutions in 8 bits, with ranges
            taken from ``images``.
        images: a folder of images, or one that has them in ``images/``, a file, or a list of files: images like those
            that the file will see. int8 needs them; in any precision, the masks are compared on them. Up to 32 are
            used, spread evenly; they are used whole, in tiles as prediction cuts them, at most 128 tiles together.
        size: height and width, to fix them; ``unet_valid``, whose sides are 16 k + 60, needs this. None: any sides from
            the largest stride of the encoder plus 1, 33 for torchvision's. Not for packages.
        consumer: the program that the file is for, if the format does not decide it: "qgis", for QGIS's plugin Deepness
            (.onnx). The file then takes one square image at a time, of 512 pixels a side unless ``size`` is given, and
            gives probabilities; it holds the classes, normalisation, resolution and threshold that the plugin reads.
            ``inputs`` is then the type of the rasters' pixels, "uint8", "uint16", "int16", "uint32", "int32" or
            "float32"; None: that of the training, or "uint8" if it is unknown. A model that normalises each image on
            its own needs ``images=``, the one raster whose mean and standard deviation the plugin will use.
        resolution: for "qgis": the centimetres that a pixel of the training images covers; the plugin resamples to it.
        about: authors, licence and citations, for packages; they need authors and a licence.

    Returns:
        Differences, agreement of masks and times at three sizes. Print it.

    Raises:
        ConfigError: lists all that is wrong with the arguments, or missing on this machine.
        InputError: images cannot be read, or do not fit; lists them. For a package: nothing is found on them.
        UnetzooError: the exporter failed; or the file gives other results than the model: in float32 its logits differ
            by more than 1e-4 of their spread; in other precisions its masks agree on less than 90 % of the pixels, or
            have an IoU below 0.5 on ``images``. No file is left behind then.
        WeightsError: a model cannot be loaded, or its weights contain NaN or infinity.
        HubError: a model cannot be downloaded.
        WriteError: the file cannot be written.
    """
    start = time.perf_counter()
    about, card = _told(model, path, about)
    request, files = check(
        _models(model),
        path,
        inputs=inputs,
        outputs=outputs,
        precision=precision,
        size=size,
        images=images,
        consumer=consumer,
        resolution=resolution,
        about=about,
        threshold=model.thresholds[0] if isinstance(model, Predictor) else 0.5,
    )
    for each in request.models:
        check_weights(each)
    if request.qgis is None:
        stored = read_images(files, request.config, request.inputs, INTEGERS)
    else:
        stored = read_images(files, request.config, request.qgis.pixels, qgis.PIXELS)
    whole = Samples(stored, request)
    exact = [_exact(model) for model in request.models]
    network = deployed(request, exact)
    with folder_made(request.path.parent), replacing(request.path) as stream:
        file = _file(request, network, whole, about, card)
        eager, run = _eager(exact, request), _running(request, file)
        tried = checks(request, eager, run, stored)
        agreement = agreement_on(request, eager, run, whole) if stored else None
        stream.write(file)
    taken, given = ports(request)
    seconds = time.perf_counter() - start
    return ExportReport(
        str(request.path), request.format, precision, len(file), seconds, taken, given, tried, agreement
    )


def _models(model: Predictor | Model | Sequence[Model]) -> list[Any]:
    """Return the models, loaded if names are given; objects that are not models are refused by the check later."""
    if isinstance(model, Predictor):
        return list(model.networks.members)
    return [loaded(item) if isinstance(item, str | os.PathLike) else item for item in listed(model)]


def _exact(model: SegmentationModel | OptimizedModel) -> SegmentationModel | OptimizedModel:
    try:
        copied = copy.deepcopy(model)
    except RuntimeError:
        if isinstance(model, SegmentationModel):
            optimize(model)  # its error names the weight that is computed from others, and so cannot be copied
        raise
    return copied.to("cpu", torch.float32).eval()


def _eager(exact: Sequence[SegmentationModel | OptimizedModel], request: Request) -> Eager:
    """Return a function that runs the models; the average of several is computed in float64, as the reference."""

    @torch.inference_mode()
    def run(images: Sequence[Tensor]) -> Tensor:
        if request.whole:
            return logits_of(exact[0], images[0])
        logits: list[Tensor] = [model(batch) for model, batch in zip(exact, images, strict=True)]
        if len(logits) == 1:
            return logits[0]
        return average_logits([each.double() for each in logits], request.config.task).float()

    return run


def _told(
    model: Predictor | Model | Sequence[Model], path: str | os.PathLike[str], about: About | None
) -> tuple[About, str]:
    """Return what a package says, completed from the card next to the model, and the text of the card."""
    given = About() if about is None else about
    if not os.fspath(path).endswith(PACKAGE):
        return given, ""
    card, text = card_beside(model)
    differs = given.differs(card)
    if differs:
        Note(f"{os.fspath(path)}: {differs}", doubtful=True).log()
        text = f"**Licence**: {differs}\n\n{text}"
    return given.over(card), text


def _file(request: Request, network: Deployed, whole: Samples, about: About, card: str) -> bytes:
    try:
        if request.format == "bioimageio":
            with quiet():
                return package(request, network, about, card, whole.stored)
        return content(request, network, metadata(request, whole.stored), whole.inputs())
    except InputError:
        raise
    # The exporters of torch and onnxruntime raise errors of many kinds.
    except Exception as error:
        raise _failed(request, "could not be exported", error) from error


def _running(request: Request, file: bytes) -> Run:
    try:
        run = tested(file, request) if request.format == "bioimageio" else runner(request.format, file)
    except UnetzooError:
        raise
    except Exception as error:
        raise _failed(request, "was exported, but cannot be loaded", error) from error

    def checked(images: Tensor) -> Tensor:
        try:
            return run(images)
        except Exception as error:
            raise _failed(request, f"was exported, but cannot be run on {tuple(images.shape)}", error) from error

    return checked


def _failed(request: Request, what: str, error: Exception) -> UnetzooError:
    said = (str(error).strip().splitlines() or [""])[0]
    return UnetzooError(
        f"{request.title} {what} as {request.format}, {request.precision} "
        f"({type(error).__name__}: {said:.300}); nothing was written"
    )

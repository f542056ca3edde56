"""A BioImage.IO package: a zip file with the network as TorchScript and as safetensors, tested in bioimageio.core."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unetzoo.errors import InputError, UnetzooError
from unetzoo.exporting.about import About
from unetzoo.exporting.comparing import Run, masks_of
from unetzoo.exporting.description import (
    COVER,
    README,
    TEST_INPUT,
    TEST_OUTPUT,
    WEIGHTS,
    description,
    readme,
)
from unetzoo.exporting.quiet import quiet
from unetzoo.exporting.request import Request
from unetzoo.exporting.samples import draw_noise, fitted, given
from unetzoo.exporting.whole import tiling
from unetzoo.files.packages import DESCRIPTIONS, MODEL
from unetzoo.images import overlay, png_of
from unetzoo.model import SegmentationModel
from unetzoo.saving.weights import save

SHOWN = 256
"""Side of the test image and of each half of the cover, in pixels, or the next larger side of the network's tiles."""
FAINTEST = 1e-4
"""The test output must exceed this; the specification refuses outputs below a tenth of it."""
_WHEN = (1980, 1, 1, 0, 0, 0)
_HIDDEN = ".debug_pkl"
"""Parts of a TorchScript file that record the paths of its sources on this machine."""


def package(request: Request, network: nn.Module, about: About, card: str, stored: Sequence[Tensor]) -> bytes:
    """Return the bytes of a package.

    Args:
        request: the export.
        network: float32 pixels → output, of any size.
        about: authors, licence and so on.
        card: text of the model's own card, "" if it has none.
        stored: images (in_channels, H, W): the first on which the network finds something is the sample; clouds are
            drawn if there are none.

    Raises:
        InputError: the network finds nothing on any of them.
    """
    tiles = tiling(request.models[0])
    side = tiles.least + max(0, -(-(SHOWN - tiles.least) // tiles.step)) * tiles.step
    program = torch_script(network, request)
    drawn = [] if stored else draw_noise(1, request.config, request.inputs, side, side)
    image, output = _sample([fitted(each, side, side) for each in stored] or drawn, opened(program), request)
    members = {
        WEIGHTS: program,
        MODEL: _saved(request.models[0]),
        TEST_INPUT: _array(image[None].to(torch.float32)),
        TEST_OUTPUT: _array(output),
        COVER: _cover(image, output, request),
        README: readme(request, about, tiles, card).encode(),
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    import yaml  # huggingface_hub needs it

    described = yaml.safe_dump(description(request, about, tiles, digests), sort_keys=False, allow_unicode=True)
    return _zipped({DESCRIPTIONS[0]: described.encode(), **members})


def _sample(candidates: Sequence[Tensor], run: Callable[[Tensor], Tensor], request: Request) -> tuple[Tensor, Tensor]:
    """Return an image and its output, which must not be empty according to the specification."""
    for image in candidates:
        output = run(normalised(image, request))
        if bool((output.abs() > FAINTEST).any()):
            return image, output
    raise InputError(
        f"{request.title} finds nothing on the sample, and the test of a package needs some output: give images=… with "
        "objects that it was trained to find; without images, the sample is drawn at random"
    )


def torch_script(network: nn.Module, request: Request) -> bytes:
    """Return a network as traced TorchScript, without information about this machine."""
    config = request.config
    example = torch.rand(2, config.in_channels, *request.example_size)
    file = io.BytesIO()
    with torch.no_grad():
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, file)
    reader = torch._C.PyTorchFileReader(io.BytesIO(file.getvalue()))
    cleaned = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(cleaned)
    for name in reader.get_all_records():
        if not name.endswith(_HIDDEN) and name != "version" and not name.startswith(".data/"):
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return cleaned.getvalue()


def opened(program: bytes) -> Callable[[Tensor], Tensor]:
    """Return a function that runs a TorchScript program."""
    module = torch.jit.load(io.BytesIO(program), map_location="cpu")  # type: ignore[no-untyped-call]

    def run(image: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = module(image)
        return found

    return run


def normalised(image: Tensor, request: Request) -> Tensor:
    """Return an image (in_channels, H, W) as the program takes it, a batch of one."""
    if request.config.normalisation == "image":
        return given([image], request).models[0]
    return image[None].to(torch.float32)


_OLDER_PYDANTIC = ". This error comes with pydantic 2.14: pip install 'pydantic<2.14'"
"""The fix if bioimageio.core was installed without the extra, which limits pydantic."""


def tested(file: bytes, request: Request) -> Run:
    """Test a package, and return a function that runs it in bioimageio.core on whole images without a halo.

    Raises:
        UnetzooError: the package does not pass the test.
    """
    with _consumer() as core, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "package.zip"
        path.write_bytes(file)
        summary = core.test_model(path, devices=["cpu"])
        if summary.status != "passed":
            said = [f"{detail.name}: {error.msg}" for detail in summary.details for error in detail.errors]
            raise UnetzooError(
                f"{request.title} was exported, but the package does not pass bioimageio.core's test: "
                f"{summary.status!r} ({'; '.join(said):.1000}); nothing was written"
                + (_OLDER_PYDANTIC if "'index_key'" in " ".join(said) else "")
            )
        described = core.load_model(path)
        pipeline = core.create_prediction_pipeline(described, devices=["cpu"], weight_format="torchscript")
        pipeline.load()

    def run(stored: Tensor) -> Tensor:
        return predicted(pipeline, stored.to(torch.float32).numpy(), request, skip=True)

    return run


def predicted(pipeline: Any, pixels: np.ndarray[Any, Any], request: Request, *, skip: bool) -> Tensor:
    """Return bioimageio.core's prediction for a batch (N, C, H, W) float32; ``skip``: no halo around the image."""
    with _consumer() as core:
        taken, given = pipeline.input_ids[0], pipeline.output_ids[0]
        tensor = core.Tensor.from_numpy(pixels, dims=["batch", "channel", "y", "x"])
        sample = core.Sample(members={taken: tensor}, stat={}, id="image")
        found = pipeline.predict_sample_without_blocking(sample, skip_input_padding=skip, skip_output_cropping=skip)
        output = torch.from_numpy(np.array(found.members[given].data))
    return plain(output, request)


def plain(output: Tensor, request: Request) -> Tensor:
    """Return an output without the channel of masks in packages, as other files give it."""
    return output[:, 0] if request.outputs == "mask" and request.config.task != "multilabel" else output


@contextlib.contextmanager
def _consumer() -> Iterator[Any]:
    """Give bioimageio.core, with its log lines and warnings suppressed."""
    with quiet():
        import bioimageio.core

        yield bioimageio.core


def _saved(model: object) -> bytes:
    """Return the file of a model, as ``unetzoo.save`` writes it."""
    assert isinstance(model, SegmentationModel)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        save(model, path)
        return path.read_bytes()


def _array(values: Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, values.numpy())
    return file.getvalue()


def _cover(image: Tensor, output: Tensor, request: Request) -> bytes:
    """Return a PNG, twice as wide as high: the sample, and the sample with the predicted mask laid over it."""
    config = request.config
    found = masks_of(plain(output, request), config.task, request.outputs)
    masks = (
        (found == torch.arange(1, config.num_classes)[:, None, None]) if config.task == "multiclass" else found[0] > 0
    )
    masks = masks[: config.num_classes].reshape(-1, *image.shape[1:])
    before = overlay(image, torch.zeros(0, *image.shape[1:], dtype=torch.bool))
    return png_of(torch.cat([before, overlay(image, masks)], dim=2))


def _zipped(members: dict[str, bytes]) -> bytes:
    """Return a zip file, the same for the same members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, _WHEN)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_STORED)
    return file.getvalue()

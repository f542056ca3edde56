"""Checks of complete models: what a decoder and an encoder must do together."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, export

from unetzoo.config import ModelConfig
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS, Options
from unetzoo.folding import optimize
from unetzoo.information import info_of
from unetzoo.model import SegmentationModel, build_on_meta
from unetzoo.naming import list_models
from unetzoo.nn.meta import on_meta
from unetzoo.saving.weights import load, save
from unetzoo.testing._running import difference, disturb
from unetzoo.zoo import create, signature

_FREE_SIZES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)
"""Whether torch.export can distinguish heights and widths that were rounded up."""


@dataclass(frozen=True)
class Pair:
    """A decoder on an encoder, as small as possible with the options that are known here."""

    decoder: str
    encoder: str

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """Its usual name in the zoo."""
        return ENCODERS[self.encoder].names(self.decoder)[0]

    def create(self, **options: Any) -> SegmentationModel:
        """Return the model with disturbed weights."""
        model = self._create(**options)
        disturb(model)
        return model

    def create_on_meta(self, **options: Any) -> SegmentationModel:
        """Return the model on the meta device."""
        with on_meta():
            return self._create(**options)

    def supervised(self) -> dict[str, Any]:
        """Return the options that switch all heads on."""
        heads = ("deep_supervision", "classification_guided")
        return dict.fromkeys(heads, True) if DECODERS[self.decoder].supervisable else {}

    def sizes(self, model: SegmentationModel) -> list[tuple[int, int]]:
        """Return sizes of images that it must take, the usual one first."""
        if model.decoder.border:
            least = model.decoder.input_side(1)
            return [(least, least), (least, model.decoder.input_side(least - 2 * model.decoder.border + 1))]
        return [(32, 40), (37, 51), (1, 1), (2, 33)]

    def images(self, model: SegmentationModel, batch: int = 2) -> Tensor:
        """Return images of the usual size."""
        return torch.randn(batch, model.config.in_channels, *self.sizes(model)[0])

    def encoder_options(self) -> Options:
        """Return the options of the encoder, as small as is known here."""
        return ENCODERS[self.encoder].options(**self._small())

    def _small(self) -> dict[str, Any]:
        return {"base_channels": 8} if self.encoder == "plain" else {}

    def _create(self, **options: Any) -> SegmentationModel:
        return create(self.name, **{**self._small(), **options})


def listing(pair: Pair) -> Iterator[str]:
    """The name is listed, with a description."""
    if pair.name not in list_models(pair.name):
        yield f"{pair.name} is not in list_models()"
        return
    info = info_of(pair.name, pair.create_on_meta())
    if (info.architecture, info.encoder) != (DECODERS[pair.decoder].title, ENCODERS[pair.encoder].title):
        yield f"{pair.name} is listed as {info.architecture} on {info.encoder}: each part must have its own title"
    for option in info.options:
        if not info.meanings.get(option):
            yield f"the option {option!r} is not explained: list it under Attributes in its dataclass"


def configuration(pair: Pair) -> Iterator[str]:
    """The record of a model is JSON, and builds the same model again."""
    config = pair.create_on_meta(**pair.supervised()).config
    again = ModelConfig.from_json(config.to_json())
    if again != config:
        yield f"the configuration changes when it is written to JSON and read back: {again} instead of {config}"
    defaults = {key: value for key, value in signature(pair.name).items() if key not in ("pretrained", "input_policy")}
    with on_meta():
        if create(pair.name, **defaults).config != create(pair.name).config:
            yield "the defaults from signature() build another model than no options do"


def any_size(pair: Pair) -> Iterator[str]:
    """Logits have the size of the images, whatever that is."""
    model = pair.create(num_classes=2).eval()
    border = model.decoder.border
    for height, width in pair.sizes(model):
        with torch.no_grad():
            logits = model(torch.randn(2, 3, height, width))
        wanted = (2, 2, height - 2 * border, width - 2 * border)
        if logits.shape != wanted:
            yield f"logits of a {height} × {width} image are {tuple(logits.shape)}; {wanted} is needed"
        elif not logits.isfinite().all():
            yield f"logits of a {height} × {width} image are not finite"


def types(pair: Pair) -> Iterator[str]:
    """Computation is in the type of the weights."""
    model = pair.create().eval()
    images = pair.images(model)
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(images.double())
        for dtype, allowed in ((torch.float32, 1e-3), (torch.bfloat16, 0.4)):
            logits = copy.deepcopy(model).to(dtype)(images.to(dtype))
            if logits.dtype != dtype:
                yield f"logits of a {dtype} model are {logits.dtype}"
            if difference(logits, expected) > allowed:
                wrong = difference(logits, expected)
                yield f"logits in {dtype} differ from those in float64 by {wrong:.2g} of their spread"
        if expected.dtype != torch.float64:
            yield f"logits of a float64 model are {expected.dtype}"


def images_apart(pair: Pair) -> Iterator[str]:
    """In evaluation mode, the logits of an image depend neither on the others in its batch nor on chance."""
    model = pair.create().eval()
    images = pair.images(model)
    with torch.no_grad():
        together, alone = model(images), torch.cat([model(image[None]) for image in images])
        if not torch.equal(model(images), together):
            yield "in evaluation mode the same images give different logits a second time"
    if difference(alone, together) > 1e-3:
        yield "in evaluation mode an image alone gives different logits than in a batch"


def supervision(pair: Pair) -> Iterator[str]:
    """``training_outputs`` gives the logits of each head, at the size of the images."""
    if not DECODERS[pair.decoder].supervisable:
        return
    model = pair.create(deep_supervision=True, num_classes=2).eval()
    heads = len(model.decoder.features) - 1
    for height, width in ((37, 51), (64, 48)):
        with torch.no_grad():
            images = torch.randn(2, 3, height, width)
            outputs = model.training_outputs(images)
            logits = model(images)
        if len(outputs.deep) != heads:
            yield f"there are {len(outputs.deep)} deep outputs; {heads} are needed, as the decoder's features say"
        for number, deep in enumerate(outputs.deep):
            if deep.shape != (2, 2, height, width):
                yield f"deep output {number} of a {height} × {width} image is {tuple(deep.shape)}"
        if not model.decoder.averages_heads and difference(outputs.logits, logits) > 1e-4:
            yield "the main logits change with deep=True: forward must give the main feature first"
    single = pair.create_on_meta()
    if single.deep_heads:
        surplus = len(single.deep_heads)
        yield f"without deep supervision there are {surplus} heads too many: features must list only the main feature"


def checkpointing(pair: Pair) -> Iterator[str]:
    """Recomputed activations save memory, and change neither gradients nor statistics."""
    plain = pair.create(**pair.supervised()).train()
    saving = copy.deepcopy(plain)
    saving.gradient_checkpointing()
    images, kept = pair.images(plain), []
    for model in (plain, saving):
        torch.manual_seed(1)
        kept.append(_kept(model, images))
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if a.grad is not None and (b.grad is None or not torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5)):
            yield f"with gradient_checkpointing() the gradient of {name} changes"
    buffers = dict(saving.named_buffers())
    for name, buffer in plain.named_buffers():
        if not torch.allclose(buffer.double(), buffers[name].double(), rtol=1e-4, atol=1e-6):
            yield f"with gradient_checkpointing() {name} changes: it counts the batch twice"
    for part in ("encoder", "decoder"):
        if kept[1][part] >= kept[0][part] > 0:
            yield f"gradient_checkpointing() saves no memory in the {part}: call its parts by self.run(part, …)"


def _kept(model: SegmentationModel, images: Tensor) -> dict[str, int]:
    """Run a training step, and return how many bytes autograd keeps of encoder and of decoder."""
    kept = {"encoder": 0, "decoder": 0}
    known = {parameter.data_ptr() for parameter in model.parameters()}
    inside: list[str] = []

    def keep(tensor: Tensor) -> Tensor:
        if inside and tensor.data_ptr() not in known:
            kept[inside[-1]] += tensor.nbytes
            known.add(tensor.data_ptr())
        return tensor

    hooks = []
    for part in kept:
        module = model.get_submodule(part)
        hooks.append(module.register_forward_pre_hook(lambda *_, part=part: inside.append(part)))
        hooks.append(module.register_forward_hook(lambda *_: inside.clear()))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model.training_outputs(images)
    for hook in hooks:
        hook.remove()
    wanted = [outputs.logits, *outputs.deep, *([] if outputs.presence is None else [outputs.presence])]
    torch.stack([logits.square().mean() for logits in wanted]).sum().backward()  # type: ignore[no-untyped-call]
    return kept


def meta(pair: Pair) -> Iterator[str]:
    """On the meta device, a model allocates nothing, and can take over the tensors of a state dict."""
    model = pair.create(**pair.supervised()).eval()
    shapes = build_on_meta(model.config)
    for name, tensor in shapes.state_dict().items():
        if not tensor.is_meta:
            yield f"{name} is allocated although the model is built on meta: do not give its constructor a device"
    shapes.load_state_dict(model.state_dict(), assign=True)
    images = pair.images(model)
    with torch.no_grad():
        if not any(buffer.is_meta for buffer in shapes.buffers()) and not torch.equal(
            shapes.eval()(images), model(images)
        ):
            yield "a model built on meta gives other logits with the same state dict: something is kept outside it"


def saving(pair: Pair) -> Iterator[str]:
    """A saved model comes back bit for bit, also for other channels."""
    model = pair.create().eval()
    images = pair.images(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(model, path)
        with torch.no_grad():
            if not torch.equal(load(path)(images), model(images)):
                yield "a saved model gives different logits when loaded: something is stored outside the state dict"
        if model.encoder.image_convolution is None:
            return
        for channels in (1, 5):
            model = load(path, in_channels=channels)
            if not model(torch.randn(1, channels, *images.shape[-2:])).isfinite().all():
                yield f"load(in_channels={channels}) gives logits that are not finite"


def optimizing(pair: Pair) -> Iterator[str]:
    """The copy for inference gives the same logits, and has no parts that only training needs."""
    model = pair.create()
    slim = optimize(model, example=pair.images(model))
    if DECODERS[pair.decoder].supervisable:
        supervised = pair.create(deep_supervision=True)
        surplus = set(optimize(supervised).state_dict()) - set(slim.state_dict())
        if surplus and not supervised.decoder.averages_heads:
            yield f"inference does not need {', '.join(sorted(surplus)[:3])}: drop_training_parts() must delete it"


def exporting(pair: Pair) -> Iterator[str]:
    """``torch.export`` takes it with any batch, height and width."""
    model = pair.create().eval()
    least = max(model.encoder.strides) + 1
    if model.decoder.border or not _FREE_SIZES:
        images, free, others = pair.images(model), None, []
    else:
        images = torch.randn(2, 3, 2 * least + 4, 3 * least - 6)
        free = ({0: Dim("batch"), 2: Dim("height", min=least), 3: Dim("width", min=least)},)
        others = [torch.randn(1, 3, 2 * least - 2, least + 8), torch.randn(3, 3, least, 2 * least + 1)]
    exported = export(model, (images,), dynamic_shapes=free).module()
    for example in (images, *others):
        with torch.no_grad():
            wrong = difference(exported(example), model(example))
        if not wrong < 1e-3 or math.isnan(wrong):
            yield f"exported by torch.export it gives different logits for images of {tuple(example.shape)}"

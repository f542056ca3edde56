"""The assembly, on one page: images → encoder → decoder → heads → logits."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unetzoo.checks import flag, whole
from unetzoo.config import ModelConfig
from unetzoo.decoders import DECODERS, Decoder
from unetzoo.encoders import ENCODERS
from unetzoo.errors import ConfigError, InputError
from unetzoo.nn.heads import ClassificationGuidedModule, SegmentationHead
from unetzoo.nn.layers import crop
from unetzoo.nn.meta import on_meta
from unetzoo.nn.processes import warn_if_bypassed
from unetzoo.nn.programs import by_torch_func, by_tracing
from unetzoo.nn.whole_maps import MOST

FINEST = 64
"""Channels of the finest map of most networks at the images' size; others have fewer pixels and more channels."""


@dataclass(frozen=True)
class TrainingOutputs:
    """All that a loss needs, with every logits tensor at the input's size (unet_valid: 184 pixels less).

    Nothing is suppressed here, in either mode. If the model is classification-guided, compute validation losses from
    it too, as ``model(images)`` then moves the logits of absent classes by -10,000.

    Attributes:
        logits: (N, channels, H, W), of the main head; there are ``config.channels``: one per class, and for
            ``task="instances"`` one more for the edges that separate objects.
        deep: one (N, channels, H, W) for each deep-supervision head, in the decoder's order: from the finest stage
            to the coarsest, or from the shallowest of nested decoders to the deepest. Empty without deep supervision.
        presence: (N, num_classes) logits, above 0 if the class is judged to occur in the image; None without
            guidance.
    """

    logits: Tensor
    deep: tuple[Tensor, ...] = ()
    presence: Tensor | None = None


class SegmentationModel(nn.Module):
    """A segmentation network, built as its config says.

    Attributes:
        config: how it was built.
        encoder: images → feature maps; it can be used alone.
        decoder: feature maps → features.
        head, deep_heads: features → logits.
        guide: the classification-guided module, or None.
        origin: for a model from another program's file: which program, and where its results differ. Saved in files.
    """

    origin: str = ""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        spec, decoder = ENCODERS[config.encoder], DECODERS[config.decoder]
        depth = decoder.depth(config.decoder_options, spec.maps)
        self.config = config
        self.encoder = spec.build(config.in_channels, config.style, config.encoder_options, depth)
        if len(self.encoder.channels) != depth:
            raise ConfigError(
                f"{spec.title} must give {depth} maps, but gives {len(self.encoder.channels)}: an encoder gives as "
                "many as its argument depth says, up to the number of maps that it is registered with"
            )
        self.decoder = decoder(self.encoder, config.style, config.decoder_options, config.deep_supervision)
        self.head, *deep = (
            SegmentationHead(feature.channels, config.channels, self.decoder.head_kernel, feature.stride)
            for feature in self.decoder.features
        )
        self.deep_heads = nn.ModuleList(deep)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.guide: ClassificationGuidedModule | None = None
        if config.classification_guided:
            self.guide = ClassificationGuidedModule(self.encoder.channels[-1], config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits.

        Args:
            images: (N, in_channels, H, W), floating point, of the model's dtype (any under autocast), already
                normalised as ``config.normalisation``, ``mean`` and ``std`` say. Any H and W from 1 up, but see
                unet_valid.

        Returns:
            (N, config.channels, H, W) logits. In evaluation mode, the logits of classes that the
            classification-guided module judges absent are suppressed.

        Raises:
            InputError: the images have other dimensions, channels or type.
        """
        outputs = self._outputs(images, deep=self.decoder.averages_heads)
        logits = outputs.logits
        if self.decoder.averages_heads:
            logits = torch.stack((logits, *outputs.deep)).mean(dim=0)
        if outputs.presence is not None and not self.training:
            logits = ClassificationGuidedModule.suppress(
                logits, outputs.presence, exclusive=self.config.task == "multiclass"
            )
        return logits

    def training_outputs(self, images: Tensor) -> TrainingOutputs:
        """Return what a loss needs, for images as :meth:`forward` takes them; nothing is suppressed.

        If processes share gradients, as with DistributedDataParallel, wrap :meth:`for_training` instead.
        """
        return self._outputs(images, deep=self.config.deep_supervision)

    def for_training(self) -> ForTraining:
        """Return a module with the same weights whose ``forward`` is :meth:`training_outputs`.

        For wrappers that only call ``forward``, such as ``DistributedDataParallel(model.for_training())``.
        """
        return ForTraining(self)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return probabilities (N, config.channels, H, W) in evaluation mode, whatever mode the model is in.

        Args:
            images: as :meth:`forward` takes them. ``unet_valid`` takes any size here: the border is mirrored,
                as the paper's overlap-tile strategy does.

        Returns:
            Sigmoid of the logits, or their softmax over the classes for ``task="multiclass"``, in float32 if the
            model has half precision.

        Raises:
            InputError: the probabilities are not finite, because the weights or the images are not, or because the
                network overflows.
        """
        with evaluating(self):
            logits = self(images) if self.decoder.border == 0 else self._predict_mirrored(images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probabilities = logits.softmax(dim=1) if self.config.task == "multiclass" else logits.sigmoid()
        if not torch.compiler.is_compiling() and not bool(probabilities.isfinite().all()):
            raise InputError(
                "probabilities that are not finite: the images or the weights contain NaN or infinity, or values "
                "overflow; replace such pixels, train again with a lower learning rate, or use float32"
            )
        return probabilities

    def prune(self, level: int) -> SegmentationModel:
        """Return a copy that has only the first levels of the decoder, and gives the output of the head of that level.

        Args:
            level: from 1 to the number of levels of the model's decoder. Below that number, the model must have deep
                supervision, as the remaining levels have no other head.

        Raises:
            ConfigError: the decoder cannot be pruned, it has no such level, or there is no head.
        """
        problem = self._pruning_problem(level)
        if problem is not None:
            raise ConfigError(problem)
        left = self.decoder.pruned(self.config.decoder_options, level)
        state = self.state_dict()
        if left.head:
            head = self.deep_heads[left.head - 1].state_dict(prefix="head.")
            state = {**state, **head}
        pruned = build_on_meta(self.config.replace(decoder_options=left.options, deep_supervision=False))
        pruned.load_state_dict({name: state[name].clone() for name in pruned.state_dict()}, assign=True)
        return pruned.train(self.training)

    def freeze_encoder(self, stages: int | None = None) -> None:
        """Freeze the encoder's first ``stages`` stages, finest first; None freezes all, 0 unfreezes all.

        Their batch-norm statistics are frozen too, and stay frozen after ``train()``.

        Raises:
            ConfigError: there are fewer stages.
        """
        most = len(self.encoder.channels)
        problems = [] if stages is None else whole("stages", stages, 0, most)
        if problems:
            raise ConfigError(f"{problems[0]}, or None for all of them")
        self.encoder.freeze(most if stages is None else stages)

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them, or stop doing so.

        Gradients and batch-norm statistics are the same; a training step takes about a third longer.

        Raises:
            ConfigError: ``on`` is neither True nor False.
        """
        problems = flag("on", on)
        if problems:
            raise ConfigError("cannot set gradient checkpointing", problems)
        self.encoder.gradient_checkpointing = on
        self.decoder.gradient_checkpointing = on

    def _outputs(self, images: Tensor, deep: bool) -> TrainingOutputs:
        if torch.compiler.is_compiling() or not by_tracing():
            return self._computed(images, deep)
        with warnings.catch_warnings():
            # The tracer warns wherever Python reads a number of a shape: here for channels, and to check the images.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            return self._computed(images, deep)

    def _computed(self, images: Tensor, deep: bool) -> TrainingOutputs:
        self._check(images)
        warn_if_bypassed(self)
        size = images.shape[-2:]
        maps = self.encoder(_fast_layout(images))
        maps[-1] = self.dropout(maps[-1])
        main, *others = self.decoder(maps, size, deep)
        return TrainingOutputs(
            logits=self.head(main, size).contiguous(),
            deep=tuple(head(other, size).contiguous() for head, other in zip(self.deep_heads, others, strict=deep)),
            presence=None if self.guide is None else self.guide(maps[-1]),
        )

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise InputError(
                f"images: a torch.Tensor is needed, not {type(images).__name__}; "
                "torchvision.transforms.v2.functional.to_image makes one of an image or an array"
            )
        problem = self._problem(images)
        if problem is not None:
            raise InputError(f"images of shape {tuple(images.shape)}, {images.dtype}: {problem}")

    def _problem(self, images: Tensor) -> str | None:
        channels, dtype = self.config.in_channels, next(self.parameters()).dtype
        if images.ndim != 4:
            fix = "; for one image, images[None]" if images.ndim == 3 and images.shape[0] == channels else ""
            return f"(N, {channels}, height, width) is needed{fix}"
        if images.shape[1] != channels:
            if images.shape[3] == channels:
                fix = "channels come second: images.permute(0, 3, 1, 2)"
            else:
                fix = f"create the model with in_channels={images.shape[1]}"
                if images.shape[1] == channels + 1:
                    fix += f", or drop the alpha channel: images[:, :{channels}]"
            return f"{channels} channels are needed, as {self.config.name} was created with them; {fix}"
        if not images.is_floating_point():
            return "floating point is needed: images.float() / 255 for 8 bits, / 65535 for 16"
        if images.dtype != dtype and not torch.is_autocast_enabled(images.device.type):
            return f"the model is {dtype}; use images.to({dtype}), or autocast"
        if images.shape[2] < 1 or images.shape[3] < 1:
            return "height and width from 1 up are needed"
        return self.decoder.size_problem(images.shape[2], images.shape[3])

    def _predict_mirrored(self, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        for dim in (2, 3):
            side = size[dim - 2]
            border = self.decoder.border
            rows = torch.arange(-border, self.decoder.input_side(side) - border, device=images.device)
            period = max(2 * (side - 1), 1)
            rows = rows.remainder(period)
            images = images.index_select(dim, torch.minimum(rows, period - rows).clamp(max=side - 1))
        return crop(self(images), size)

    def _pruning_problem(self, level: object) -> str | None:
        most = self.decoder.prunable
        if not most:
            able = ", ".join(name for name, decoder in DECODERS.items() if decoder.pruned is not Decoder.pruned)
            return f"{self.config.name} cannot be pruned: only nested decoders can be, those of {able}"
        problems = whole("level", level, 1, most)
        if problems:
            return problems[0]
        if level == most:
            return None
        if not self.config.deep_supervision:
            return (
                f"level={level}: the remaining levels have no head; train the model with deep_supervision=True, "
                "which adds one to each level"
            )
        if self.guide is not None:
            return f"level={level}: the classification-guided module reads the deepest map, which pruning removes"
        return None


class ForTraining(nn.Module):
    """A wrapper of a model for training loops; it shares the model's weights. Made by ``model.for_training()``.

    Attributes:
        model: the wrapped model, to save, and to get logits from.
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> TrainingOutputs:
        """Return what :meth:`SegmentationModel.training_outputs` returns."""
        return self.model.training_outputs(images)


def _fast_layout(images: Tensor) -> Tensor:
    """Return ``images`` with channels last in memory where this makes convolutions faster: on the CPU and on CUDA."""
    if images.device.type not in ("cpu", "cuda") or torch.compiler.is_exporting() or by_torch_func():
        return images
    if images.device.type == "cuda" and images[:, 0].numel() * FINEST >= MOST:
        return images
    return images.contiguous(memory_format=torch.channels_last)


def build_on_meta(config: ModelConfig) -> SegmentationModel:
    """Return the network that ``config`` describes, with shapes but without weights: see :func:`on_meta`."""
    with on_meta():
        return SegmentationModel(config)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode within this block, and then restore the mode of each module."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

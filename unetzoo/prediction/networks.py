"""One network or several, asked together: windows in, what they say of each pixel out."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unetzoo.checks import ratio
from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError, InputError, WeightsError
from unetzoo.files.checkpoints import non_finite
from unetzoo.folding import OptimizedModel, optimize
from unetzoo.images import Levels, filled, fit_channels, fits, levels, normalised, scaled
from unetzoo.model import SegmentationModel
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.tiles import mirrored
from unetzoo.prediction.views import View
from unetzoo.saving import folds, sources

Model = SegmentationModel | OptimizedModel | str | os.PathLike[str]
MERGES = ("probabilities", "logits")


class Networks:
    """An ensemble whose members agree on task and classes; each sees images as it was trained to.

    Attributes:
        config: of the first.
        names: what each is called in messages.
        unit: pixels that windows begin at multiples of: the largest stride, in pixels of the image.
    """

    def __init__(
        self, members: Sequence[OptimizedModel], views: Sequence[View], merge: str, names: Sequence[str] = ()
    ) -> None:
        self.members = tuple(members)
        self.names = tuple(names) or tuple(member.config.name for member in members)
        self.views = tuple(views)
        self.merge = merge
        self.config: ModelConfig = members[0].config
        self.unit = math.lcm(*(unit_of(member.network) for member in members))

    @property
    def configs(self) -> list[ModelConfig]:
        """Configurations of the members."""
        return [member.config for member in self.members]

    @property
    def border(self) -> int:
        """Pixels around a window that the networks are shown as well."""
        return max(member.network.decoder.border for member in self.members)

    def shown(self, window: int) -> int:
        """Return the side of the square that is cut out of the image for a window."""
        return max(
            member.network.decoder.input_side(window) - member.network.decoder.border + self.border
            for member in self.members
        )

    def levels(self, source: Rows, device: torch.device) -> list[Levels]:
        """Return what each member normalises an image by, on a device: once for all tiles, of the whole image."""
        configs = self.configs
        whole = source.moments() if any(config.normalisation == "image" for config in configs) else None
        dtype = source.rows(0, 1).dtype
        found = []
        for config in configs:
            mean, std = levels(config, whole, source.alpha, dtype)
            found.append((None if mean is None else mean.to(device), None if std is None else std.to(device)))
        return found

    def __call__(self, stored: Tensor, height: int, width: int, levels: Sequence[Levels]) -> Tensor:
        """Return the average of what all members say of all views: (N, classes, height, width) float32.

        They are logits, or probabilities where ``merge`` says so.

        Args:
            stored: (N, C, H, W) as stored, NaN where something is missing; the window begins ``border`` pixels inside.
            height, width: of the window.
            levels: from :meth:`levels`, on the device of ``stored``.
        """
        total: Tensor | None = None
        for member, (mean, std) in zip(self.members, levels, strict=True):
            images = self._shown(stored, member, height, width)
            images = filled(images, mean) if stored.is_floating_point() else images
            images = normalised(images, mean, std)
            for view in self.views:
                said = self._asked(member, images, view)[..., :height, :width].float()
                said = self.activated(said) if self.merge == "probabilities" else said
                total = said if total is None else total.add_(said)
        assert total is not None
        return total / (len(self.members) * len(self.views))

    def activated(self, logits: Tensor) -> Tensor:
        """Return the probabilities of logits, the classes in dimension -3."""
        return logits.softmax(dim=-3) if self.config.task == "multiclass" else logits.sigmoid()

    def check_finite(self, found: bool) -> None:
        """Raise if probabilities are no numbers: a mask made of them would be all background, and look like one.

        Args:
            found: whether all of them are finite.

        Raises:
            WeightsError: as weights are not.
            InputError: as the networks overflow on this image.
        """
        if found:
            return
        for member, name in zip(self.members, self.names, strict=True):
            check_weights(member, name)
        raise InputError(
            f"{self.names[0]} gives probabilities that are not finite: its values overflow on this image; give "
            "dtype=torch.float32 where it is another, and an image in the range that it was trained on"
        )

    def digest(self) -> str:
        """Return a fingerprint of configurations and weights, the same for the same bytes."""
        found = hashlib.sha256()
        for member in self.members:
            found.update(member.config.to_json().encode())
            for tensor in member.state_dict().values():
                found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return found.hexdigest()

    def _shown(self, stored: Tensor, member: OptimizedModel, height: int, width: int) -> Tensor:
        """Return what a member is shown, not normalised yet: its own border around the window, its own channels."""
        decoder = member.network.decoder
        skipped = self.border - decoder.border
        height, width = decoder.input_side(height), decoder.input_side(width)
        cut = stored[..., skipped : skipped + height, skipped : skipped + width]
        return fit_channels(scaled(cut), member.config.in_channels)

    def _asked(self, member: OptimizedModel, images: Tensor, view: View) -> Tensor:
        border = member.network.decoder.border
        size = torch.Size(side - 2 * border for side in images.shape[-2:])
        view = view._replace(scale=view.scale * float(ratio(member.config.resize)))
        return view.undo(member(view.apply(images, member.network.encoder.strides[-1])), size)


def unit_of(network: SegmentationModel) -> int:
    """Return the pixels of an image that windows begin at multiples of, so that they are whole pixels of its maps."""
    return network.encoder.strides[-1] * ratio(network.config.resize).denominator


def columns(first: int, count: int, width: int) -> slice | Tensor:
    """Return which of ``width`` columns stand at ``first`` to ``first + count``, where the ends are mirrors."""
    if first >= 0 and first + count <= width:
        return slice(first, first + count)
    return mirrored(first, count, width)


def gathered(models: Model | Sequence[Model], device: torch.device, dtype: torch.dtype | None) -> list[OptimizedModel]:
    """Return networks for inference on ``device``: loaded where a name is given, copied where a network is.

    Raises:
        ConfigError: none, or they do not go together.
        WeightsError: one cannot be loaded.
        HubError: or not be fetched.
    """
    members = [_ready(loaded(model), device, dtype) for model in listed(models)]
    check_alike([member.config for member in members])
    return members


def listed(models: Model | Sequence[Model]) -> list[Model]:
    """Return the models of one or several; the folder of a training by folds is several.

    Raises:
        ConfigError: there is none.
        WeightsError: a fold has no network yet.
    """
    given: list[Model] = list(models) if isinstance(models, list | tuple) else [models]  # type: ignore[list-item]
    if not given:
        raise ConfigError("no model is given")
    found: list[Model] = []
    for model in given:
        found += folds.members(model) or [model]
    return found


def loaded(model: Model) -> SegmentationModel | OptimizedModel:
    """Return what a name or a path stands for, in float32; a network is returned as it is.

    Raises:
        ConfigError, WeightsError, HubError: as ``from_pretrained``.
    """
    if isinstance(model, SegmentationModel | OptimizedModel):
        return model
    # Half precision is how weights are kept, not how they are best used: on CPUs it is slow, and rounds each map.
    return sources.from_pretrained(model, dtype=torch.float32)


def origins(models: Model | Sequence[Model]) -> tuple[Path | None, ...]:
    """Return the file or the folder that each model is read from; None for networks and repositories.

    Raises:
        ConfigError, WeightsError: as ``unetzoo.saving.sources.source_of``.
    """
    paths = [
        sources.source_of(model).path if isinstance(model, str | os.PathLike) else None for model in listed(models)
    ]
    return tuple(None if path is None else path.absolute() for path in paths)


def titles(models: Model | Sequence[Model]) -> list[str]:
    """Return what models are called in messages: as they were asked for, networks by the names of the zoo."""
    return [str(model) if isinstance(model, str | os.PathLike) else model.config.name for model in listed(models)]


def check_weights(model: SegmentationModel | OptimizedModel, name: str | None = None) -> None:
    """Raise if weights are no numbers.

    Args:
        model: the network.
        name: what it is called in messages; None: as in the zoo.

    Raises:
        WeightsError: NaN or infinity is among them.
    """
    broken = non_finite(model.state_dict())
    if broken:
        raise WeightsError(
            f"{name or model.config.name} has NaN or infinity in {len(broken)} of its tensors, such as {broken[0]}: "
            "train it again, or take a file from before"
        )


def check_alike(configs: Sequence[ModelConfig]) -> None:
    """Raise if the answers of models cannot be averaged.

    Raises:
        ConfigError: lists what differs of task, classes and their names.
    """
    problems = []
    for k, config in enumerate(configs[1:], 2):
        for key in ("task", "num_classes", "class_names"):
            mine, own = getattr(config, key), getattr(configs[0], key)
            if mine != own and not (key == "class_names" and None in (mine, own)):
                problems.append(f"{key} of model {k} is {mine!r}, of the first {own!r}")
    if problems:
        raise ConfigError("these models cannot be averaged", problems)


def _ready(
    model: SegmentationModel | OptimizedModel, device: torch.device, dtype: torch.dtype | None
) -> OptimizedModel:
    if not isinstance(model, OptimizedModel):
        return optimize(model, dtype=dtype).to(device)
    if dtype is not None and dtype != model.dtype:
        raise ConfigError(f"dtype={dtype} for an optimized model of {model.dtype}: give the model it was made from")
    return model.to(device)


def check_channels(image: Tensor, config: ModelConfig, alpha: bool = False, name: str | None = None) -> None:
    """Raise if an image (C, …) cannot be fitted to the channels of a network.

    Args:
        image: the image, or some rows of it.
        config: of the network.
        alpha: whether the last channel is opacity.
        name: what the network is called in messages; None: as in the zoo.

    Raises:
        InputError: with both sides.
    """
    found = image.shape[0]
    if fits(found, config.in_channels, alpha):
        return
    said = f"an image of {found} channels: {name or config.name} was trained on {config.in_channels}"
    if image.shape[1] == config.in_channels > 1:  # rasterio's arrays
        said += "; arrays are (height, width, channels), tensors (channels, height, width)"
    elif found == config.in_channels + 1:
        said += ", and nothing says that the last is an alpha channel: leave it out"
    elif found < config.in_channels:
        said += (
            "; where its channels are files of their own, call predictor(('a_0000.png', 'a_0001.png')) in Python, or "
            "save them as one TIFF of several bands"
        )
    raise InputError(said)

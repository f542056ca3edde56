"""One network or an ensemble: takes windows, and returns the prediction for each pixel."""

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
from unetzoo.devices import warn_of_threads
from unetzoo.errors import ConfigError, InputError, WeightsError
from unetzoo.files.checkpoints import non_finite
from unetzoo.folding import OptimizedModel, optimize
from unetzoo.images import Levels, filled, fit_channels, fits, levels, mirrored, normalised, scaled
from unetzoo.model import SegmentationModel
from unetzoo.prediction.inputs import Rows
from unetzoo.prediction.views import View
from unetzoo.saving import folds, sources

Model = SegmentationModel | OptimizedModel | str | os.PathLike[str]
MERGES = ("probabilities", "logits")


class Networks:
    """An ensemble whose members have the same task and classes; each sees images as in its own training.

    Attributes:
        config: configuration of the first member.
        names: the name of each member in messages.
        unit: windows begin at multiples of this many pixels of the image: the least common multiple of the strides.
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
        """Pixels around a window that the networks see as well."""
        return max(member.network.decoder.border for member in self.members)

    def shown(self, window: int) -> int:
        """Return the side of the square that is cut out of the image for a window."""
        return max(
            member.network.decoder.input_side(window) - member.network.decoder.border + self.border
            for member in self.members
        )

    def levels(self, source: Rows, device: torch.device) -> list[Levels]:
        """Return each member's normalisation of an image, on a device: from the whole image, once for all tiles."""
        configs = self.configs
        whole = source.moments() if any(config.normalisation == "image" for config in configs) else None
        dtype = source.rows(0, 1).dtype
        found = []
        for config in configs:
            mean, std = levels(config, whole, source.alpha, dtype)
            found.append((None if mean is None else mean.to(device), None if std is None else std.to(device)))
        return found

    def __call__(self, stored: Tensor, height: int, width: int, levels: Sequence[Levels]) -> Tensor:
        """Return the average over all members and views: (N, classes, height, width) float32.

        These are probabilities or logits, as ``merge`` says.

        Args:
            stored: (N, C, H, W) as stored, NaN where values are missing; the window begins ``border`` pixels inside.
            height, width: size of the window.
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
        """Return the probabilities for logits whose classes are in dimension -3."""
        return logits.softmax(dim=-3) if self.config.task == "multiclass" else logits.sigmoid()

    def check_finite(self, found: bool) -> None:
        """Raise if probabilities are not finite: their mask would be all background, and look like a valid one.

        Args:
            found: whether all probabilities are finite.

        Raises:
            WeightsError: weights are not finite.
            InputError: the networks overflow on this image.
        """
        if found:
            return
        for member, name in zip(self.members, self.names, strict=True):
            check_weights(member, name)
        raise InputError(
            f"{self.names[0]} gives probabilities that are not finite: its values overflow on this image; give "
            "dtype=torch.float32 if it is another, and an image in the range of the training images"
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
        """Return the input of a member, not normalised yet: the window with the member's own border and channels."""
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
    """Return the pixel multiple at which windows must begin, so that they begin at whole pixels of all maps."""
    return network.encoder.strides[-1] * ratio(network.config.resize).denominator


def columns(first: int, count: int, width: int) -> slice | Tensor:
    """Return which of ``width`` columns are at ``first`` to ``first + count``, with the image mirrored at its ends."""
    if first >= 0 and first + count <= width:
        return slice(first, first + count)
    return mirrored(first, count, width)


def gathered(models: Model | Sequence[Model], device: torch.device, dtype: torch.dtype | None) -> list[OptimizedModel]:
    """Return networks for inference on ``device``: loaded if a name is given, copied if a network is given.

    Raises:
        ConfigError: no model is given, or the models do not fit together.
        WeightsError: a model cannot be loaded.
        HubError: a model cannot be downloaded.
    """
    members = [_ready(loaded(model), device, dtype) for model in listed(models)]
    check_alike([member.config for member in members])
    if device.type == "cpu":
        warn_of_threads()
    return members


def listed(models: Model | Sequence[Model]) -> list[Model]:
    """Return one or several models as a list; the folder of a training by folds stands for several.

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
    """Load the model that a name or a path stands for, in float32; a network is returned unchanged.

    Raises:
        ConfigError, WeightsError, HubError: as ``from_pretrained``.
    """
    if isinstance(model, SegmentationModel | OptimizedModel):
        return model
    # Half precision is for storing weights, not for computing: on CPUs it is slow, and it rounds each feature map.
    return sources.from_pretrained(model, dtype=torch.float32)


def origins(models: Model | Sequence[Model]) -> tuple[Path | None, ...]:
    """Return the file or folder from which each model is read; None for networks and repositories.

    Raises:
        ConfigError, WeightsError: as ``unetzoo.saving.sources.source_of``.
    """
    paths = [
        sources.source_of(model).path if isinstance(model, str | os.PathLike) else None for model in listed(models)
    ]
    return tuple(None if path is None else path.absolute() for path in paths)


def titles(models: Model | Sequence[Model]) -> list[str]:
    """Return the names of models in messages: as they were given; for networks, their names in the zoo."""
    return [str(model) if isinstance(model, str | os.PathLike) else model.config.name for model in listed(models)]


def check_weights(model: SegmentationModel | OptimizedModel, name: str | None = None) -> None:
    """Raise if weights are not finite.

    Args:
        model: the network.
        name: its name in messages; None: its name in the zoo.

    Raises:
        WeightsError: some weights are NaN or infinite.
    """
    broken = non_finite(model.state_dict())
    if broken:
        raise WeightsError(
            f"{name or model.config.name} has NaN or infinity in {len(broken)} of its tensors, such as {broken[0]}: "
            "train it again, or use an earlier file"
        )


def check_alike(configs: Sequence[ModelConfig]) -> None:
    """Raise if the predictions of models cannot be averaged.

    Raises:
        ConfigError: lists the differences in task, classes and class names.
    """
    problems = []
    for k, config in enumerate(configs[1:], 2):
        for key in ("task", "num_classes", "class_names"):
            mine, own = getattr(config, key), getattr(configs[0], key)
            if mine != own and not (key == "class_names" and None in (mine, own)):
                problems.append(f"{key} of model {k} is {mine!r}, that of model 1 is {own!r}")
    if problems:
        raise ConfigError("these models cannot be averaged", problems)


def _ready(
    model: SegmentationModel | OptimizedModel, device: torch.device, dtype: torch.dtype | None
) -> OptimizedModel:
    if not isinstance(model, OptimizedModel):
        return optimize(model, dtype=dtype).to(device)
    if dtype is not None and dtype != model.dtype:
        raise ConfigError(f"dtype={dtype} for a model optimized as {model.dtype}: give the model it was made from")
    return model.to(device)


def check_channels(image: Tensor, config: ModelConfig, alpha: bool = False, name: str | None = None) -> None:
    """Raise if an image (C, …) cannot be fitted to the channels of a network.

    Args:
        image: the image, or some rows of it.
        config: configuration of the network.
        alpha: whether the last channel is opacity.
        name: name of the network in messages; None: its name in the zoo.

    Raises:
        InputError: the message gives the channels of the image and of the network.
    """
    found = image.shape[0]
    if fits(found, config.in_channels, alpha):
        return
    said = f"an image of {found} channels: {name or config.name} was trained on {config.in_channels}"
    if image.shape[1] == config.in_channels > 1:  # rasterio's arrays
        said += "; arrays are (height, width, channels), tensors (channels, height, width)"
    elif found == config.in_channels + 1:
        said += ", and the image does not mark its last channel as alpha: leave that channel out"
    elif found < config.in_channels:
        said += (
            "; if its channels are separate files, call predictor(('a_0000.png', 'a_0001.png')) in Python, or "
            "save them as one TIFF of several bands"
        )
    raise InputError(said)

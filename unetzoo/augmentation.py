"""Random changes of a picture and its mask together, composed of names and options as YAML gives them.

A composition is a list whose entries are names or mappings of one name to its options: the transforms below, those of
``torchvision.transforms.v2``, the presets, or dotted paths of one's own classes::

    augmentation:
      - light
      - GaussianBlur: {kernel_size: 3}
      - RandomApply: {transforms: [{RandomRotation: {degrees: 15}}], p: 0.3}

Three rules hold for all of them. Pictures are interpolated bilinearly, masks take the nearest pixel. What comes from
outside of a picture has the mean of each of its channels and is :data:`IGNORED` in the mask, so that nothing invented
is learned from. And chance is torch's global generator alone: the same seed gives the same result, bit for bit.

Where a crop is wanted, it is cut out as early as the entries allow, with the margin that later ones reach into: a
large picture is never warped to use a corner of it.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from unetzoo._registry import suggest
from unetzoo.errors import ConfigError, InputError

IGNORED = -100
"""Of pixels in masks that count in no loss and no metric."""

Size = tuple[int, int]
"""Height and width."""

_FLIPS: list[dict[str, dict[str, Any]]] = [
    {"RandomHorizontalFlip": {"p": 0.5}},
    {"RandomVerticalFlip": {"p": 0.5}},
    {"RandomQuarterTurn": {}},
]
PRESETS: dict[str, list[dict[str, dict[str, Any]]]] = {
    "none": [],
    "light": [
        *_FLIPS,
        {"RandomBrightness": {"strength": 0.2, "p": 0.5}},
        {"RandomContrast": {"strength": 0.2, "p": 0.5}},
    ],
    "strong": [
        {"RandomWarp": {"degrees": 180, "scale": [0.75, 1.33], "displacement": 4, "spacing": 64, "p": 0.8}},
        *_FLIPS,
        {"RandomBrightness": {"strength": 0.4, "p": 0.5}},
        {"RandomContrast": {"strength": 0.4, "p": 0.5}},
        {"RandomBlur": {"sigma": 1.5, "p": 0.2}},
        {"RandomNoise": {"sigma": 0.3, "p": 0.3}},
    ],
}
"""Name → entries. "none" crops and changes nothing."""


class RandomQuarterTurn(v2.Transform):  # type: ignore[misc]
    """Turn picture and mask by 0, 90, 180 or 270°, each as likely. Odd turns swap height and width."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the number of turns."""
        return {"turns": int(torch.randint(4, ()))}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Turn counter-clockwise."""
        return _like(inpt, torch.rot90(_bare(inpt), params["turns"], (-2, -1)))


class RandomWarp(v2.Transform):  # type: ignore[misc]
    """Turn, scale and bend picture and mask, resampling once.

    The bending is that of Ronneberger et al. 2015 (arXiv 1505.04597, section 3.1): random displacements, drawn from a
    normal distribution, at the nodes of a coarse grid, and bicubic interpolation in between.

    Args:
        degrees: the largest angle either way, from 0 to 180, about the centre; drawn uniformly.
        scale: smallest and largest magnification, above 0; its logarithm is drawn uniformly.
        displacement: standard deviation of the displacements in pixels; at most an eighth of ``spacing``, lest the
            picture folds.
        spacing: distance of the nodes in pixels, a whole number.
        p: probability of doing anything.
        size: (height, width) of the central part of the result that is made; None: as large as the picture.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(
        self,
        degrees: float = 180,
        scale: Sequence[float] = (0.75, 1.33),
        displacement: float = 4,
        spacing: int = 64,
        p: float = 0.8,
        size: Size | None = None,
    ) -> None:
        super().__init__()
        problems = [
            *_number_problems("degrees", degrees, 0, 180),
            *_number_problems("displacement", displacement, 0),
            *_number_problems("p", p, 0, 1),
        ]
        if type(spacing) is not int or spacing < 1:
            problems.append(f"spacing={spacing!r}: a whole number from 1 up is needed")
        if not _is_pair(scale) or not all(_is_number(s) and s > 0 for s in scale) or scale[0] > scale[1]:
            problems.append(f"scale={scale!r}: two numbers above 0, the smaller one first, are needed")
        if not problems and displacement > spacing / 8:
            problems.append(f"displacement={displacement}: at most an eighth of spacing={spacing} is possible")
        if size is not None:
            problems += _size_problems("size", size)
        if problems:
            raise ConfigError("cannot make RandomWarp", problems)
        self.degrees, self.scale, self.displacement, self.spacing, self.p = degrees, scale, displacement, spacing, p
        self.size = size

    def reach(self, size: Size) -> Size:
        """Return the size of the window out of which a result of ``size`` is made."""
        margin = 10 * self.displacement  # five standard deviations on both sides; what lies beyond is ignored
        return _grown(size, _turned(size, -self.degrees, self.degrees), margin, self.scale[0])

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw where each pixel of the result comes from: (1, H, W, 2) as ``grid_sample`` takes it, or None."""
        source = flat_inputs[0].shape[-2:]
        size = self.size or (source[0], source[1])
        if torch.rand(()) >= self.p:
            return {"grid": None, "size": size}
        angle = math.radians(_uniform(-self.degrees, self.degrees))
        zoom = math.exp(_uniform(*map(math.log, self.scale)))
        nodes = [math.ceil(side / self.spacing) + 1 for side in size]
        bend = self.displacement * torch.randn(1, 2, *nodes)
        covered = [(count - 1) * self.spacing + 1 for count in nodes]
        bend = F.interpolate(bend, covered, mode="bicubic", align_corners=True)
        dx, dy = v2.functional.center_crop(bend, list(size))[0]
        x = dx + (torch.arange(size[1]) - (size[1] - 1) / 2)
        y = dy + (torch.arange(size[0]) - (size[0] - 1) / 2)[:, None]
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        grid = torch.stack([(cos * x - sin * y) * (2 / source[1]), (sin * x + cos * y) * (2 / source[0])], dim=-1)
        return {"grid": grid[None], "size": size}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Resample."""
        grid = params["grid"]
        if grid is None:
            return _centre(inpt, params["size"])
        values = _bare(inpt)
        planes = values.reshape(1, -1, *values.shape[-2:])
        if isinstance(inpt, tv_tensors.Mask):
            # 0 is what grid_sample finds outside. Whole numbers below 2^24 are exact in float32.
            labels = F.grid_sample((planes - IGNORED).float(), grid, mode="nearest", align_corners=False)
            warped = labels.to(values.dtype) + IGNORED
        else:
            mean, least, most = (of((-2, -1), keepdim=True) for of in (planes.mean, planes.amin, planes.amax))
            warped = F.grid_sample(planes - mean, grid.to(planes), mode="bilinear", align_corners=False) + mean
            warped = warped.clamp(least, most)  # rounding below 0 would make torchvision's hue divide 0 by 0
        return _like(inpt, warped.reshape(*values.shape[:-2], *params["size"]))


class _Photometric(v2.Transform):  # type: ignore[misc]
    """Changes the picture and not the mask, by an amount drawn anew each time.

    All amounts are relative to the mean and the standard deviation of each channel of the picture itself, and nothing
    is clipped. So values of any range, such as those of dark 16-bit microscopy or decibels, change alike.
    """

    def __init__(self, p: float, problems: list[str]) -> None:
        super().__init__()
        problems = [*problems, *_number_problems("p", p, 0, 1)]
        if problems:
            raise ConfigError(f"cannot make {type(self).__name__}", problems)
        self.p = p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw whether to do anything, and how much."""
        return {"amount": self._draw() if torch.rand(()) < self.p else None}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Change a picture; return a mask as it is."""
        if params["amount"] is None or isinstance(inpt, tv_tensors.Mask):
            return inpt
        return _like(inpt, self._change(_bare(inpt), params["amount"]))

    def _draw(self) -> float:
        raise NotImplementedError

    def _change(self, image: Tensor, amount: float) -> Tensor:
        raise NotImplementedError


class RandomBrightness(_Photometric):
    """Add to each channel its standard deviation times a number from ``-strength`` to ``strength``.

    Args:
        strength: from 0 up.
        p: probability of doing anything.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(self, strength: float = 0.2, p: float = 0.5) -> None:
        super().__init__(p, _number_problems("strength", strength, 0))
        self.strength = strength

    def _draw(self) -> float:
        return _uniform(-self.strength, self.strength)

    def _change(self, image: Tensor, amount: float) -> Tensor:
        return image + amount * _spread(image)


class RandomContrast(_Photometric):
    """Multiply each channel's distance from its mean by a number from ``1 - strength`` to ``1 + strength``.

    Args:
        strength: from 0 to 1.
        p: probability of doing anything.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(self, strength: float = 0.2, p: float = 0.5) -> None:
        super().__init__(p, _number_problems("strength", strength, 0, 1))
        self.strength = strength

    def _draw(self) -> float:
        return _uniform(1 - self.strength, 1 + self.strength)

    def _change(self, image: Tensor, amount: float) -> Tensor:
        return torch.lerp(image.mean((-2, -1), keepdim=True), image, amount)


class RandomNoise(_Photometric):
    """Add normally distributed noise to each value.

    Args:
        sigma: the noise's largest standard deviation, as a share of the channel's own; drawn uniformly from 0 up.
        p: probability of doing anything.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(self, sigma: float = 0.2, p: float = 0.5) -> None:
        super().__init__(p, _number_problems("sigma", sigma, 0))
        self.sigma = sigma

    def _draw(self) -> float:
        return _uniform(0, self.sigma)

    def _change(self, image: Tensor, amount: float) -> Tensor:
        return image + amount * _spread(image) * torch.randn(image.shape).to(image)


class RandomBlur(_Photometric):
    """Blur by a Gaussian, of three standard deviations to each side; at the border the outermost pixel goes on.

    Args:
        sigma: the Gaussian's largest standard deviation in pixels; drawn uniformly from 0 up.
        p: probability of doing anything.

    Raises:
        ConfigError: lists all that is wrong.
    """

    def __init__(self, sigma: float = 1.5, p: float = 0.5) -> None:
        super().__init__(p, _number_problems("sigma", sigma, 0))
        self.sigma = sigma

    def _draw(self) -> float:
        return _uniform(0, self.sigma)

    def _change(self, image: Tensor, amount: float) -> Tensor:
        radius = math.ceil(3 * amount)
        if radius == 0:
            return image
        bell = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=image.dtype) / amount) ** 2)
        bell /= bell.sum()
        planes = F.pad(image.reshape(-1, 1, *image.shape[-2:]), (radius,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(planes, bell[None, None, None]), bell[None, None, :, None]).reshape(image.shape)


class _Framed(nn.Module):
    """Gives what a torchvision transform fills with 0 the picture's mean, and IGNORED in the mask."""

    def __init__(self, transform: nn.Module, by_mean: bool) -> None:
        super().__init__()
        self.transform = transform
        self.by_mean = by_mean

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        mean = _bare(image).mean((-2, -1), keepdim=True) if self.by_mean else 0
        image, mask = self.transform(tv_tensors.Image(image - mean), tv_tensors.Mask(mask - IGNORED))
        return tv_tensors.Image(image + mean), tv_tensors.Mask(mask + IGNORED)


@dataclass(frozen=True)
class _Entry:
    name: str
    options: dict[str, Any]
    module: nn.Module


class Augmentation(nn.Module):
    """Changes pictures with their masks at random. Made by :func:`build`.

    Attributes:
        crop_size: (height, width) of every result; None: sizes stay as the entries leave them.
    """

    def __init__(self, entries: Sequence[_Entry], crop_size: Size | None) -> None:
        super().__init__()
        self.crop_size = crop_size
        self._entries = tuple(entries)
        self.transforms = nn.ModuleList(entry.module for entry in entries)
        self._sizes: list[Size] = []  # before and after each of the last entries, which work on the crop
        if crop_size is not None:
            self._plan(crop_size)

    def _plan(self, crop_size: Size) -> None:
        """Find how far to the front the crop can go, and how large it must be there."""
        self._sizes = [crop_size]
        for entry in reversed(self._entries):
            if isinstance(entry.module, RandomWarp):
                entry.module.size = self._sizes[0]
            needed = _reach(entry.module, self._sizes[0])
            if needed is None:
                break
            self._sizes.insert(0, needed)

    def describe(self) -> list[dict[str, dict[str, Any]]]:
        """Return the entries, presets spelled out, as JSON-able values out of which :func:`build` makes the same."""
        return _described(self._entries)

    def __repr__(self) -> str:
        return f"Augmentation({self.describe()}, crop_size={self.crop_size})"

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return a changed picture and its mask.

        Args:
            image: (C, H, W), floating point, of any range.
            mask: (H, W) or (K, H, W), int64; IGNORED where nothing is known.

        Returns:
            ``tv_tensors.Image`` and ``tv_tensors.Mask`` of the same types and channels, of ``crop_size``; the
            arguments stay as they are.

        Raises:
            InputError: the tensors are none such, or an entry cannot deal with them.
        """
        _check(image, mask)
        image, mask = tv_tensors.Image(image), tv_tensors.Mask(mask)
        if self.crop_size is None:
            for entry in self._entries:
                image, mask = _run(entry, image, mask)
            return image, mask
        before = len(self._entries) - len(self._sizes) + 1
        for entry in self._entries[:before]:
            image, mask = _run(entry, image, mask)
        image, mask = _random_window(image, mask, self.crop_size, self._sizes[0])
        for entry, size in zip(self._entries[before:], self._sizes[1:], strict=True):
            image, mask = _run(entry, image, mask)
            image, mask = _centre(image, size), _centre(mask, size)
        # A view would keep, and send between processes, all of the picture that it was cut out of.
        return tv_tensors.Image(image.contiguous()), tv_tensors.Mask(mask.contiguous())


def build(spec: str | Sequence[Any] = "light", crop_size: int | Sequence[int] | None = None) -> Augmentation:
    """Make an augmentation out of names and options.

    Args:
        spec: the name of a preset ("none", "light", "strong"), or a list of names and of mappings of one name to its
            options. A name is a preset's, that of a transform here or in ``torchvision.transforms.v2``, or the dotted
            path of a class of one's own: an ``nn.Module`` that takes and returns a ``tv_tensors.Image`` (float, of
            any range) and a ``tv_tensors.Mask`` (int64). ``RandomApply``, ``RandomChoice``, ``RandomOrder`` and
            ``Compose`` take such a list as ``transforms``. ``interpolation`` is a word, "bilinear" where left out.
        crop_size: side, or (height, width), of every result, whose place in the picture is drawn at random. A smaller
            picture lies somewhere inside of it. None: no crop.

    Raises:
        ConfigError: lists all that is wrong.
    """
    problems: list[str] = []
    entries = _parse(spec, "", problems)
    size = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    if size is not None:
        problems += _size_problems("crop_size", size)
    if problems:
        raise ConfigError("cannot build the augmentation", problems)
    return Augmentation(entries, None if size is None else (size[0], size[1]))


# Reading a composition.

OURS = (RandomQuarterTurn, RandomWarp, RandomBrightness, RandomContrast, RandomNoise, RandomBlur)
_CONTAINERS = (v2.Compose, v2.RandomApply, v2.RandomChoice, v2.RandomOrder)
_REFUSED = {
    name: reason
    for reason, names in {
        "mixes the pictures of a batch": "CutMix MixUp",
        "takes no masks": "AutoAugment AugMix RandAugment TrivialAugmentWide",
        "leaves the mask of what it erases as it is": "RandomErasing",
        "takes 8-bit pictures alone": "JPEG",
        "makes many pictures of one": "FiveCrop TenCrop",
        "is made for boxes and points": "ClampBoundingBoxes ClampKeyPoints ConvertBoundingBoxFormat RandomIoUCrop "
        "SanitizeBoundingBoxes SanitizeKeyPoints SetClampingMode",
        "is made for videos": "UniformTemporalSubsample",
        "changes the type of the picture": "ConvertImageDtype PILToTensor ToDtype ToImage ToPILImage ToPureTensor "
        "ToTensor",
        "changes the number of channels": "Grayscale RGB",
        "would normalise before the data does": "Normalize",
        "takes what a list of names cannot say": "Lambda LinearTransformation Transform",
    }.items()
    for name in names.split()
}
_TORCHVISION: dict[str, type[nn.Module]] = {
    name: found
    for name, found in vars(v2).items()
    if inspect.isclass(found) and issubclass(found, nn.Module) and name not in _REFUSED
}
_NAMES: dict[str, type[nn.Module]] = {**_TORCHVISION, **{ours.__name__: ours for ours in OURS}}


def _parse(spec: Any, where: str, problems: list[str]) -> list[_Entry]:
    """Return the entries of ``spec``; say in ``problems`` what is wrong with any."""
    if isinstance(spec, str):
        spec = [spec]
    if not isinstance(spec, Sequence):
        problems.append(f"{where}{spec!r:.100}: a name, or a list of names and {{name: options}}, is needed")
        return []
    entries = []
    for number, given in enumerate(spec, 1):
        place = f"{where}entry {number}"
        name, options = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else (given, {})
        options = {} if options is None else options  # YAML's "- name:"
        if not isinstance(name, str) or not isinstance(options, Mapping) or not all(map(_is_word, options)):
            problems.append(f"{place}: {given!r:.100}: a name or a mapping {{name: {{option: value}}}} is needed")
        elif name in PRESETS:
            if options:
                problems.append(f"{place}: the preset {name!r} has no options; list its entries to change them")
            entries += _parse(PRESETS[name], where, problems)
        else:
            entry = _entry(name, options, f"{place} ({name}): ", problems)
            entries += [] if entry is None else [entry]
    return entries


def _entry(name: str, given: Mapping[str, Any], where: str, problems: list[str]) -> _Entry | None:
    made = _class(name)
    if isinstance(made, str):
        problems.append(where + made)
        return None
    found = [where + problem for problem in _option_problems(made, given)]
    options = {key: _plain(value) for key, value in given.items()}
    found += [
        f"{where}{key}={value!r:.100}: numbers, words and lists of them are possible"
        for key, value in given.items()
        if options[key] is _ODD
    ]
    arguments = copy.deepcopy(options)
    if made in _CONTAINERS and not found:
        children = _parse(options["transforms"], where, found)
        options["transforms"] = _described(children)
        arguments["transforms"] = [child.module for child in children]
    if not found:
        try:
            return _Entry(name, options, _construct(made, arguments))
        except ConfigError as error:
            found = [where + problem for problem in error.problems]
        except Exception as error:  # whatever torchvision or somebody's own class finds wrong
            found = [f"{where}{type(error).__name__}: {error}"]
    problems += found
    return None


def _class(name: str) -> type[nn.Module] | str:
    """Return the class called ``name``, or what is wrong with it."""
    if name in _NAMES:
        return _NAMES[name]
    if name in _REFUSED:
        return f"{_REFUSED[name]}: leave it out"
    if "." not in name:
        ours = ", ".join(ours.__name__ for ours in OURS)
        return (
            f"unknown{suggest(name, [*PRESETS, *_NAMES])} (presets: {', '.join(PRESETS)}; transforms: {ours}, those of "
            "torchvision.transforms.v2, and dotted paths of one's own)"
        )
    home, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(home), attribute)
    except Exception as error:  # importing runs what is written there
        return f"cannot be imported ({type(error).__name__}: {error})"
    if not inspect.isclass(found) or not issubclass(found, nn.Module):
        return "is no nn.Module class"
    return found


def _option_problems(made: type[nn.Module], options: Mapping[str, Any]) -> list[str]:
    parameters = inspect.signature(made).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    hidden = {"size"} if made is RandomWarp else set()  # the crop's affair
    named = [key for key, p in parameters.items() if p.kind is not p.VAR_POSITIONAL and key not in hidden]
    needed = [key for key in named if parameters[key].default is inspect.Parameter.empty]
    return [
        *(f"unknown option {key!r}{suggest(key, named)}" for key in options if key not in named),
        *(f"{key} is missing" for key in needed if key not in options),
    ]


_ODD = object()


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON has it, or ``_ODD``."""
    if isinstance(value, v2.InterpolationMode):
        return value.value
    if isinstance(value, Mapping):
        values = {key: _plain(item) for key, item in value.items()}
        return _ODD if _ODD in values.values() or not all(map(_is_word, values)) else values
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return _ODD if _ODD in items else items
    return value if value is None or isinstance(value, bool | int | float | str) else _ODD


def _construct(made: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    """Return a transform that keeps this module's rules where torchvision's own defaults do not."""
    if made not in _TORCHVISION.values():
        return made(**arguments)
    known = inspect.signature(made).parameters
    if "interpolation" in known:
        # Some of torchvision's take the nearest pixel by default, of pictures too.
        arguments["interpolation"] = v2.InterpolationMode(arguments.get("interpolation", "bilinear"))
    by_mean = arguments.get("fill") is None
    if "fill" in known:
        arguments["fill"] = {tv_tensors.Mask: 0, "others": 0 if by_mean else arguments["fill"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what torchvision warns of while making is a wrong option
        transform = made(**arguments)
    return _Framed(transform, by_mean) if "fill" in known or made is v2.CenterCrop else transform


def _described(entries: Iterable[_Entry]) -> list[dict[str, dict[str, Any]]]:
    return [{entry.name: copy.deepcopy(entry.options)} for entry in entries]


# Sizes: what a transform must see to make a result of a size.

_LOCAL = (
    _Photometric,
    v2.ColorJitter,
    v2.GaussianBlur,
    v2.GaussianNoise,
    v2.Identity,
    v2.RandomAdjustSharpness,
    v2.RandomAutocontrast,
    v2.RandomChannelPermutation,
    v2.RandomEqualize,
    v2.RandomGrayscale,
    v2.RandomHorizontalFlip,
    v2.RandomInvert,
    v2.RandomPhotometricDistort,
    v2.RandomPosterize,
    v2.RandomSolarize,
    v2.RandomVerticalFlip,
)


def _reach(transform: nn.Module, size: Size) -> Size | None:
    """Return the size of the window out of which ``transform`` makes ``size``; None: it must see the whole picture."""
    if isinstance(transform, _Framed):
        return _reach(transform.transform, size)
    if isinstance(transform, _LOCAL):
        return size
    if isinstance(transform, RandomQuarterTurn):
        return max(size), max(size)
    if isinstance(transform, RandomWarp):
        return transform.reach(size)
    if isinstance(transform, v2.RandomRotation) and not transform.expand and transform.center is None:
        return _grown(size, _turned(size, *transform.degrees))
    if isinstance(transform, v2.RandomAffine) and transform.translate is transform.shear is transform.center is None:
        return _grown(size, _turned(size, *transform.degrees), shrink=(transform.scale or [1])[0])
    if isinstance(transform, v2.ElasticTransform):
        # Noise in [-1, 1] times alpha / 2 pixels, smoothed: 1 / sigma is six of its standard deviations.
        margin = max(alpha * min(1, 1 / max(transform.sigma[0], 1)) for alpha in transform.alpha)
        return _grown(size, size, margin)
    if isinstance(transform, _CONTAINERS):
        needed: Size | None = size
        for child in transform.transforms:
            needed = None if needed is None else _reach(child, needed)
        return needed
    return None


def _turned(size: Size, low: float, high: float) -> tuple[float, float]:
    """Return height and width that cover a rectangle turned by anything from ``low`` to ``high`` degrees."""
    turns = [math.radians(low + (high - low) * k / 180) for k in range(181)]
    cos, sin = [abs(math.cos(turn)) for turn in turns], [abs(math.sin(turn)) for turn in turns]
    height, width = size
    return (
        max(height * c + width * s for c, s in zip(cos, sin, strict=True)),
        max(width * c + height * s for c, s in zip(cos, sin, strict=True)),
    )


def _grown(size: Size, covered: tuple[float, float], margin: float = 0, shrink: float = 1) -> Size:
    """Return ``(covered + margin) / shrink`` and what interpolation needs; by an even number more, to stay centred."""
    height, width = (
        side + 2 * max(0, math.ceil(((cover + margin) / shrink - side) / 2) + 1)
        for side, cover in zip(size, covered, strict=True)
    )
    return height, width


def _random_window(image: Tensor, mask: Tensor, crop: Size, size: Size) -> tuple[Tensor, Tensor]:
    """Return a window of ``size`` about a crop at random: inside of the picture, or about it where that is smaller."""
    corner = []
    for whole, side, window in zip(image.shape[-2:], crop, size, strict=True):
        low, high = sorted((0, whole - side))
        corner.append(int(torch.randint(low, high + 1, ())) - (window - side) // 2)
    return _window(image, corner[0], corner[1], size), _window(mask, corner[0], corner[1], size)


def _centre(inpt: Tensor, size: Size) -> Tensor:
    height, width = inpt.shape[-2:]
    return _window(inpt, (height - size[0]) // 2, (width - size[1]) // 2, size)


def _window(inpt: Tensor, top: int, left: int, size: Size) -> Tensor:
    """Return the part of a picture or mask at (top, left): outside, the mean of what is inside, or IGNORED."""
    values = _bare(inpt)
    height, width = values.shape[-2:]
    rows = slice(max(top, 0), min(top + size[0], height))
    columns = slice(max(left, 0), min(left + size[1], width))
    inside = values[..., rows, columns]
    if inside.shape[-2:] != size:
        if isinstance(inpt, tv_tensors.Mask):
            whole = values.new_full((*values.shape[:-2], *size), IGNORED)
        else:
            whole = inside.mean((-2, -1), keepdim=True).expand(*values.shape[:-2], *size).clone()
        whole[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inside
        inside = whole
    return _like(inpt, inside)


# Running.


def _check(image: Tensor, mask: Tensor) -> None:
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point() or not image.numel():
        raise InputError(f"an image of {_kind(image)}: floating point (channels, height, width) is needed")
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3) or mask.dtype != torch.int64:
        raise InputError(f"a mask of {_kind(mask)}: int64 (height, width) or (classes, height, width) is needed")
    if image.shape[-2:] != mask.shape[-2:]:
        raise InputError(f"an image of {_kind(image)} with a mask of {_kind(mask)}: one height and width are needed")


def _run(entry: _Entry, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    try:
        result = entry.module(image, mask)
    except Exception as error:  # whatever torchvision or somebody's own class finds wrong
        raise InputError(
            f"{entry.name} cannot change an image of {_kind(image)} ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise InputError(f"{entry.name} returned {type(result).__name__}, not an image and a mask")
    try:
        _check(*result)
        kept = result[0].shape[:-2] == image.shape[:-2] and result[1].shape[:-2] == mask.shape[:-2]
    except InputError as error:
        raise InputError(f"{entry.name} returned {error}") from error
    if not kept:
        raise InputError(
            f"{entry.name} returned an image of {_kind(result[0])} and a mask of {_kind(result[1])} for "
            f"{_kind(image)} and {_kind(mask)}: channels and classes must stay"
        )
    if not torch.isfinite(result[0]).all() and torch.isfinite(image).all():
        raise InputError(
            f"{entry.name} made values that are not finite of an image from {float(image.min()):.6g} to "
            f"{float(image.max()):.6g}; torchvision's changes of colour take values from 0 to 1: list them first, "
            "before brightness, contrast and noise of this package, which clip nothing"
        )
    return tv_tensors.Image(result[0]), tv_tensors.Mask(result[1])


def _kind(given: object) -> str:
    return f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__


def _bare(inpt: Tensor) -> Tensor:
    return inpt.as_subclass(Tensor)


def _like(inpt: Tensor, values: Tensor) -> Tensor:
    wrapped: Tensor = tv_tensors.wrap(values, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else values
    return wrapped


def _spread(image: Tensor) -> Tensor:
    return image.std((-2, -1), correction=0, keepdim=True)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), dtype=torch.float64))


# Checks of options.


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_word(value: object) -> bool:
    return isinstance(value, str)


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _number_problems(name: str, value: object, low: float, high: float = math.inf) -> list[str]:
    if _is_number(value) and low <= value <= high:  # type: ignore[operator]
        return []
    return [f"{name}={value!r}: a number from {low} {'up' if high == math.inf else f'to {high}'} is needed"]


def _size_problems(name: str, size: Any) -> list[str]:
    if _is_pair(size) and all(type(side) is int and side > 0 for side in size):
        return []
    return [f"{name}={size!r}: a whole number from 1 up, or two of them for height and width, are needed"]

"""The checks of unetzoo.testing: parts that are right pass, and each check finds the fault that no other finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from reference import LAST
from torch import Tensor, nn

import unetzoo
from unetzoo.decoders import DECODERS, Decoder, Feature, Pruned
from unetzoo.decoders.light import UNetPlusPlusLiteDecoder, UNetPlusPlusLiteOptions
from unetzoo.encoders import Encoder, Options
from unetzoo.nn.layers import Concat, ConvNormAct, initialise, make_norm
from unetzoo.nn.resampling import resize
from unetzoo.testing import ContractError, _decoders, _encoders, check_decoder, check_encoder

pytestmark = pytest.mark.usefixtures("registries")
SHIPPED_DECODERS = tuple(DECODERS)
SHIPPED_ENCODERS = ("plain", "resnet18", "resenc_small", *LAST, "regnet_y_1_6gf", "regnet_y_3_2gf", "densenet121",
                    "convnext_tiny", "convnext_small")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED_DECODERS)
def test_decoders_that_ship_pass(name: str) -> None:
    check_decoder(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED_ENCODERS)
def test_encoders_that_ship_pass(name: str) -> None:
    check_encoder(name)


def test_unknown_names_are_refused() -> None:
    for check in (check_decoder, check_encoder):
        with pytest.raises(unetzoo.ConfigError, match="'resnet19'"):
            check("resnet19")


def found_by(check: Callable[[str], None]) -> set[str]:
    """Return the names of the checks that find something in the part "sound"."""
    with pytest.raises(ContractError) as caught:
        check("sound")
    assert all(problem in str(caught.value) and "\n" not in problem for problem in caught.value.problems)
    return {problem.partition(":")[0].partition(" (")[0] for problem in caught.value.problems}


def finds(title: str, room: ModuleType, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether the check of that name alone, run as the whole is, finds something in the part "sound"."""
    run = room.run

    def one(part: str, checks: list[Any]) -> None:
        run(part, [check for check in checks if check.func.__name__.replace("_", " ") == title])

    monkeypatch.setattr(room, "run", one)
    check = check_encoder if room is _encoders else check_decoder
    return found_by(check) == {title}


# Encoders


class Block(nn.Module):
    """A strided convolution, its norm, and what may go wrong around them."""

    def __init__(self, into: int, out: int, norm: nn.Module, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, 3, 2, 1, bias=bias)
        self.norm = norm
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))

    def foldable(self) -> list[tuple[str, str]]:
        return [("conv", "norm")]


class SoundEncoder(Encoder):
    """Strided convolutions: three maps, at strides 2, 4 and 8."""

    image_convolution = "levels.0.conv"
    block: type[Block] = Block

    def __init__(self, in_channels: int, style: Any, options: Any, depth: int = 3) -> None:
        super().__init__()
        self.in_channels, self.channels, self.strides = in_channels, (4, 6, 8)[:depth], (2, 4, 8)[:depth]
        widths = (in_channels, *self.channels)
        self.levels = nn.ModuleList(
            self.block(widths[k], widths[k + 1], self.norm(style, widths[k + 1]), style.bias) for k in range(depth)
        )

    def norm(self, style: Any, channels: int) -> nn.Module:
        return make_norm(style.norm, channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for level in self.levels:
            maps.append(self.run(level, maps[-1] if maps else images))
        return maps

    def stages(self) -> list[list[nn.Module]]:
        return [[level] for level in self.levels]


class GivesATuple(SoundEncoder):
    def forward(self, images: Tensor) -> Any:
        return tuple(super().forward(images))


class IgnoresDepth(SoundEncoder):
    def __init__(self, in_channels: int, style: Any, options: Any, depth: int = 3) -> None:
        super().__init__(in_channels, style, options, 3)


class ListsStrides(SoundEncoder):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.strides = list(self.strides)


class PadsTheDeepest(SoundEncoder):
    def forward(self, images: Tensor) -> list[Tensor]:
        *maps, deepest = super().forward(images)
        return [*maps, nn.functional.pad(deepest, (0, 0, 0, 1))]


class TakesFewChannels(SoundEncoder):
    def __init__(self, in_channels: int, *arguments: Any) -> None:
        assert in_channels < 10
        super().__init__(in_channels, *arguments)


class NamesNoConvolution(SoundEncoder):
    image_convolution = None


class HasAnIdleLayer(SoundEncoder):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.levels[0].idle = nn.Linear(2, 2)


class CastsToFloat(SoundEncoder):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [each.float() for each in super().forward(images)]


class LooksAtItsNeighbours(SoundEncoder):
    def forward(self, images: Tensor) -> list[Tensor]:
        maps = super().forward(images)
        return maps if self.training else [each - 0.5 * each.mean(dim=0, keepdim=True) for each in maps]


class AlwaysBatchNorm(SoundEncoder):
    def norm(self, style: Any, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels)


class ThawsWhenItTrains(SoundEncoder):
    def train(self, mode: bool = True) -> Any:
        return nn.Module.train(self, mode)


class FailsOnAPixel(SoundEncoder):
    def forward(self, images: Tensor) -> list[Tensor]:
        *maps, deepest = super().forward(images)
        return [*maps, deepest + 0 * deepest.flatten(2).var(dim=2)[..., None, None]]


class RecomputesNothing(SoundEncoder):
    def run(self, part: Any, *inputs: Any) -> Any:
        return part(*inputs)


class AllocatesOnTheCpu(SoundEncoder):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("table", torch.zeros(4, device="cpu"))


class KeepsInfinity(SoundEncoder):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("least", torch.full((), -torch.inf))


class ActsBeforeItsNorm(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.conv(x)))

    def foldable(self) -> list[tuple[str, str]]:
        return [("conv", "norm")]


class FoldsWhatIsApart(SoundEncoder):
    block = ActsBeforeItsNorm


class AsksWhetherASizeIsEven(SoundEncoder):
    def forward(self, images: Tensor) -> list[Tensor]:
        return super().forward(images if images.shape[-1] % 2 else images * 1)


@dataclasses.dataclass(frozen=True)
class Unexplained(Options):
    """Options that say nothing of themselves."""

    secret: int = 1


@dataclasses.dataclass(frozen=True)
class OfTuples(Options):
    """Options that JSON does not keep.

    Attributes:
        shape: a tuple, which comes back from JSON as a list.
    """

    shape: tuple[int, ...] = (1, 2)


def register(kind: type[Encoder], **details: Any) -> None:
    given = {"title": "Sound", "paper": "none", "maps": 3, **details}
    unetzoo.register_encoder("sound", **given)(kind)


ENCODER_FAULTS: list[tuple[str, type[Encoder], dict[str, Any]]] = [
    ("building", GivesATuple, {}),
    ("building", SoundEncoder, {"paper": ""}),
    ("maps asked for", IgnoresDepth, {}),
    ("strides", ListsStrides, {}),
    ("sizes rounded up", PadsTheDeepest, {}),
    ("channels of images", TakesFewChannels, {}),
    ("image convolution", NamesNoConvolution, {}),
    ("gradients", HasAnIdleLayer, {}),
    ("encoder types", CastsToFloat, {}),
    ("maps of images apart", LooksAtItsNeighbours, {}),
    ("norms", AlwaysBatchNorm, {}),
    ("norms", SoundEncoder, {"own_norm": "layer norm"}),
    ("freezing", ThawsWhenItTrains, {}),
    ("pretrained weights", SoundEncoder, {"weights": "ResNet18_Weights"}),
    ("decoders above", SoundEncoder, {"maps": 1}),
    ("listing", SoundEncoder, {"options": Unexplained}),
    ("configuration", SoundEncoder, {"options": OfTuples}),
    ("any size", FailsOnAPixel, {}),
    ("checkpointing", RecomputesNothing, {}),
    ("meta", AllocatesOnTheCpu, {}),
    ("saving", KeepsInfinity, {}),
    ("optimizing", FoldsWhatIsApart, {}),
    ("exporting", AsksWhetherASizeIsEven, {}),
]


@pytest.mark.slow  # by default test_docs checks the encoder of the guide
def test_a_sound_encoder_passes() -> None:
    register(SoundEncoder)
    check_encoder("sound")


@pytest.mark.parametrize(("title", "kind", "details"), ENCODER_FAULTS)
def test_a_check_finds_its_fault(
    title: str, kind: type[Encoder], details: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(kind, **details)
    assert finds(title, _encoders, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("title", "kind", "details"), ENCODER_FAULTS)
def test_no_other_check_finds_it(title: str, kind: type[Encoder], details: dict[str, Any]) -> None:
    register(kind, **details)
    assert found_by(check_encoder) == {title}


# Decoders


class SoundDecoder(Decoder):
    """Sums of maps of one width, with a convolution for each head besides the main one."""

    title = "Sound"
    paper = "none"
    summary = "sums"
    always: ClassVar[str | None] = None

    def __init__(self, encoder: Encoder, style: Any, options: Any, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        if self.always is not None:
            style = dataclasses.replace(style, norm=self.always)
        self.steps = nn.ModuleList(Concat(ConvNormAct(channels, 6, style)) for channels in encoder.channels)
        features = [Feature(6, stride) for stride in encoder.strides]
        self.features = features if deep_supervision else features[:1]
        self.others = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in self.features[1:])
        initialise(self)

    def forward(self, maps: list[Tensor], size: Any, deep: bool) -> list[Tensor]:
        sums: list[Tensor] = []
        for step, each in zip(reversed(self.steps), reversed(maps), strict=True):
            own = self.run(step, each)
            sums.insert(0, own + resize(sums[0], own.shape[-2:], "nearest") if sums else own)
        return [sums[0], *(other(x) for other, x in zip(self.others, sums[1:], strict=True))] if deep else sums[:1]

    def drop_training_parts(self) -> None:
        self.others = nn.ModuleList()


class HasNoSummary(SoundDecoder):
    summary = ""


class GivesNoList(SoundDecoder):
    def forward(self, maps: list[Tensor], size: Any, deep: bool) -> Any:
        return super().forward(maps, size, deep)[0]


class SaysOtherChannels(SoundDecoder):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.features[0] = Feature(7, self.features[0].stride)


class HasUnexplainedOptions(SoundDecoder):
    Options = Unexplained


class HasTuples(SoundDecoder):
    Options = OfTuples


class RefusesManyChannels(SoundDecoder):
    def __init__(self, encoder: Encoder, *arguments: Any) -> None:
        assert encoder.in_channels < 10
        super().__init__(encoder, *arguments)


class HasBatchNorm(SoundDecoder):
    always = "batch"


class NeedsThreeMaps(SoundDecoder):
    def __init__(self, encoder: Encoder, *arguments: Any) -> None:
        assert len(encoder.channels) >= 3
        super().__init__(encoder, *arguments)


class MixesByAFixedMatrix(SoundDecoder):
    def forward(self, maps: list[Tensor], size: Any, deep: bool) -> list[Tensor]:
        found = super().forward(maps, size, deep)
        return [torch.einsum("nchw,cd->ndhw", each, torch.eye(6, device=each.device)) for each in found]


class SharesItsBatch(SoundDecoder):
    def forward(self, maps: list[Tensor], size: Any, deep: bool) -> list[Tensor]:
        found = super().forward(maps, size, deep)
        return found if self.training else [each - 0.5 * each.mean(dim=0, keepdim=True) for each in found]


class HasATableOnTheCpu(SoundDecoder):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("table", torch.zeros(4, device="cpu"))


class HasInfinity(SoundDecoder):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("least", torch.full((), -torch.inf))


class AsksForParity(SoundDecoder):
    def forward(self, maps: list[Tensor], size: Any, deep: bool) -> list[Tensor]:
        return super().forward(maps if size[-1] % 2 else [each * 1 for each in maps], size, deep)


class NeedsTwoPixels(SoundDecoder):
    def forward(self, maps: list[Tensor], size: Any, deep: bool) -> list[Tensor]:
        main, *others = super().forward(maps, size, deep)
        return [main + 0 * main.flatten(2).var(dim=2)[..., None, None], *others]


class SaysAnotherStride(SoundDecoder):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.features[0] = Feature(6, 2 * self.features[0].stride)


class HasAnIdleConvolution(SoundDecoder):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.idle = nn.Conv2d(2, 2, 1)


class AlwaysListsAllFeatures(SoundDecoder):
    def __init__(self, encoder: Encoder, style: Any, options: Any, deep_supervision: bool) -> None:
        super().__init__(encoder, style, options, deep_supervision)
        self.features = [Feature(6, stride) for stride in encoder.strides]


class KeepsEverything(SoundDecoder):
    def run(self, part: Any, *inputs: Any) -> Any:
        return part(*inputs)


class KeepsWhatTrainingNeeds(SoundDecoder):
    def drop_training_parts(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class NarrowOptions(UNetPlusPlusLiteOptions):
    """Options of few channels.

    Attributes:
        branch_channels: of each node.
        levels: of the triangle.
        output: of all heads, or of the last.
    """

    branch_channels: int = 4


class PrunesToAnotherHead(UNetPlusPlusLiteDecoder):
    Options = NarrowOptions

    def pruned(self, options: Any, level: int) -> Pruned:
        right = super().pruned(options, level)
        return right._replace(head=right.head % 3)


DECODER_FAULTS: list[tuple[str, type[Decoder]]] = [
    ("building", HasNoSummary),
    ("listing", HasUnexplainedOptions),
    ("configuration", HasTuples),
    ("channels and classes", RefusesManyChannels),
    ("decoder norms", HasBatchNorm),
    ("numbers of maps", NeedsThreeMaps),
    ("types", MixesByAFixedMatrix),
    ("images apart", SharesItsBatch),
    ("meta", HasATableOnTheCpu),
    ("saving", HasInfinity),
    ("exporting", AsksForParity),
    ("any size", NeedsTwoPixels),
    ("features", SaysAnotherStride),
    ("decoder gradients", HasAnIdleConvolution),
    ("supervision", AlwaysListsAllFeatures),
    ("checkpointing", KeepsEverything),
    ("optimizing", KeepsWhatTrainingNeeds),
    ("pruning", PrunesToAnotherHead),
]


@pytest.fixture
def on_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check on the plain encoder alone: the faults show there, and a ResNet takes ten times as long."""
    monkeypatch.setattr(_decoders, "_ENCODERS", ("plain",))


@pytest.mark.slow  # by default test_docs checks the decoder of the guide
def test_a_sound_decoder_passes() -> None:
    unetzoo.register_decoder("sound")(SoundDecoder)
    check_decoder("sound")


@pytest.mark.usefixtures("on_plain")
@pytest.mark.parametrize(("title", "kind"), DECODER_FAULTS)
def test_a_check_finds_its_fault_of_a_decoder(title: str, kind: type[Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    unetzoo.register_decoder("sound")(kind)
    assert finds(title, _decoders, monkeypatch)


@pytest.mark.usefixtures("on_plain")
@pytest.mark.parametrize(
    ("kind", "said"), [(GivesNoList, ("Tensor", "a list")), (SaysOtherChannels, ("(2, 6, 32, 40)", "[7]"))]
)
def test_what_a_decoder_gives_is_told_before_it_fails_elsewhere(kind: type[Decoder], said: tuple[str, ...]) -> None:
    unetzoo.register_decoder("sound")(kind)
    with pytest.raises(ContractError) as caught:
        check_decoder("sound")
    (problem,) = caught.value.problems
    assert all(word in problem for word in said), problem


@pytest.mark.slow
@pytest.mark.usefixtures("on_plain")
@pytest.mark.parametrize(("title", "kind"), DECODER_FAULTS)
def test_no_other_check_finds_it_of_a_decoder(title: str, kind: type[Decoder]) -> None:
    unetzoo.register_decoder("sound")(kind)
    assert found_by(check_decoder) == {title}


def test_every_check_has_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: dict[ModuleType, set[str]] = {}
    for room, check, name in ((_encoders, check_encoder, "plain"), (_decoders, check_decoder, "unet")):
        monkeypatch.setattr(
            room, "run", lambda _, checks, room=room: ran.update({room: {c.func.__name__ for c in checks}})
        )
        check(name)
    planted = {_encoders: ENCODER_FAULTS, _decoders: DECODER_FAULTS}
    for room, names in ran.items():
        assert {name.replace("_", " ") for name in names} == {title for title, *_ in planted[room]}

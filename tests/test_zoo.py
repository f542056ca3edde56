"""The flat registry: names, wildcards, information, and names of one's own."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
from conftest import NAMES, ROOT, light, tried
from hypothesis import given, settings, strategies as st
from torch import Tensor

import unetzoo
from unetzoo import ConfigError, naming
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS, Options


def test_the_readme_counts_the_names() -> None:
    (said,) = re.findall(r"There are (\d+)\s+names", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert int(said) == len(NAMES)


def test_natural_order() -> None:
    assert unetzoo.list_models("resunet*") == [f"resunet{size}" for size in (18, 34, 50, 101, 152)]
    assert unetzoo.list_models("unetpp_resne*t50*") == ["unetpp_resnet50", "unetpp_resnext50_32x4d"]


def test_wildcards_and_exclusions() -> None:
    assert unetzoo.list_models("unet3p_*res*", exclude=["*lite*", "*ne[x]t*", "*wide*", "*152", "*enc*"]) == [
        f"unet3p_resnet{size}" for size in (18, 34, 50, 101)
    ]
    assert unetzoo.list_encoders("resne*t50*") == ["resnet50", "resnext50_32x4d"]
    assert unetzoo.list_encoders(["resnet*", "conv*"], exclude="*1*") == [
        *("convnext_small", "convnext_tiny", "resnet34", "resnet50")
    ]
    assert all(f"unetpp_{name}" in unetzoo.list_models() for name in unetzoo.list_encoders() if name != "plain")
    assert unetzoo.list_models(["unet", "unetpp"]) == ["unet", "unetpp"]
    assert unetzoo.list_models("nothing*") == []
    assert unetzoo.list_models("unet_resnet18") == ["resunet18"]
    assert unetzoo.list_models("resunet*", exclude=["unet_*", "unet_resnet18", "*1*"]) == ["resunet34", "resunet50"]
    assert unetzoo.list_models("resunet*", exclude="unet_*") == unetzoo.list_models("resunet*")
    assert unetzoo.list_models(pretrained=True) == ["nuclei", "vessels"]
    assert unetzoo.list_models("n*", pretrained=True) == ["nuclei"]
    assert unetzoo.list_models("u*", pretrained=True) == []
    assert "nuclei" not in unetzoo.list_models()


def test_the_page_has_all_encoders() -> None:
    """It is not made when the docs are built, but read where it lies."""
    page = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8").partition("| family | names |\n")[2]
    rows = [row.split("|")[2] for row in page.partition("\n\n")[0].splitlines()[1:]]
    assert {name for row in rows for name in re.findall("`([a-z0-9_]+)`", row.partition(":")[0])} == {*ENCODERS}


@pytest.mark.parametrize("size", [18, 34, 50, 101, 152])
def test_aliases(size: int) -> None:
    info = unetzoo.model_info(f"unet_resnet{size}")
    assert info.name == f"resunet{size}"
    assert info.aliases == (f"unet_resnet{size}",)
    with unetzoo.model.on_meta():
        assert unetzoo.create(f"unet_resnet{size}").config.name == f"resunet{size}"


def test_info_allocates_nothing_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    assert unetzoo.model_info("unet3p_wide_resnet101_2").parameters == 136_126_081
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_listed_default_first() -> None:
    assert unetzoo.model_info("resunet50").pretrained == ("IMAGENET1K_V2", "IMAGENET1K_V1")
    assert unetzoo.model_info("resunet18").pretrained == ("IMAGENET1K_V1",)
    assert unetzoo.model_info("unetpp").pretrained == ()


@pytest.mark.usefixtures("registries")
def test_a_name_of_one_s_own() -> None:
    @unetzoo.register_model("small_nuclei")
    def small_nuclei(**options: object) -> unetzoo.SegmentationModel:
        """U-Net that keeps resolution."""
        return unetzoo.create("resunet18", **{"stem_stride": 2, "num_classes": 2, **options})

    assert unetzoo.create("small_nuclei").config.encoder_options.stem_stride == 2
    assert unetzoo.create("small_nuclei", num_classes=1).config.num_classes == 1
    assert unetzoo.list_models("small*") == ["small_nuclei"]
    assert unetzoo.model_info("small_nuclei").summary == "U-Net that keeps resolution."
    options = unetzoo.model_info("small_nuclei").options
    assert options["stem_stride"] == options["num_classes"] == 2
    assert json.loads(json.dumps(options))["upsampling"] == "transpose"
    assert unetzoo.compare("small_nuclei").rows[0].published is None
    assert unetzoo.information.hub_entries()["small_nuclei"](num_classes=3).config.num_classes == 3
    with pytest.raises(ConfigError, match="'num_clases'"):
        unetzoo.create("small_nuclei", num_clases=1)
    for taken in ("small_nuclei", "unet", "resunet18", "unet_resnet18"):
        with pytest.raises(ConfigError, match=f"{taken!r} is taken"):
            unetzoo.register_model(taken)


@pytest.mark.usefixtures("registries")
def test_names_are_computed_again_only_where_something_was_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from unetzoo.decoders.unet import UNetDecoder

    computed, pairs = [], naming._pairs
    monkeypatch.setattr(naming, "_pairs", lambda: computed.append("again") or pairs())
    usual = unetzoo.list_models()
    computed.clear()
    assert unetzoo.create("unet", base_channels=1).config.name == "unet"
    assert unetzoo.list_models() == usual
    assert computed == []
    unetzoo.register_decoder("mine")(UNetDecoder)
    assert "mine_resnet18" in unetzoo.list_models()
    assert computed == ["again"]
    del DECODERS._entries["mine"]
    assert unetzoo.list_models() == usual


@pytest.mark.usefixtures("registries")
def test_parts_whose_names_collide_are_refused() -> None:
    from unetzoo.decoders.unet import UNetDecoder

    unetzoo.register_decoder("resunet18")(UNetDecoder)
    with pytest.raises(ConfigError, match="'resunet18' is ambiguous"):
        unetzoo.list_models()


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("taken", ["norm", "stem_stride"])
def test_options_whose_names_collide_are_refused(taken: str) -> None:
    from unetzoo.decoders.unet import UNetDecoder

    class Colliding(UNetDecoder):
        Options = dataclasses.make_dataclass("Options", [(taken, int, 1)], bases=(Options,), frozen=True)

    unetzoo.register_decoder("colliding")(Colliding)
    with pytest.raises(ConfigError, match=f"{taken!r} .*two options"):
        unetzoo.create("colliding_resnet18")


def plain_of(maps: int, name: str = "short", **details: object) -> None:
    """Register the plain encoder as one that gives so many maps."""
    from unetzoo.encoders.plain import PlainEncoder, PlainOptions

    register = unetzoo.register_encoder(
        name, title=name.title(), paper="arXiv", options=PlainOptions, maps=maps, **details
    )
    register(PlainEncoder)


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(("maps", "levels"), [(2, 1), (3, 2), (4, 3), (5, 4), (6, 4)])
def test_decoders_take_the_maps_there_are(maps: int, levels: int) -> None:
    plain_of(maps)
    names = unetzoo.list_models("*_short")
    assert set(names) == {f"{decoder}_short" for decoder in DECODERS if decoder != "unet_valid"}
    for name in names:
        model = unetzoo.create(name, base_channels=2, deep_supervision=True)
        assert len(model.encoder.channels) == min(maps, 8 if name == "unet_short" else 5)
        outputs = model.training_outputs(torch.randn(2, 3, 37, 51))
        assert {tuple(logits.shape) for logits in (outputs.logits, *outputs.deep)} == {(2, 1, 37, 51)}
    config = unetzoo.create("unetpp_short", base_channels=2).config
    assert (
        config.to_dict()["decoder_options"]["levels"] == unetzoo.model_info("unetpp_short").options["levels"] == levels
    )
    assert unetzoo.ModelConfig.from_json(config.to_json()) == config


@pytest.mark.usefixtures("registries")
def test_more_levels_than_maps_are_refused() -> None:
    plain_of(3)
    with pytest.raises(ConfigError, match=r"levels=4: 5 maps .*encoder gives 3\b") as caught:
        unetzoo.create("unetpp_short", levels=4)
    assert len(caught.value.problems) == 1
    assert unetzoo.create("unetpp_short", levels=1, base_channels=2)(torch.zeros(1, 3, 9, 9)).shape == (1, 1, 9, 9)


@pytest.mark.usefixtures("registries")
def test_pairs_that_cannot_be_are_told_why() -> None:
    plain_of(1)
    assert unetzoo.list_models("*_short") == []
    config = unetzoo.create("unet", base_channels=2).config
    for build in (lambda: config.replace(encoder="short"), lambda: unetzoo.create("unet_short")):
        with pytest.raises(ConfigError) as caught:
            build()
        assert re.search(r"unet needs 2 maps.*Short gives 1\b", "".join(caught.value.problems))
    with pytest.raises(ConfigError) as caught:
        unetzoo.create("unet_valid_resnet18")
    assert "unpadded convolutions" in "".join(caught.value.problems)


@pytest.mark.usefixtures("registries")
def test_an_encoder_that_breaks_its_word_is_refused() -> None:
    from unetzoo.encoders.plain import PlainEncoder, PlainOptions

    @unetzoo.register_encoder("short", title="short", paper="arXiv", options=PlainOptions)
    def short(in_channels: int, style: object, options: object, depth: int) -> unetzoo.Encoder:
        return PlainEncoder(in_channels, style, options, min(depth, 3))

    with pytest.raises(ConfigError, match=r"short .*5 maps.*gives 3\b"):
        unetzoo.create("unet_short")


@pytest.mark.usefixtures("registries")
def test_an_encoder_with_a_norm_of_its_own_says_so() -> None:
    plain_of(5, own_norm="layer norm", weights="ResNet18_Weights")
    assert "decoder only: Short always has its own layer norm" in unetzoo.model_info("unet_short").meanings["norm"]
    assert "decoder only" not in unetzoo.model_info("unet").meanings["norm"]
    with pytest.raises(ConfigError) as caught:  # of all that is wrong, nothing is about the norm
        unetzoo.create("unet_short", norm="group", pretrained="missing.pth")
    assert len(caught.value.problems) == 1
    assert "missing.pth" in caught.value.problems[0]


@pytest.mark.usefixtures("registries")
def test_norms_that_an_encoder_does_not_take() -> None:
    plain_of(5, norms=("group", None), weights="ResNet18_Weights", weights_norms=("group", None))
    assert unetzoo.create("unet_short", base_channels=2).config.norm == "group"
    assert unetzoo.model_info("unet_short").options["norm"] == "group"
    assert "Short takes 'group', None" in unetzoo.model_info("unet_short").meanings["norm"]
    with pytest.raises(ConfigError, match=r"norm='layer': 'group' is needed, or None with Short"):
        unetzoo.create("unet_short", norm="layer")
    plain_of(5, "grouped", weights="ResNet18_Weights", weights_norms=("group", None))
    with pytest.raises(ConfigError, match=r"pretrained=True .*group norm .*no norm.*norm='group'"):
        unetzoo.create("unet_grouped", pretrained=True)


@pytest.mark.usefixtures("registries")
def test_a_builder_declares_its_arguments_and_returns_a_model() -> None:
    @unetzoo.register_model("fixed")
    def fixed(num_classes: int = 4) -> unetzoo.SegmentationModel:
        return unetzoo.create("unet", base_channels=2, num_classes=num_classes)

    @unetzoo.register_model("broken")
    def broken() -> torch.nn.Module:
        return torch.nn.Conv2d(3, 1, 1)

    assert unetzoo.create("fixed").config.num_classes == 4
    with pytest.raises(ConfigError, match=r"unknown option 'classes'.*num_classes"):
        unetzoo.create("fixed", classes=3)
    with pytest.raises(ConfigError, match="returned Conv2d"):
        unetzoo.create("broken")


@pytest.mark.parametrize("name", ["", "my net", "Net", "_net", "3net", "a-b", None])
def test_names_that_could_be_no_torch_hub_entry(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{re.escape(repr(name))} cannot name .*model"):
        unetzoo.register_model(name)


@pytest.mark.usefixtures("registries")
def test_a_part_of_one_s_own_joins_the_whole_zoo() -> None:
    @dataclasses.dataclass(frozen=True)
    class StridedOptions(Options):
        width: int = 8

    @unetzoo.register_encoder("strided", title="strided", paper="none", options=StridedOptions)
    class Strided(unetzoo.Encoder):
        def __init__(self, in_channels: int, style: object, options: StridedOptions, depth: int) -> None:
            super().__init__()
            self.in_channels = in_channels
            self.channels = (options.width,) * depth
            self.strides = tuple(4 * 2**level for level in range(depth))
            strides = (4, *[2] * (depth - 1))
            widths = (in_channels, *self.channels)
            self.levels = torch.nn.ModuleList(
                torch.nn.Conv2d(widths[i], widths[i + 1], 2 * s - 1, s, s - 1) for i, s in enumerate(strides)
            )

        def forward(self, images: Tensor) -> list[Tensor]:
            maps = []
            for level in self.levels:
                images = level(images)
                maps.append(images)
            return maps

        def stages(self) -> list[list[torch.nn.Module]]:
            return [[level] for level in self.levels]

    names = unetzoo.list_models("*_strided")
    assert set(names) == {f"{decoder}_strided" for decoder in DECODERS if decoder != "unet_valid"}
    for name in names:
        model = unetzoo.create(name, width=4, deep_supervision=True)
        outputs = model.training_outputs(torch.randn(2, 3, 70, 53))
        assert all(logits.shape == (2, 1, 70, 53) for logits in (outputs.logits, *outputs.deep))
        assert unetzoo.ModelConfig.from_json(model.config.to_json()) == model.config
    with pytest.raises(ConfigError, match="'strided' is taken"):
        unetzoo.register_encoder("strided", title="", paper="")(Strided)
    with pytest.raises(ConfigError, match="no pretrained weights"):
        unetzoo.create("unet_strided", pretrained=True)


SMALL = [name for name in NAMES if name != "unet_valid" and ("_" not in name or name.endswith(("lite", "resnet18")))]


@given(
    name=st.sampled_from(SMALL),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.integers(1, 5),
    classes=st.integers(1, 4),
    batch=st.integers(0, 2),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    deep=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_any_combination_works(
    name: str, height: int, width: int, channels: int, classes: int, batch: int, dtype: torch.dtype, deep: bool
) -> None:
    options = {**light(name), "in_channels": channels, "num_classes": classes, "deep_supervision": deep}
    if "base_channels" in unetzoo.zoo.signature(name):
        options["base_channels"] = 4
    model = unetzoo.create(name, **options).to(dtype).eval()
    with torch.no_grad():
        logits = model(torch.randn(batch, channels, height, width).to(dtype))
    assert logits.shape == (batch, classes, height, width)
    assert logits.dtype == dtype
    # In bfloat16 oneDNN itself gives NaN on processors with AMX, for a 3×3 convolution at stride 2 of a map of 3 × 2.
    assert dtype == torch.bfloat16 or logits.isfinite().all()


def test_public_names() -> None:
    for name in unetzoo.__all__:
        assert getattr(unetzoo, name) is not None
    assert set(unetzoo.__all__) <= set(dir(unetzoo))
    with pytest.raises(AttributeError, match="no attribute 'creat'"):
        unetzoo.creat  # noqa: B018


@pytest.mark.parametrize("name", tried(NAMES))
def test_every_option_is_explained(name: str) -> None:
    info = unetzoo.model_info(name)
    assert list(info.meanings) == list(info.options)
    assert all(20 < len(meaning) + 10 < 400 and "**" not in meaning for meaning in info.meanings.values())


@pytest.mark.parametrize("module", ["model", "folding", "pretrained", "config", "parameter_groups"])
def test_what_serves_all_parts_names_none(module: str) -> None:
    source = (ROOT / "unetzoo" / f"{module}.py").read_text(encoding="utf-8")
    assert not re.findall(r"unetzoo\.(?:decoders|encoders)\.\w+|x_0_|conv1|bn1|layer[1-4]|\bfc\.", source)

"""Bad input: one error each, that says what was given, what is allowed, and the fix."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import unetzoo
import unetzoo.data
import unetzoo.metrics
from unetzoo import ConfigError, InputError, checks


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resunet18", {"num_clases": 7}, ["'num_clases'", "'num_classes'", "stem_stride"]),
        ("resnut50", {}, ["unknown model 'resnut50'; did you mean 'resunet50'"]),
        ("unet_efficientnetb0", {}, ["unknown model 'unet_efficientnetb0'; did you mean 'unet_efficientnet_b0'"]),
        ("unetpp_resnet99", {}, ["'unetpp_resnet99'", "did you mean", "unetpp_resnet"]),
        ("", {}, ["''", "list_models"]),
        (None, {}, ["None"]),
        (["unet"], {}, ["['unet']"]),
        ("resunet18", {"norm": "bacth"}, ["'bacth'", "'batch'", "'group'", "None"]),
        ("resunet18", {"in_channels": 0}, ["in_channels=0", "from 1 to 1,048,576"]),
        ("resunet18", {"in_channels": 3.0}, ["in_channels=3.0"]),
        ("resunet18", {"num_classes": True}, ["num_classes=True", "whole number"]),
        ("resunet18", {"num_classes": "2"}, ["num_classes='2'"]),
        ("resunet18", {"base_channels": 64}, ["'base_channels'", "option of 'unet'"]),
        ("unet", {"stem_stride": 2}, ["'stem_stride'", "option of 'resunet18', 'resunet34'"]),
        ("unet", {"base_channels": 0}, ["base_channels=0"]),
        ("resunet18", {"stem_stride": 3}, ["stem_stride=3", "4, 2, 1"]),
        ("resunet18", {"dropout": 1.0}, ["dropout=1.0"]),
        ("resunet18", {"dropout": float("nan")}, ["dropout=nan"]),
        ("resunet18", {"deep_supervision": 1}, ["deep_supervision=1", "True or False"]),
        ("resunet18", {"conv_bias": False, "norm": None}, ["conv_bias=False", "leave it out"]),
        ("resunet18", {"task": "multiclas"}, ["'multiclas'", "'multiclass'"]),
        ("resunet18", {"task": "multiclass"}, ["num_classes=1", "'binary'"]),
        ("resunet18", {"task": "binary", "num_classes": 2}, ["'binary'", "num_classes=2", "'multiclass'"]),
        ("resunet18", {"class_names": ["a", "b"]}, ["2 names", "num_classes=1"]),
        ("resunet18", {"class_names": "ab"}, ["'ab'", "strings"]),
        ("resunet18", {"mean": [0.5, 0.5], "std": [1, 1, 1]}, ["2 numbers", "in_channels=3"]),
        ("resunet18", {"mean": [0.5, 0.5, 0.5]}, ["both or neither"]),
        ("resunet18", {"mean": [0, 0, 0], "std": [1, 0, 1]}, ["above 0"]),
        ("resunet18", {"upsampling": "cubic"}, ["'cubic'", "'bilinear'"]),
        ("unetpp", {"output": "mean", "levels": 5}, ["'mean'", "'average'", "levels=5"]),
        ("unetpp", {"output": "average"}, ["deep_supervision=True"]),
        ("unet3p", {"branch_channels": -1}, ["branch_channels=-1"]),
        ("unetpp", {"base_width": 0}, ["base_width=0"]),
        ("unet3p_lite", {"levels": 2}, ["'levels'", "option of 'unetpp'"]),
        ("unet_valid", {"deep_supervision": True}, ["deep_supervision", "use unet"]),
        (
            "unet",
            {"pretrained": True},
            ["pretrained=True", "plain", "these encoders have some: convnext_tiny", "resnet18"],
        ),
        ("unet", {"pretrained": "IMAGENET1K_V1"}, ["IMAGENET1K_V1", "plain"]),
        ("resunet50", {"pretrained": "IMAGENET1K_V3"}, ["'IMAGENET1K_V3'", "'IMAGENET1K_V2'", ".safetensors"]),
        ("Unet", {}, ["did you mean 'unet'?"]),
        ("ResUNet-18", {}, ["did you mean 'resunet18'?"]),
        ("fpn", {}, ["'fpn' is not in this zoo", "begin with 'resunet18'"]),
        ("DeepLabV3+", {}, ["'deeplabv3plus' is not in this zoo"]),
        ("smp_pan_resnet50", {}, ["'pan' is not in this zoo", "'resunet50', 'unetpp_resnet50', 'unet3p_resnet50'"]),
        ("unet_mit_b0", {}, ["'mit_b0' is not in the zoo", "'unet_timm/pvt_v2_b0'", "pip install 'unetzoo[timm]'"]),
        ("unetpp_vgg16_bn", {}, ["'vgg16_bn' is not in the zoo", "'unetpp_timm/vgg16_bn'"]),
        (
            "unet",
            {"encoder_name": "resnet34", "encoder_weights": "imagenet", "classes": 4},
            ["'resunet34' or, for the network of smp, 'smp_unet_resnet34'", "pretrained=True here", "num_classes=…"],
        ),
        (
            "unetpp",
            {"encoder": "resnet50"},
            ["'unetpp_resnet50' or", "'smp_unetplusplus_resnet50'"],
        ),
        ("unet", {"encoder_name": "mit_b2"}, ["'mit_b2' is not in the zoo", "'unet_timm/pvt_v2_b0'"]),
        ("unet3p", {"encoder_name": "tu-convnext_tiny"}, ["'unet3p_timm/convnext_tiny'"]),
        ("unet", {"backbone": "nothing"}, ["no encoder 'nothing'", "unetzoo.list_models()"]),
        ("resunet18", {"decoder_attention_type": "scse"}, ["attention='scse' here, in smp_… networks"]),
        ("resunet18", {"encoder_depth": 3}, ["decoder_channels", "levels=… in UNet++"]),
        (
            "resunet18",
            {"activation": None, "clases": 3},
            ["model(images) gives logits", "'num_classes'", "options"],
        ),
        ("resunet18", {"pretrained": "imagenet1k_v1"}, ["did you mean 'IMAGENET1K_V1'"]),
        ("resunet18", {"pretrained": "missing.pth"}, ["'missing.pth'", "no such file"]),
        ("resunet18", {"pretrained": 1}, ["pretrained=1"]),
        ("resunet18", {"pretrained": True, "norm": "group"}, ["norm='group'", "batch norm"]),
        ("resunet18", {"pretrained": True, "norm": None}, ["norm=None", "batch norm"]),
        ("resunet18", {"input_policy": "sum"}, ["input_policy", "give pretrained=…"]),
        ("resunet18", {"pretrained": True, "input_policy": "add"}, ["'add'", "'keep_rgb'"]),
    ],
)
def test_wrong_arguments(name: str, options: dict[str, object], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        unetzoo.create(name, **options)
    for words in said:
        assert words in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        unetzoo.create("unetpp_resnet18", num_clases=7, in_channels=0, norm="bacth", levels=9, stem_stride=3)
    message = str(caught.value)
    assert "5 things are wrong" in message
    assert message.count("\n  - ") == len(caught.value.problems) == 5
    with pytest.raises(ConfigError, match="2 things are wrong") as caught:
        unetzoo.create("resnut50", in_channels=0)
    assert "'resunet50'" in str(caught.value)


def test_nothing_is_built_before_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Conv2d, "__init__", lambda *_, **__: pytest.fail("a layer was built"))
    with pytest.raises(ConfigError):
        unetzoo.create("resunet50", dropout=2)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(3, 32, 32), ["(3, 32, 32)", "(N, 3, height, width)", "images[None]"]),
        (torch.zeros(2, 32, 32), ["(2, 32, 32)", "(N, 3, height, width)"]),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["torch.uint8", "images.float() / 255"]),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), ["torch.int64", "floating point"]),
        (torch.zeros(1, 3, 32, 32, dtype=torch.bool), ["torch.bool", "floating point"]),
        (torch.zeros(1, 3, 32, 32, dtype=torch.complex64), ["torch.complex64", "floating point"]),
        (torch.zeros(1, 3, 32, 32, dtype=torch.float64), ["torch.float64", "images.to(torch.float32)"]),
        (torch.zeros(1, 4, 32, 32), ["(1, 4, 32, 32)", "3 channels", "in_channels=4", "images[:, :3]"]),
        (torch.zeros(1, 32, 32, 3), ["(1, 32, 32, 3)", "3 channels", "images.permute(0, 3, 1, 2)"]),
        (torch.zeros(1, 3, 0, 32), ["(1, 3, 0, 32)", "from 1 up"]),
        (np.zeros((1, 3, 32, 32)), ["torch.Tensor", "ndarray"]),
        ("image.png", ["torch.Tensor", "str"]),
    ],
)
def test_wrong_images(images: object, said: list[str]) -> None:
    model = unetzoo.create("unet", base_channels=4)
    for call in (model, model.training_outputs, model.predict):
        with pytest.raises(InputError) as caught:
            call(images)
        for words in said:
            assert words in str(caught.value)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((256, 572), ["height 252 or 268 instead of 256"]),
        ((572, 573), ["width 572 or 588 instead of 573"]),
        ((100, 571), ["height 188 instead of 100", "width 556 or 572 instead of 571"]),
    ],
)
def test_unet_valid_names_the_nearest_sizes(size: tuple[int, int], said: list[str]) -> None:
    model = unetzoo.create("unet_valid", base_channels=2)
    with pytest.raises(InputError) as caught:
        model(torch.zeros(1, 3, *size))
    for words in (*said, "predict"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_classes": None}, ["num_classes=None"]),
        ({"norm": "bacth"}, ["'bacth'", "'batch'"]),
        ({"decoder": "unetp"}, ["'unetp'", "did you mean 'unetpp'"]),
        ({"encoder": ["plain"]}, ["unknown encoder"]),
        ({"extra": 1}, ["extra: unknown"]),
        ({"format_version": 7}, ["newer", "upgrade unetzoo"]),
        ({"format_version": "1"}, ["format_version='1'"]),
        ({"decoder_options": {"levels": 4}}, ["decoder_options.output: missing"]),
        ({"decoder_options": []}, ["decoder_options", "dictionary"]),
        ({"encoder_options": {"stem_stride": 4}}, ["encoder_options.stem_stride: unknown"]),
        ({"mean": "abc"}, ["mean='abc'"]),
        ({"decoder": "unet_valid", "encoder": "resnet18"}, ["decoder_options"]),
    ],
)
def test_wrong_configurations(change: dict[str, object], said: list[str]) -> None:
    record = unetzoo.create("unetpp", base_channels=2).config.to_dict()
    with pytest.raises(ConfigError) as caught:
        unetzoo.ModelConfig.from_dict({**record, **change})
    for words in said:
        assert words in str(caught.value)


def test_missing_keys_are_all_named() -> None:
    record = unetzoo.create("unetpp", base_channels=2).config.to_dict()
    del record["norm"], record["task"]
    with pytest.raises(ConfigError) as caught:
        unetzoo.ModelConfig.from_dict(record)
    assert "norm: missing" in str(caught.value)
    assert "task: missing" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '"unet"', "NaN"])
def test_text_that_is_no_configuration(text: str) -> None:
    with pytest.raises(ConfigError):
        unetzoo.ModelConfig.from_json(text)


def test_a_configuration_is_frozen_hashable_and_pickles() -> None:
    config = unetzoo.create("unet", base_channels=2, class_names=["cell"], mean=[0.1] * 3, std=[0.2] * 3).config
    with pytest.raises(AttributeError):
        config.norm = "group"
    assert hash(config) == hash(pickle.loads(pickle.dumps(config)))
    assert config.class_names == ("cell",)
    with pytest.raises(ConfigError, match="dropout=3"):
        config.replace(dropout=3)


@pytest.mark.parametrize("on", ["off", 1, None])
def test_checkpointing_is_on_or_off(on: object) -> None:
    with pytest.raises(ConfigError, match="True or False"):
        unetzoo.create("unet", base_channels=2).gradient_checkpointing(on)


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    config = unetzoo.create(
        "unet",
        base_channels=2,
        num_classes=np.int64(4),
        in_channels=torch.tensor(2),
        mean=np.array([0.5, 0.25]),
        std=torch.tensor([1.0, 2.0]),
        class_names=list("abcd"),
    ).config
    assert type(config.num_classes) is type(config.in_channels) is int
    assert config.mean == (0.5, 0.25)
    assert unetzoo.ModelConfig.from_json(config.to_json()) == config


def test_a_configuration_is_changed_with_its_options() -> None:
    config = unetzoo.create("unetpp_resnet18").config.replace(stem_stride=2, levels=3, num_classes=2, task="multilabel")
    assert (config.encoder_options.stem_stride, config.decoder_options.levels, config.num_classes) == (2, 3, 2)
    with pytest.raises(ConfigError, match=r"unknown option 'num_clases'; did you mean 'num_classes'"):
        config.replace(num_clases=4)


def test_what_is_no_configuration_says_so() -> None:
    with pytest.raises(ConfigError, match=r"ModelConfig .*not dict"):
        unetzoo.from_config({"decoder": "unet"})
    with pytest.raises(ConfigError, match=r"not JSON: .*path.*read the file"):
        unetzoo.ModelConfig.from_json("model.json")
    with pytest.raises(ConfigError, match="format_version: missing"):
        unetzoo.ModelConfig.from_json("{}")
    with pytest.raises(ConfigError, match="5"):
        unetzoo.list_models(5)


@pytest.mark.parametrize("stages", [-1, 6, True, 1.0])
def test_wrong_stages(stages: object) -> None:
    with pytest.raises(ConfigError, match="from 0 to 5"):
        unetzoo.create("unet", base_channels=2).freeze_encoder(stages)


def test_wrong_rates() -> None:
    model = unetzoo.create("unet", base_channels=2)
    with pytest.raises(ConfigError, match="2 things are wrong"):
        unetzoo.param_groups(model, -1, weight_decay=float("inf"))


# What the parts share


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        (checks.whole("n", 1), True),
        (checks.whole("n", 0), False),
        (checks.whole("n", True), False),
        (checks.whole("n", 1.0), False),
        (checks.whole("n", 5, 0, 5), True),
        (checks.whole("n", 6, 0, 5), False),
        (checks.whole("n", -(10**30), None), True),
        (checks.whole("n", None, others=(None, "all")), True),
        (checks.whole("n", "all", others=(None, "all")), True),
        (checks.whole("n", True, 5, others=(1,)), False),
        (checks.one_of("n", None, (None, "a")), True),
        (checks.one_of("n", 1, (True,)), False),
        (checks.one_of("n", ["a"], ("a",)), False),
        (checks.flag("n", False), True),
        (checks.flag("n", 0), False),
        (checks.sides("n", [3, 4]), True),
        (checks.sides("n", (3, 4), 4), False),
        (checks.sides("n", 3), False),
        (checks.sides("n", 3, square=True), True),
        (checks.sides("n", True, square=True), False),
        (checks.class_name_problems(["a", "a"], 2), True),
        (checks.class_name_problems(["a", "a"], 2, different=True), False),
        (checks.class_name_problems("ab", 2), False),
        (checks.class_problems("multilabel", 1), True),
        (checks.class_problems("multiclass", 1), False),
        (checks.class_problems("binary", 2), False),
    ],
)
def test_each_rule_takes_what_fits(found: list[str], fits: bool) -> None:
    assert len(found) == (0 if fits else 1)


def test_classes_without_names_are_called_alike() -> None:
    for task, classes, names in (
        ("binary", 1, ("foreground",)),
        ("multiclass", 3, ("background", "class_1", "class_2")),
        ("multilabel", 2, ("class_0", "class_1")),
    ):
        assert checks.class_names_of(None, task, classes) == names
        assert unetzoo.metrics.SegmentationMetrics(task, classes).class_names == names
        labels = unetzoo.data.Labels(task=task, num_classes=classes)
        assert labels.counted[-classes:] == names
    assert checks.class_names_of(["a"], "binary", 1) == ("a",)

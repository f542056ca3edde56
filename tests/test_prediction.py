"""The predictor against plain references: mirrored wholes, loops of flips, means of models."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NAMES, light
from hypothesis import given, settings, strategies as st
from PIL import Image
from reference import LAST
from torch import Tensor, nn

import unetzoo
from unetzoo import ConfigError, InputError, Predictor, drawing, images
from unetzoo.devices import transfer
from unetzoo.prediction import layout, tiles
from unetzoo.prediction.inputs import as_image
from unetzoo.prediction.reach import memory_of_pixel, reach

FAMILIES = [
    *("unet", "unet_valid", "unetpp", "unet3p", "unetpp_lite", "unet3p_lite"),
    "resunet18",
]
OTHERS = [name for name in NAMES if name not in FAMILIES and not name.endswith((*LAST, "gf"))]
"""Without the encoders that look at the whole image.

See test_mobilenet_efficientnet.py; of RegNets test_regnet_densenet_convnext.py.
"""


def small(name: str = "unet", **options: object) -> unetzoo.SegmentationModel:
    """Return a model in evaluation mode whose logits are spread from about -3 to 3.

    Those of a deep encoder as it is drawn go into the thousands: all probabilities are 0 or 1 then, but for a few that
    tell of rounding alone.
    """
    return copy.deepcopy(drawn_once(name, tuple(options.items())))


@functools.lru_cache(maxsize=16)
def drawn_once(name: str, chosen: tuple[tuple[str, object], ...]) -> unetzoo.SegmentationModel:
    options = dict(chosen)
    torch.manual_seed(0)
    model = unetzoo.create(name, **{**light(name), **options}).eval()
    with torch.no_grad():
        side = 188 if name == "unet_valid" else 64
        logits = model(torch.rand(1, model.config.in_channels, side, side))
        for head in (model.head, *model.deep_heads):
            head.conv.weight.mul_(1.5 / logits.std())
            head.conv.bias.mul_(1.5 / logits.std()).sub_(logits.mean() * 1.5 / logits.std())
    return model


def mirrored_whole(model: unetzoo.SegmentationModel, image: Tensor) -> Tensor:
    """Return what the model says of an image mirrored at the right and lower end to a multiple of the stride.

    The unpadded network mirrors all four ends by itself.
    """
    stride = model.encoder.strides[-1] if model.decoder.border == 0 else 1
    height, width = image.shape[1:]
    missing = ((0, 0), (0, -height % stride), (0, -width % stride))
    padded = torch.from_numpy(np.pad(image.numpy(), missing, mode="reflect"))
    prepared = images.prepare(padded, model.config).to(model.head.conv.weight.dtype)
    return model.predict(prepared)[0, :, :height, :width]


def image(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randint(256, (channels, height, width), generator=torch.Generator().manual_seed(1)).byte()


class TestTiles:
    @given(
        length=st.integers(1, 700),
        window=st.integers(1, 300),
        share=st.floats(0, 0.95),
        unit=st.sampled_from([1, 2, 16, 32]),
        blend=st.sampled_from(tiles.BLENDS),
    )
    @settings(deadline=None)
    def test_windows_cover_the_side_and_weigh_one_in_all(
        self, length: int, window: int, share: float, unit: int, blend: str
    ) -> None:
        window = tiles.rounded_up(window, unit)
        overlap = min(tiles.rounded_up(int(share * window), unit), window - unit)
        axis = tiles.lay_out(length, window, overlap, unit, blend)
        assert axis.window % unit == 0
        assert all(start % unit == 0 for start in axis.starts)
        assert axis.starts[0] == 0
        assert length <= axis.starts[-1] + axis.window < length + unit
        total = torch.zeros(axis.starts[-1] + axis.window, dtype=torch.float64)
        for start, weights in zip(axis.starts, axis.weights, strict=True):
            total[start : start + axis.window] += weights
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)
        for before, after in zip(axis.starts, axis.starts[1:], strict=False):
            assert before + axis.window - after >= overlap

    def test_blends_have_their_closed_forms_in_an_overlap(self) -> None:
        linear = tiles.lay_out(24, 16, 8, 1, "linear")
        rising = (torch.arange(8) + 0.5) / 8
        torch.testing.assert_close(linear.weights[1, :8], rising)
        torch.testing.assert_close(linear.weights[0, 8:], 1 - rising)
        gaussian = tiles.lay_out(24, 16, 8, 1, "gaussian")
        left, right = (math.exp(-0.5 * ((x - 8) / 2) ** 2) for x in (10.5, 2.5))
        assert gaussian.weights[0, 10].item() == pytest.approx(left / (left + right))
        crop = tiles.lay_out(24, 16, 8, 1, "crop")
        assert crop.weights.tolist() == [[1.0] * 12 + [0.0] * 4, [0.0] * 4 + [1.0] * 12]

    @given(first=st.integers(-50, 50), count=st.integers(1, 60), length=st.integers(1, 40))
    @settings(deadline=None)
    def test_mirrored_rows_are_numpy_s(self, first: int, count: int, length: int) -> None:
        wide = np.pad(np.arange(length), 200, mode="reflect")
        assert images.mirrored(first, count, length).tolist() == wide[200 + first : 200 + first + count].tolist()


class TestWhole:
    @pytest.mark.parametrize("size", [(64, 96), (67, 45), (1, 1), (5, 130), (33, 20)])
    @pytest.mark.parametrize("name", ["unet", "resunet18", "unet_valid", "unet3p_lite"])
    def test_is_the_model_s_answer_to_the_mirrored_image(self, name: str, size: tuple[int, int]) -> None:
        model, shown = small(name), image(*size)
        expected = mirrored_whole(model, shown)
        found = Predictor(model, tile=None)(shown)
        torch.testing.assert_close(found.probabilities, expected, rtol=0, atol=2e-5)
        assert found.mask.shape == size

    def test_is_model_predict_where_nothing_is_missing(self) -> None:
        model, shown = small(num_classes=3, task="multiclass"), image(48, 64)
        expected = model.predict(images.prepare(shown, model.config))[0]
        found = Predictor(model, tile=None)(shown)
        torch.testing.assert_close(found.probabilities, expected, rtol=0, atol=2e-5)
        assert torch.equal(found.mask, expected.argmax(dim=0).byte())

    def test_the_model_stays_as_it_was(self) -> None:
        model = small().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        Predictor(model)(image(40, 40))
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def check_tiles(name: str, **options: object) -> None:
    """Compare tiles of the full overlap with the whole, on a strip: the network looks equally far both ways."""
    model = small(name, **options)
    unit = model.encoder.strides[-1]
    overlap = tiles.rounded_up(2 * reach(model.config), unit)
    predictor = Predictor(model, overlap="full", tile=overlap + 2 * unit)
    shown = image(overlap + 5 * unit + 3, unit + 5)
    assert len(predictor.grid(images_rows(shown)).down.starts) >= 2
    whole = Predictor(model, tile=None)(shown).probabilities
    assert whole.std() > 1e-3
    torch.testing.assert_close(predictor(shown).probabilities, whole, rtol=0, atol=1e-4)
    if name == "unet":  # rows and columns are laid out alike, whatever the network
        turned = predictor(shown.mT).probabilities
        torch.testing.assert_close(turned, Predictor(model, tile=None)(shown.mT).probabilities, rtol=0, atol=1e-4)


def images_rows(shown: Tensor) -> object:
    from unetzoo.prediction.inputs import LoadedImage

    return LoadedImage(shown)


class TestTiled:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_with_the_full_overlap_is_the_whole(self, name: str) -> None:
        check_tiles(name)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", OTHERS)
    def test_with_the_full_overlap_is_the_whole_for_every_name(self, name: str) -> None:
        # nnU-Net's encoder has instance norms by default, which look at the whole image.
        check_tiles(name, **({"norm": "batch"} if "resenc" in name else {}))

    @pytest.mark.parametrize(
        "options", [{"upsampling": "bilinear"}, {"norm": "layer"}, {"norm": None}, {"deep_supervision": True}]
    )
    def test_with_the_full_overlap_is_the_whole_with_options(self, options: dict[str, object]) -> None:
        check_tiles("unet", **options)

    def test_with_too_little_overlap_is_not_the_whole(self) -> None:
        model, shown = small(), image(240, 48)
        whole = Predictor(model, tile=None)(shown).probabilities
        cut = Predictor(model, tile=128, overlap=0, blend="crop")(shown).probabilities
        assert (cut - whole).abs().max() > 1e-3
        near = (cut - whole).abs().amax(dim=(0, 2))
        assert near[112:144].max() > near[:16].max()

    @pytest.mark.parametrize("blend", tiles.BLENDS)
    def test_blends_as_a_plain_loop_over_windows_does(self, blend: str) -> None:
        model, shown = small(num_classes=2, task="multilabel"), image(100, 70)
        predictor = Predictor(model, tile=48, overlap=16, blend=blend)
        grid = predictor.grid(images_rows(shown))
        padded = torch.from_numpy(np.pad(shown.numpy(), ((0, 0), (0, 12), (0, 10)), mode="reflect"))
        total = torch.zeros(2, 112, 80)
        for y, vertical in zip(grid.down.starts, grid.down.weights, strict=True):
            for x, horizontal in zip(grid.across.starts, grid.across.weights, strict=True):
                window = padded[:, y : y + 48, x : x + 48]
                said = model.predict(images.prepare(window, model.config))[0]
                total[:, y : y + 48, x : x + 48] += said * vertical[:, None] * horizontal
        torch.testing.assert_close(predictor(shown).probabilities, total[:, :100, :70], rtol=0, atol=2e-5)

    def test_batches_of_tiles_change_nothing(self) -> None:
        model, shown = small(), image(100, 200)
        one = Predictor(model, tile=64, batch_size=1)(shown).probabilities
        torch.testing.assert_close(Predictor(model, tile=64, batch_size=3)(shown).probabilities, one, rtol=0, atol=1e-5)

    def test_strips_begin_at_any_row_of_tiles(self) -> None:
        predictor, shown = Predictor(small(), tile=48, overlap=0.5), image(200, 64)
        grid = predictor.grid(images_rows(shown))
        strips = list(predictor.strips(images_rows(shown), grid))
        whole = predictor(shown).probabilities
        assert torch.equal(torch.cat([strip.probabilities for strip in strips], dim=1), whole)
        for first in range(len(strips)):
            strip = next(predictor.strips(images_rows(shown), grid, first))
            assert strip.top == strips[first].top
            assert torch.equal(strip.probabilities, strips[first].probabilities)
        assert not list(predictor.strips(images_rows(shown), grid, len(strips)))

    def test_auto_takes_what_fits_in_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, shown = small(), images_rows(image(200, 300))
        predictor = Predictor(model)
        assert predictor.grid(shown).count == 1
        monkeypatch.setattr(
            layout, "free_memory", lambda device: 2 * 130**2 * memory_of_pixel(predictor.networks.members[0])
        )
        grid = predictor.grid(shown)
        assert (grid.down.window, grid.across.window) == (128, 128)

    @pytest.mark.parametrize("blend", tiles.BLENDS)
    def test_a_grid_survives_json(self, blend: str) -> None:
        grid = Predictor(small(), tile=48, blend=blend).grid(images_rows(image(200, 64)))
        again = tiles.Grid.of(json.loads(json.dumps(grid.record())))
        assert again == grid
        assert torch.equal(again.down.weights, grid.down.weights)
        assert torch.equal(again.across.weights, grid.across.weights)


class TestReach:
    def test_of_the_unpadded_u_net_is_its_border(self) -> None:
        # 92 pixels on each side are what unpadded convolutions eat; pooling is read at any of 16 phases.
        assert 92 <= reach(small("unet_valid").config) < 92 + 16

    @pytest.mark.parametrize("norm", ["group", "instance"])
    def test_is_none_where_the_whole_image_is_looked_at(self, norm: str) -> None:
        assert reach(small(norm=norm).config) is None

    def test_is_none_for_the_classification_guided_module(self) -> None:
        assert reach(small(classification_guided=True).config) is None

    def test_is_none_where_positions_depend_on_the_image_s_size(self) -> None:
        assert reach(small(upsampling="bilinear_aligned").config) is None

    def test_the_full_overlap_is_refused_there(self) -> None:
        with pytest.raises(ConfigError, match=r"overlap='full': .*whole image.*tile=None"):
            Predictor(small(norm="group"), overlap="full")

    def test_grows_with_the_encoder(self) -> None:
        assert reach(small("unet").config) < reach(small("resunet18").config)


def symmetrical(model: unetzoo.SegmentationModel) -> unetzoo.SegmentationModel:
    """Return the model with every kernel the mean of its eight turned and mirrored selves: it turns with its input."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                turned = [layer.weight.rot90(k, (2, 3)) for k in range(4)]
                layer.weight.copy_(torch.stack([*turned, *(weight.mT for weight in turned)]).mean(dim=0))
    return model


class TestViews:
    @pytest.mark.parametrize("tta", ["flips", "d4"])
    def test_of_a_model_that_turns_with_its_input_are_the_identity(self, tta: str) -> None:
        model, shown = symmetrical(small()), image(80, 48)
        plain = Predictor(model, tile=None)(shown).probabilities
        assert plain.std() > 1e-3
        torch.testing.assert_close(Predictor(model, tile=None, tta=tta)(shown).probabilities, plain, rtol=0, atol=2e-5)

    @pytest.mark.parametrize("merge", ["probabilities", "logits"])
    @pytest.mark.parametrize("task", ["binary", "multiclass"])
    def test_d4_is_the_mean_of_eight_turned_images(self, task: str, merge: str) -> None:
        model = small(num_classes=1 if task == "binary" else 3, task=task)
        shown = images.prepare(image(48, 80), model.config)
        activate = (lambda x: x.sigmoid()) if task == "binary" else (lambda x: x.softmax(dim=1))
        said = []
        with torch.no_grad():
            for mirror in (False, True):
                for turns in range(4):
                    seen = shown.flip(3) if mirror else shown
                    logits = model(seen.rot90(turns, (2, 3))).rot90(-turns, (2, 3))
                    logits = logits.flip(3) if mirror else logits
                    said.append(activate(logits) if merge == "probabilities" else logits)
        mean = torch.stack(said).mean(dim=0)
        expected = mean if merge == "probabilities" else activate(mean)
        found = Predictor(model, tile=None, tta="d4", merge=merge)(image(48, 80)).probabilities
        torch.testing.assert_close(found, expected[0], rtol=0, atol=2e-5)

    @pytest.mark.parametrize("name", ["unet", "unet_valid"])
    def test_tiles_of_the_full_overlap_are_the_whole_in_every_view(self, name: str) -> None:
        model, shown = small(name), image(290, 40)
        whole = Predictor(model, tile=None, tta="d4")(shown).probabilities
        tiled = Predictor(model, tile=240, overlap="full", tta="d4")(shown).probabilities
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)

    def test_scales_resize_there_and_back(self) -> None:
        model, shown = small(), image(64, 96)
        prepared = images.prepare(shown, model.config)
        with torch.no_grad():
            plain = model(prepared).sigmoid()
            larger = model(F.interpolate(prepared, (96, 144), mode="bilinear"))
        back = F.interpolate(larger, (64, 96), mode="bilinear", antialias=True).sigmoid()
        found = Predictor(model, tile=None, scales=(1, 1.5))(shown).probabilities
        torch.testing.assert_close(found, ((plain + back) / 2)[0], rtol=0, atol=2e-5)

    def test_scales_of_a_flat_image_are_the_identity(self) -> None:
        flat = torch.full((3, 64, 64), 90, dtype=torch.uint8)
        model = small()
        with torch.no_grad():  # without borders, a flat image has flat logits
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.zero_()
        plain = Predictor(model, tile=None)(flat).probabilities
        scaled = Predictor(model, tile=None, scales=(0.75, 1, 1.25))(flat).probabilities
        torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-6)


class TestEnsembles:
    @pytest.mark.parametrize("merge", ["probabilities", "logits"])
    def test_are_the_mean_of_their_members(self, merge: str) -> None:
        members = [
            small("unet", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)),
            small("unet_valid"),
            small("unet3p_lite"),
        ]
        shown = image(70, 90)
        found = Predictor(members, tile=None, merge=merge)(shown).probabilities
        said = [mirrored_whole(model.double(), shown) for model in members]
        said = said if merge == "probabilities" else [value.logit() for value in said]
        mean = torch.stack(said).mean(dim=0)
        expected = mean if merge == "probabilities" else mean.sigmoid()
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)

    def test_of_one_model_twice_is_that_model(self) -> None:
        model, shown = small(), image(60, 50)
        torch.testing.assert_close(
            Predictor([model, model])(shown).probabilities, Predictor(model)(shown).probabilities, rtol=0, atol=1e-6
        )

    def test_strides_may_differ(self) -> None:
        members, shown = [small("unet"), small("resunet18")], image(70, 90)
        padded = torch.from_numpy(np.pad(shown.numpy(), ((0, 0), (0, 26), (0, 6)), mode="reflect"))
        said = [model.predict(images.prepare(padded, model.config))[0, :, :70, :90] for model in members]
        found = Predictor(members, tile=None)(shown).probabilities
        torch.testing.assert_close(found, (said[0] + said[1]) / 2, rtol=0, atol=2e-5)

    def test_that_differ_in_classes_are_refused(self) -> None:
        with pytest.raises(ConfigError) as error:
            Predictor([small(), small(num_classes=2, task="multiclass")])
        assert [text.split(" of")[0] for text in error.value.problems] == ["task", "num_classes"]

    def test_need_a_member(self) -> None:
        with pytest.raises(ConfigError, match="no model"):
            Predictor([])


class TestInputs:
    def test_a_file_an_array_a_tensor_and_a_pil_image_are_one_image(self, tmp_path: Path) -> None:
        predictor, shown = Predictor(small()), image(50, 70)
        array = shown.permute(1, 2, 0).numpy()
        Image.fromarray(array).save(tmp_path / "a.png")
        expected = predictor(shown)
        for source in (tmp_path / "a.png", str(tmp_path / "a.png"), array, Image.fromarray(array)):
            assert torch.equal(predictor(source).probabilities, expected.probabilities)
        assert predictor(tmp_path / "a.png").name == "a.png"
        listed = predictor([array, shown[:, :20]])
        assert [tuple(item.mask.shape) for item in listed] == [(50, 70), (20, 70)]
        assert torch.equal(listed[0].probabilities, expected.probabilities)

    @pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.float64, np.float16])
    def test_depths_are_scaled_as_in_training(self, dtype: object) -> None:
        model = small(in_channels=1, mean=(0.4,), std=(0.2,))
        shown = image(40, 40, 1)
        array = shown[0].numpy().astype(np.uint16) * 257
        array = (array / 65535 if np.dtype(dtype).kind == "f" else array).astype(dtype)
        if dtype is np.float16:
            shown = torch.from_numpy(array.astype(np.float32))[None]
        found, expected = Predictor(model)(array).probabilities, Predictor(model)(shown).probabilities
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    def test_alpha_is_dropped_and_grey_becomes_rgb(self) -> None:
        predictor, shown = Predictor(small()), image(40, 40)
        with_alpha = torch.cat([shown, torch.full((1, 40, 40), 255, dtype=torch.uint8)])
        assert torch.equal(predictor(with_alpha).mask, predictor(shown).mask)
        assert torch.equal(predictor(shown[0]).mask, predictor(shown[:1].expand(3, -1, -1)).mask)

    def test_a_model_is_called_as_it_was_asked_for(self, tmp_path: Path) -> None:
        unetzoo.save(small(), tmp_path / "mine.safetensors")
        for asked, name in (("nuclei", "nuclei"), (str(tmp_path / "mine.safetensors"), "mine.safetensors")):
            predictor = Predictor(asked, device="cpu")
            assert re.fullmatch(rf"Predictor\(\S*{name}; task=.*", repr(predictor))
            with pytest.raises(InputError, match=rf"image of 5 channels: \S*{name} was trained on 3"):
                predictor(image(40, 40, 5))
        assert repr(Predictor([small(), "nuclei"][:1], device="cpu")).startswith("Predictor(unet; ")

    def test_channels_that_do_not_fit_are_named_on_both_sides(self) -> None:
        with pytest.raises(InputError, match=r"image of 5 channels: unet .*\b3\b"):
            Predictor(small())(image(40, 40, 5))
        planes = image(40, 50).numpy()
        with pytest.raises(InputError, match=r"image of 50 channels: unet .*\b3; arrays .*\(height, width, channels\)"):
            Predictor(small())(planes)
        assert torch.equal(Predictor(small())(planes.transpose(1, 2, 0)).image, torch.from_numpy(planes))

    def test_floating_point_has_no_alpha_and_the_range_of_the_training(self) -> None:
        predictor = Predictor(small(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2)))
        with pytest.raises(
            InputError, match=r"image of 4 channels: unet .*\b3\b.*last channel as alpha.*leave that channel out"
        ):
            predictor(torch.rand(4, 40, 40))
        with pytest.raises(InputError, match=r"floating-point .*: unet .*values .*0\.4;.*8 or 16 bits .*255 or 65535"):
            predictor(image(40, 40).float())
        expected = predictor(image(40, 40)).probabilities
        torch.testing.assert_close(predictor(image(40, 40) / 255).probabilities, expected)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (np.zeros((8, 8), bool), r"\bbool: .*mask .*8 or 16 bits"),
            (np.zeros((8, 8), np.int64), "8, 16 or 32 bits"),
            (np.zeros((8, 8), complex), "numbers are needed"),
            (np.array([["a"]]), "numbers are needed"),
            (np.zeros((2, 8, 8, 3), np.uint8), r"\bone image, .*\(H, W, C\) .*\(C, H, W\)"),
            (np.zeros((0, 8, 3), np.uint8), "it is empty"),
            (torch.zeros(3, 8, 8, dtype=torch.bool), r"\bbool: .*mask .*8 or 16 bits"),
            (object(), "of type object: .*path.*array.*tensor"),
            (3, "of type int: .*path.*array.*tensor"),
            ("nowhere.png", r"nowhere\.png': .*no such file"),
            (str(Path(__file__).parent), r"tests' is a folder: give the path of an image, or a list of paths"),
            ({"photo": []}, "a batch needs 'image'"),
        ],
    )
    def test_what_is_no_image_is_refused(self, source: object, message: str) -> None:
        with pytest.raises(InputError, match=message):
            Predictor(small())(source)


class TestMasks:
    def test_thresholds_are_of_all_classes_or_each(self) -> None:
        model, shown = small(num_classes=2, task="multilabel"), image(40, 40)
        probabilities = Predictor(model)(shown).probabilities
        found = Predictor(model, threshold=[0.3, 0.7])(shown).mask
        assert torch.equal(found[0], (probabilities[0] > 0.3).byte())
        assert torch.equal(found[1], (probabilities[1] > 0.7).byte())
        assert torch.equal(Predictor(model, threshold=0.2)(shown).mask, (probabilities > 0.2).byte())

    def test_small_objects_go_and_small_holes_close(self) -> None:
        scipy = pytest.importorskip("scipy.ndimage", reason="objects need SciPy")
        model, shown = small(), drawing.draw_nuclei(96, 96)[0]
        plain = Predictor(model, threshold=0.5)(shown)
        middle = float(plain.probabilities.median())
        rough = Predictor(model, threshold=middle)(shown).mask
        found = Predictor(model, threshold=middle, smallest=20, holes="all")(shown).mask.numpy()
        labels, count = scipy.label(rough, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())
        kept = (sizes >= 20)[labels] & (labels > 0)
        assert count > 1
        assert (found == scipy.binary_fill_holes(kept, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]))).all()

    @pytest.mark.parametrize("names", [("ground", "cell", "rim"), None])
    def test_shares_are_of_all_pixels(self, names: tuple[str, ...] | None) -> None:
        model = small(num_classes=3, task="multiclass", class_names=names)
        found = Predictor(model)(image(40, 40))
        assert found.shares() == {
            name: pytest.approx(float((found.mask == k).float().mean()))
            for k, name in enumerate(names or ("background", "class_1", "class_2"))
        }

    def test_printed_it_says_what_it_is_without_its_pixels(self) -> None:
        found = replace(Predictor(small())(image(30, 40)), name="a.png", mask=torch.ones(30, 40, dtype=torch.uint8))
        found.mask[:15] = 0
        assert repr(found) == str(found) == "Prediction('a.png', 30 × 40: foreground 50.0%)"

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_saved_ones_are_read_back_as_masks_of_a_data_set(self, tmp_path: Path, suffix: str) -> None:
        from unetzoo.data import Labels, SegmentationDataset, find_samples

        for task, classes in (("binary", 1), ("multiclass", 3), ("multilabel", 2)):
            folder, names = tmp_path / task, ("a", "b", "c")[:classes]
            model = small(num_classes=classes, task=task, class_names=names)
            predictor = Predictor(model, threshold=None if task == "multiclass" else 0.45)
            (folder / "images").mkdir(parents=True)
            found = {}
            for k in range(10):
                shown = image(40, 36 + k)
                Image.fromarray(shown.permute(1, 2, 0).numpy()).save(folder / "images" / f"{k}.png")
                found[str(k)] = predictor(shown)
                found[str(k)].save(folder / "masks" / f"{k}{suffix}")
            labels = Labels(task=task, num_classes=classes, class_names=names)
            samples = [sample for part in find_samples(folder, labels).values() for sample in part]
            dataset = SegmentationDataset(samples, labels, in_channels=3, mean=None, std=None)
            assert len(dataset) == 10
            for item in (dataset[k] for k in range(10)):
                assert torch.equal(item["target"], found[item["name"]].mask.long())

    def test_names_of_classes_do_not_say_where_files_go(self, tmp_path: Path) -> None:
        names = ("../../out", "/etc/cron.d", "cell (living)", "..", "a/b", "-")
        model = small(num_classes=6, task="multilabel", class_names=names)
        Predictor(model)(image(16, 16)).save(tmp_path / "deep" / "masks" / "m.png")
        found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
        wanted = ("class_0", "class_1", "cell (living)", "class_3", "class_4", "class_5")
        assert found == {f"deep/masks/{folder}/m.png" for folder in wanted}

    def test_an_overlay_shows_the_classes_in_their_colours(self, tmp_path: Path) -> None:
        ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy finds the rims")
        model = small(num_classes=3, task="multiclass")
        found = Predictor(model)(image(40, 40))
        found.overlay(tmp_path / "o.png")
        shown = np.asarray(Image.open(tmp_path / "o.png")).astype(int)
        plain, mask = found.image.permute(1, 2, 0).numpy().astype(int), found.mask.numpy()
        assert (shown[mask == 0] == plain[mask == 0]).all()
        for k in (1, 2):
            colour = np.array([*bytes.fromhex(images.COLOURS[k - 1][1:])])
            inner = ndimage.binary_erosion(mask == k, np.ones((3, 3)), border_value=1)
            rim = (mask == k) & ~inner
            assert rim.any()
            assert (shown[rim] == colour).all()
            assert abs(shown[inner] - (plain[inner] + colour) / 2).max(initial=0) <= 1

    def test_an_overlay_is_a_png_whose_folder_is_made(self, tmp_path: Path) -> None:
        found = Predictor(small())(image(40, 40))
        found.overlay(tmp_path / "new" / "o.png")
        assert images.read_image(tmp_path / "new" / "o.png").shape == (3, 40, 40)
        with pytest.raises(InputError, match=r"it is a \.png"):
            found.overlay(tmp_path / "o.jpg")

    def test_probabilities_are_an_array_of_numpy(self, tmp_path: Path) -> None:
        found = Predictor(small())(image(40, 40))
        found.save_probabilities(tmp_path / "new" / "p.npy")
        assert (np.load(tmp_path / "new" / "p.npy", allow_pickle=False) == found.probabilities.numpy()).all()
        with pytest.raises(InputError, match=r"'.*p\.tif': it is a \.npy"):
            found.save_probabilities(tmp_path / "p.tif")

    def test_a_jpeg_is_no_place_for_a_mask(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"ends in \.png, \.tif, \.tiff"):
            Predictor(small())(image(40, 40)).save(tmp_path / "m.jpg")
        assert not any(tmp_path.iterdir())

    def test_objects_have_outlines_and_scores(self) -> None:
        pytest.importorskip("scipy", reason="objects need SciPy")
        rasterio = pytest.importorskip("rasterio.features", reason="rasterio draws what is compared")
        found = Predictor(small(class_names=("cell",)), threshold=0.5)(drawing.draw_nuclei(64, 64)[0])
        record = found.geojson()
        assert record["features"]
        drawn = rasterio.rasterize([feature["geometry"] for feature in record["features"]], (64, 64))
        assert (drawn == found.mask.numpy()).all()
        assert all(0.5 < feature["properties"]["score"] <= 1 for feature in record["features"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile=0: .*whole number.* 1 up"),
        ({"tile": "big"}, "tile='big'"),
        ({"tile": True}, "tile=True"),
        ({"overlap": 1.0}, "overlap=1.0: give a share"),
        ({"overlap": -1}, "overlap=-1"),
        ({"tile": 64, "overlap": 64}, "overlap=64"),
        ({"tile": 64, "overlap": "full"}, "tile=64 .*overlap='full': .*94 pixels.*208 pixels"),
        ({"blend": "gausian"}, "did you mean 'gaussian'"),
        ({"overlap": "full", "blend": "linear"}, "blend='linear' .*leave it out"),
        ({"overlap": "full", "scales": [1, 2]}, "exact with scales"),
        ({"tta": "d8"}, "tta='d8'"),
        ({"scales": []}, "scales="),
        ({"scales": [0]}, "scales="),
        ({"scales": 1.5}, "scales=1.5: give a list"),
        ({"merge": "mean"}, "merge='mean'"),
        ({"threshold": [0.5, 0.5]}, "2 numbers for 1 classes"),
        ({"threshold": 1.5}, r"threshold=1\.5: .*0 to below 1"),
        ({"threshold": "none.json"}, r"threshold=none\.json: .*no such file.*'unetzoo calibrate'"),
        ({"smallest": -1}, "smallest=-1"),
        ({"holes": "some"}, "holes='some'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"dtype": torch.int8}, "dtype=torch.int8"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Predictor(small(), **options)
    assert re.search(message, str(error.value))


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Predictor(small(), tile=-3, overlap=2.0, tta="d5", merge="x", smallest="y")
    assert len(error.value.problems) == 5


def test_a_multiclass_mask_has_no_threshold() -> None:
    with pytest.raises(ConfigError, match="likeliest class"):
        Predictor(small(num_classes=2, task="multiclass"), threshold=0.5)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said_so() -> None:
    with pytest.raises(ConfigError, match=r"device='cuda': .*no GPU.*leave it out"):
        Predictor(small(), device="cuda")


def test_a_misspelt_path_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(unetzoo.WeightsError, match=r"no file .*nope'"):
        Predictor(str(tmp_path / "nope"))


def test_memory_of_a_pixel_is_that_of_the_maps_that_live_together() -> None:
    # U-Net at full resolution, in the last step up: x, the skip connection, what the transposed convolution gives and
    # what the first convolution gives, of 64 channels each, in float32; and less than twice of it.
    found = memory_of_pixel(unetzoo.optimize(unetzoo.create("unet")))
    assert found >= 4 * 64 * 4
    assert memory_of_pixel(unetzoo.optimize(unetzoo.create("unet", base_channels=32))) == pytest.approx(
        found / 2, rel=0.05
    )


def test_what_is_kept_in_half_precision_is_computed_in_full(tmp_path: Path) -> None:
    """As the same weights in float32 say, and not as a float16 network does; a network in memory is left as it is."""
    model = small().half()
    unetzoo.save(model, tmp_path / "half.safetensors")
    image = torch.rand(3, 64, 64)
    found = Predictor(tmp_path / "half.safetensors")(image).probabilities
    assert torch.equal(found, Predictor(model.float())(image).probabilities)
    for rounded in (
        Predictor(tmp_path / "half.safetensors", dtype=torch.bfloat16),
        Predictor(model.to(torch.bfloat16)),
    ):
        assert not torch.equal(found, rounded(image).probabilities)


def test_half_precision_is_close(shared_data: Path) -> None:
    path = next((shared_data / "nuclei" / "images").glob("*.png"))
    plain, half = (Predictor(small(), dtype=dtype)(path).probabilities for dtype in (None, torch.bfloat16))
    assert half.dtype == torch.float32
    assert 0 < (plain - half).abs().max() < 0.1


@pytest.mark.parametrize("how", [{}, {"merge": "logits"}], ids=str)
def test_strips_that_are_read_late_are_the_same(how: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: rows of tiles computed together, and a strip read when the next one has been asked for."""
    models = [small("unet", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3)), small("unetpp_lite")]
    image = torch.rand(3, 100, 60, generator=torch.Generator().manual_seed(0))
    image[:, 20:50, 10:40] = math.nan
    image[0, 70:] = math.nan
    predictor = Predictor(models, tile=32, batch_size=8, device="cpu", **how)
    expected = predictor(image)
    monkeypatch.setattr(transfer.Transfer, "ahead", 1)
    monkeypatch.setattr(transfer.Transfer, "rows_together", lambda self, at_once, across: at_once // across)
    found = predictor(image)
    torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=0, atol=1e-6)
    assert found.missing is not None
    assert torch.equal(found.missing, expected.missing)
    source = as_image(image)
    grid = predictor.grid(source)
    assert len(grid.across.starts) == 3
    for first in range(len(grid.down.starts) + 1):
        parts = list(predictor.strips(source, grid, first=first))
        top = [*grid.down.starts, 100][first]
        assert [part.top for part in parts] == list(
            itertools.accumulate((part.probabilities.shape[1] for part in parts[:-1]), initial=top)
        )[: len(parts)]
        rows = [part.probabilities for part in parts]
        below = torch.cat(rows, dim=1) if rows else expected.probabilities[:, 100:]
        torch.testing.assert_close(below, expected.probabilities[:, top:], rtol=0, atol=1e-6)


def test_what_is_begun_is_taken_in_order_and_so_many_later() -> None:
    said: list[str] = []

    def begun(count: int) -> Iterator[Callable[[], int]]:
        for number in range(count):
            said.append(f"begin {number}")
            yield functools.partial(read, number)

    def read(number: int) -> int:
        said.append(f"read {number}")
        return number

    assert list(transfer.taken(begun(3), 0)) == [0, 1, 2]
    assert said == [f"{what} {n}" for n in range(3) for what in ("begin", "read")]
    said.clear()
    assert list(transfer.taken(begun(3), 1)) == [0, 1, 2]
    assert said == ["begin 0", "begin 1", "read 0", "begin 2", "read 1", "read 2"]
    assert list(transfer.taken(begun(1), 1)) == [0]
    assert list(transfer.taken(begun(0), 1)) == []

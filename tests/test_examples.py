"""The scripts of ``examples/``: each is run on small data, and what it says is held against something independent."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
import zarr
from conftest import ROOT
from hub_server import HubServer
from PIL import Image
from torch import Tensor
from torchvision import models

import unetzoo
from unetzoo import augmentation, drawing, images
from unetzoo.data import Labels, find_samples
from unetzoo.drawing import CLASSES, draw_shapes
from unetzoo.errors import ConfigError, HubError, InputError
from unetzoo.nn import convolutions, winograd

pytestmark = pytest.mark.usefixtures("no_curves")

EXAMPLES = ROOT / "examples"
SHORT = ("--data.workers=0", "--trainer.accelerator=cpu", "--data.batch_size=4")
Run = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], registries: None) -> Run:
    """Run an example as ``python examples/<name> ...`` does; return what it prints, and its variables."""

    def called(name: str, *words: object) -> tuple[str, dict[str, Any]]:
        path = EXAMPLES / name
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
        capsys.readouterr()
        variables = runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out, variables

    return called


def cells(folder: Path, count: int = 30, side: int = 64) -> Path:
    """Draw nuclei, as a folder of PNG images and masks."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for k in range(count):
        one_image, mask = drawing.draw_nuclei(side, side, seed=k)
        images.write_png(one_image, folder / "images" / f"{k:02d}.png")
        Image.fromarray(mask.numpy()).save(folder / "masks" / f"{k:02d}.png")
    return folder


def start(path: Path, **options: object) -> Path:
    unetzoo.save(unetzoo.create("unet", **{"base_channels": 8, **options}), path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as one_image:
        return np.asarray(one_image)


def dice(found: np.ndarray, true: np.ndarray) -> float:
    return 2 * float((found & true).sum()) / float(found.sum() + true.sum())


def normalised(one_image: np.ndarray, config: unetzoo.ModelConfig) -> Tensor:
    """Return an image (H, W, C) uint8 as a batch that a model takes, normalised by hand."""
    values = one_image[..., :3] / 255
    if config.normalisation == "image":
        image = (values - values.mean((0, 1))) / values.std((0, 1))
    else:
        image = (values - np.array(config.mean)) / np.array(config.std)
    return torch.from_numpy(image.transpose(2, 0, 1)[None]).float()


def pooled_dice(model: unetzoo.SegmentationModel, folder: Path, split: str) -> float:
    """Return the Dice of a split's pixels, all counted together, by the network alone and by hand."""
    found, true = [], []
    for sample in find_samples(folder, Labels())[split]:
        one_image = pixels(sample.image)
        batch = normalised(one_image, model.config)
        with torch.no_grad():
            found.append((model(batch)[0, 0] > 0).numpy())
        true.append(pixels(sample.mask) > 0)
    return dice(np.stack(found), np.stack(true))


def test_fine_tuning_raises_dice_and_says_that_of_unseen_images(run: Run, tmp_path: Path) -> None:
    data, model = cells(tmp_path / "cells"), start(tmp_path / "start.safetensors")
    out = tmp_path / "run"
    said, _ = run("fine_tune.py", model, data, "--out", out, "--epochs", 3, "--frozen-epochs", 1, "--model.lr=0.01",
                  "--data.repeats=2", *SHORT)  # fmt: skip
    best = unetzoo.load(out / "best.safetensors")
    expected = pooled_dice(best, data, "test")
    count = len(find_samples(data, Labels())["test"])
    assert f"Dice {expected:.3f} on {count} images" in said
    assert expected > 0.85
    assert pooled_dice(unetzoo.load(model, mean=best.config.mean, std=best.config.std), data, "test") < 0.5


def test_fine_tuning_leaves_a_frozen_encoder_bit_by_bit(run: Run, tmp_path: Path) -> None:
    data, model = cells(tmp_path / "cells", 12), start(tmp_path / "start.safetensors")
    run("fine_tune.py", model, data, "--out", tmp_path / "run", "--epochs", 1, "--frozen-epochs", 1, *SHORT)
    before = unetzoo.load(model).state_dict()
    after = unetzoo.load(tmp_path / "run" / "best.safetensors").state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "head"}


def test_fine_tuning_refuses_imagenets_weights_for_a_trained_model(run: Run, tmp_path: Path) -> None:
    data, model = cells(tmp_path / "cells", 12), start(tmp_path / "start.safetensors")
    with pytest.raises(ConfigError, match="trained already"):
        run("fine_tune.py", model, data, "--out", tmp_path / "run", "--pretrained", *SHORT)
    assert not (tmp_path / "run").exists()


def test_multiclass_prints_the_scores_and_paints_the_mask_of_its_network(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said, _ = run("multiclass.py", out, "--images", 60, "--epochs", 2, "--side", 64, *SHORT, "--data.repeats=5",
                  "--data.batch_size=8", "--data.crop_size=32", "--model.options.base_channels=8",
                  "--model.lr=0.01")  # fmt: skip
    model = unetzoo.load(out / "run" / "best.safetensors")
    assert model.config.class_names == CLASSES
    samples = find_samples(out / "shapes", Labels(task="multiclass", num_classes=5))["test"]
    true = np.stack([pixels(sample.mask) for sample in samples])
    with torch.no_grad():
        found = np.stack([model(normalised(pixels(s.image), model.config))[0].argmax(0).numpy() for s in samples])
    table = said[said.index("all pixels") :]
    for k, name in enumerate(CLASSES):
        row = re.search(rf"^{name} +([\d.]+)", table, re.MULTILINE)
        assert row is not None
        assert row[1] == f"{dice(found == k, true == k):.4f}"
    assert dice(found > 0, true > 0) > 0.6

    one_image, truth = draw_shapes(200, 300, seed=123)
    painted = Image.open(out / "mask.png")
    assert (painted.mode, painted.size) == ("P", (300, 200))
    assert painted.getpalette()[:6] == [0, 0, 0, *bytes.fromhex(images.COLOURS[0][1:])]
    mask = np.asarray(painted)
    assert dice(mask > 0, truth.numpy() > 0) > 0.6
    for k, name in enumerate(CLASSES):
        assert f"{name}: {(mask == k).mean():.1%} of the image" in said
    assert pixels(out / "overlay.png")[mask == 0].tolist() == one_image.permute(1, 2, 0).numpy()[mask == 0].tolist()


def bands(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw nuclei that only the last band but one shows, as (count, H, W): int16, or a single one of uint16."""
    one_image, mask = drawing.draw_nuclei(64, 64, seed=seed)
    if count == 1:
        return 110 + 15 * one_image[0].numpy().astype(np.uint16), mask.numpy()
    noise = np.random.default_rng(seed).normal(-500, 100, (count, 64, 64))
    noise[-2] += 12.0 * one_image[0].numpy()
    return noise.astype(np.int16), mask.numpy()


def write_image(path: Path, array: np.ndarray) -> None:
    """Write (bands, H, W) as the samples of one page, (H, W) as grey."""
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig="separate" if array.ndim == 3 else None)


def write_bands(folder: Path, count: int) -> Path:
    """Write TIFF images and a list of them; return the list."""
    rows = ["image,mask,split"]
    for k in range(12):
        one_image, mask = bands(k, count)
        (folder / "p").mkdir(parents=True, exist_ok=True)
        write_image(folder / "p" / f"{k}.tif", one_image.squeeze())
        tifffile.imwrite(folder / "p" / f"{k}_mask.tif", 255 * mask.astype(np.uint8))
        rows.append(f"p/{k}.tif,p/{k}_mask.tif,{'val' if k > 9 else 'train'}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "list.csv"


@pytest.mark.parametrize(("count", "policy"), [pytest.param(1, None, marks=pytest.mark.slow), (13, "repeat")])
def test_images_that_are_not_rgb(run: Run, tmp_path: Path, count: int, policy: str | None) -> None:
    torch.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    data = write_bands(tmp_path / "data", count)
    one_image, true = bands(99, count)
    write_image(tmp_path / "new.tif", one_image.squeeze())
    options = [] if policy is None else ["--policy", policy]
    said, _ = run(
        "non_rgb.py", data, tmp_path / "new.tif", tmp_path / "out", "--pretrained", tmp_path / "resnet18.pth",
        *options, *SHORT, "--model=unet3p_lite_resnet18", "--trainer.max_epochs=1", "--data.repeats=16",
        "--data.batch_size=8", "--data.crop_size=32",
        "--model.encoder_lr=0.003", "--model.lr=0.003",
    )  # fmt: skip
    assert f"{count} channels of {one_image.dtype}" in said
    begun = unetzoo.load(tmp_path / "out" / "start.safetensors")
    first = torch.load(tmp_path / "resnet18.pth", weights_only=True)["conv1.weight"]
    expected = first.sum(1, keepdim=True) if count == 1 else first[:, torch.arange(13) % 3] * 3 / 13
    torch.testing.assert_close(begun.state_dict()["encoder.conv1.weight"], expected)
    stored = np.stack([bands(k, count)[0].reshape(count, 64, 64) for k in range(10)]) / np.iinfo(one_image.dtype).max
    np.testing.assert_allclose(begun.config.mean, stored.mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(begun.config.std, stored.std((0, 2, 3)), rtol=1e-3)
    mask = tifffile.imread(tmp_path / "out" / "mask.tif")
    assert set(np.unique(mask)) == {0, 255}
    assert dice(mask > 0, true) > 0.7
    assert f"{(mask > 0).mean():.1%} of" in said


def test_bands_that_differ_are_refused_before_training(run: Run, tmp_path: Path) -> None:
    data = write_bands(tmp_path / "data", 13)
    write_image(tmp_path / "data" / "p" / "3.tif", bands(3, 4)[0])
    with pytest.raises(ConfigError, match="channels"):
        run("non_rgb.py", data, tmp_path / "new.tif", tmp_path / "out", *SHORT)
    assert not (tmp_path / "out").exists()


def lively(path: Path, channels: int, **options: object) -> unetzoo.SegmentationModel:
    """Save a network of random weights, half of whose mask of noise is foreground; return it."""
    model = unetzoo.create("unet", in_channels=channels, **options).eval()
    with torch.no_grad():
        model.head.conv.weight *= 50
        model.head.conv.bias -= model(torch.rand(1, channels, 96, 96)).median()
    unetzoo.save(model, path)
    return model


def test_a_big_image_is_segmented_by_rows_as_whole(run: Run, tmp_path: Path) -> None:
    model = lively(tmp_path / "model.safetensors", 3, base_channels=4)
    one_image = np.random.default_rng(0).random((704, 304, 3), np.float32)
    tifffile.imwrite(tmp_path / "a.tif", one_image, rowsperstrip=16, photometric="rgb")
    run("big_image.py", tmp_path / "model.safetensors", tmp_path / "a.tif", tmp_path / "mask.tif", "--tile", 512)
    whole = model.predict(torch.from_numpy(one_image.transpose(2, 0, 1))[None])[0, 0].numpy()
    found = tifffile.imread(tmp_path / "mask.tif")
    assert (found.shape, found.dtype) == ((704, 304), np.uint8)
    assert 0.2 < whole.round().mean() < 0.8
    clear = np.abs(whole - 0.5) > 0.3  # where tiles overlap, the network sees less far
    assert clear.mean() > 0.5
    assert ((found > 0) == (whole > 0.5))[clear].mean() > 0.999
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_big_image_of_other_channels_is_refused_before_a_mask_is_begun(run: Run, tmp_path: Path) -> None:
    lively(tmp_path / "model.safetensors", 3, base_channels=4)
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((60, 70, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    with pytest.raises(InputError, match="5 channels"):
        run("big_image.py", tmp_path / "model.safetensors", tmp_path / "a.tif", tmp_path / "mask.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "model.safetensors"]


def test_a_big_image_takes_no_more_memory_than_a_row_of_tiles(tmp_path: Path) -> None:
    lively(tmp_path / "model.safetensors", 13, base_channels=2)
    drawn = np.random.default_rng(0).random((512, 512, 13), np.float32)
    words = []
    for rows in (512, 513, 4096):
        array = zarr.create_array(
            tmp_path / f"{rows}.zarr", shape=(rows, 512, 13), dtype="f4", chunks=(256, 512, 13), compressors=None
        )
        for y in range(0, rows, 512):
            array[y : y + 512] = drawn[: rows - y]
        files = (tmp_path / name for name in ("model.safetensors", f"{rows}.zarr", f"mask{rows}.zarr"))
        words.append(["big_image.py", *map(str, files), "--tile", "256"])
    code = (  # small ones first: a peak never falls
        f"import runpy, sys\nfor sys.argv in {words!r}:\n"
        f"    runpy.run_path({str(EXAMPLES / 'big_image.py')!r}, run_name='__main__')"
    )
    # By way of a shell: Linux counts the peak of the process that starts another as the other's, too.
    shell = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", code]
    # One arena: of what each of zarr's threads frees, glibc keeps some, 45 MiB with zarr 3.4 at any height.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    said = subprocess.run(shell, capture_output=True, text=True, check=True, env=environment).stdout
    for rows in (512, 513, 4096):
        assert zarr.open(tmp_path / f"mask{rows}.zarr", mode="r").shape == (rows, 512)
        shutil.rmtree(tmp_path / f"{rows}.zarr")
    peaks = [int(peak) for peak in re.findall(r"(\d+) MiB of memory", said)]
    assert len(peaks) == 3
    whole = 4096 * 512 * 13 * 4 / 2**20
    assert peaks[0] > 100
    assert peaks[2] - peaks[1] < whole / 4


def test_the_round_trip_pushes_the_bytes_of_the_file_and_gets_them_back(
    run: Run, hub: HubServer, tmp_path: Path
) -> None:
    model = start(tmp_path / "model.safetensors")
    said, variables = run("hub_round_trip.py", model, "me/cells", "--license", "mit")
    repository = hub.repos["me/cells"]
    assert repository.private
    commit = repository.commits[-1]
    assert commit.files["model.safetensors"] == model.read_bytes()
    assert b"\nlicense: mit\n" in commit.files["README.md"]
    assert b"## Limits" in commit.files["README.md"]
    assert f'unetzoo.from_pretrained("me/cells@{commit.oid}")' in said
    images = torch.rand(1, 3, 40, 50)
    assert torch.equal(variables["pulled"](images), unetzoo.load(model)(images))
    assert any(r.method == "GET" and r.path.startswith("/lfs/") for r in hub.requests)  # not from a cache


def test_the_round_trip_puts_nothing_private_into_a_public_repository(run: Run, hub: HubServer, tmp_path: Path) -> None:
    model = start(tmp_path / "model.safetensors")
    run("hub_round_trip.py", model, "me/cells", "--public")
    assert not hub.repos["me/cells"].private
    commits = len(hub.repos["me/cells"].commits)
    with pytest.raises(HubError) as caught:
        run("hub_round_trip.py", start(tmp_path / "other.safetensors"), "me/cells")
    assert caught.value.reason == "conflict"
    assert len(hub.repos["me/cells"].commits) == commits


def check_torch_hub(said: str, model: unetzoo.SegmentationModel, one_image: Tensor, mask: Path) -> None:
    assert "a new one: (1, 4, 50, 70)" in said
    with torch.no_grad():
        logits = model(one_image[None] / 255)[0, 0].numpy()
    clear = np.abs(logits) > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(pixels(mask)[clear], 255 * (logits > 0).astype(np.uint8)[clear])


def test_torch_hub_gives_the_mask_of_the_network(run: Run, tmp_path: Path) -> None:
    model = lively(tmp_path / "model.safetensors", 3, base_channels=4)
    one_image, _ = drawing.draw_nuclei(64, 96)
    images.write_png(one_image, tmp_path / "image.png")
    said, _ = run("torch_hub.py", *(tmp_path / name for name in ("model.safetensors", "image.png", "mask.png")))
    check_torch_hub(said, model, one_image, tmp_path / "mask.png")


@pytest.mark.slow
def test_torch_hub_needs_nothing_but_the_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "unetzoo", clone / "unetzoo", ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "examples").mkdir()
    shutil.copy(EXAMPLES / "torch_hub.py", clone / "examples")
    shutil.copy(ROOT / "hubconf.py", clone)
    model = lively(tmp_path / "model.safetensors", 3, base_channels=4)
    one_image, _ = drawing.draw_nuclei(64, 96)
    images.write_png(one_image, tmp_path / "image.png")
    words = ["torch_hub.py", *(str(tmp_path / name) for name in ("model.safetensors", "image.png", "mask.png"))]
    code = f"""
import runpy, sys
sys.path = [p for p in sys.path if p not in ("", {str(ROOT)!r})]
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.argv = {words!r}
runpy.run_path({str(clone / "examples" / "torch_hub.py")!r}, run_name="__main__")
import unetzoo
print(unetzoo.__file__)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.split()[-1:] == [str(clone / "unetzoo" / "__init__.py")], done.stderr
    check_torch_hub(done.stdout, model, one_image, tmp_path / "mask.png")


def test_the_own_decoder_computes_what_it_says_and_learns(run: Run) -> None:
    said, variables = run("own_decoder.py", "linknet_resnet18")
    losses = [float(value) for value in re.findall(r"step \d: loss ([\d.]+)", said)]
    assert len(losses) == 10
    assert losses[-1] < 0.6 * losses[0]
    assert set(unetzoo.list_models("linknet*")) <= set(said.split())

    model, batch = variables["model"].eval(), variables["images"]
    assert model.config.name == "linknet_resnet18"
    assert len(model.training_outputs(batch).deep) == 3
    state = model.state_dict()
    torchvisions = models.resnet18()
    encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    assert torchvisions.load_state_dict(encoder, strict=False).missing_keys == ["fc.weight", "fc.bias"]
    with torch.no_grad():
        x = torch.relu(torchvisions.eval().bn1(torchvisions.conv1(batch)))
        maps = [x]
        x = torchvisions.maxpool(x)
        for stage in (torchvisions.layer1, torchvisions.layer2, torchvisions.layer3, torchvisions.layer4):
            x = stage(x)
            maps.append(x)
        for k in (3, 2, 1, 0):
            part = {name: state[f"decoder.steps.{k}.{name}"] for name in (
                "conv.weight", "norm.running_mean", "norm.running_var", "norm.weight", "norm.bias")}  # fmt: skip
            weight, *norm = part.values()
            x = F.relu(F.batch_norm(F.conv2d(x, weight, padding=1), *norm, training=False))
            x = maps[k] + F.interpolate(x, size=maps[k].shape[-2:], mode="bilinear")
        logits = F.conv2d(x, state["head.conv.weight"], state["head.conv.bias"])
        logits = F.interpolate(logits, size=batch.shape[-2:], mode="bilinear")
        torch.testing.assert_close(model(batch), logits, rtol=1e-4, atol=1e-4)


def test_the_own_loop_learns_and_says_the_dice_of_the_network_that_it_keeps(run: Run, tmp_path: Path) -> None:
    data = cells(tmp_path / "cells")
    file = tmp_path / "model.safetensors"
    said, _ = run("own_loop.py", data, file, "--epochs", 4, "--crop", 64, "--width", 8)
    model = unetzoo.load(file)
    assert model.config.deep_supervision
    some_images = np.stack([pixels(sample.image) for sample in find_samples(data, Labels())["train"]]) / 255
    np.testing.assert_allclose(model.config.mean, some_images.mean((0, 1, 2)), rtol=1e-4)
    expected = pooled_dice(model, data, "val")
    assert expected > 0.85
    assert f"best Dice {expected:.4f}: {file}" in said
    reported = re.findall(r"^epoch \d: Dice ([\d.]+)", said, re.MULTILINE)
    assert len(reported) == 4
    assert max(reported) == f"{expected:.4f}"


def test_fit_says_the_dice_of_what_it_keeps_and_goes_on(run: Run, tmp_path: Path) -> None:
    data, out = cells(tmp_path / "cells", 20), tmp_path / "run"
    unetzoo.register_model("tiny")(lambda **options: unetzoo.create("unet", base_channels=8, **options))
    words = ["fit.py", data, out, "--model", "tiny", "--crop", 32, "--epochs"]
    said, _ = run(*words, 1)
    assert said.count("epoch 1: loss") == 1
    said, variables = run(*words, 2)
    assert "epoch 2: loss" in said
    model = unetzoo.load(out / "best.safetensors")
    expected = pooled_dice(model, data, "val")
    assert f"best: Dice {expected:.4f} in epoch {variables['run'].best_epoch}" in said
    mask = pixels(out / "mask.png") > 0
    assert f"{mask.mean():.1%} of {find_samples(data, Labels())['test'][0].name}" in said


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of a Trainer that is set up without us
def test_the_own_trainer_keeps_and_logs(run: Run, tmp_path: Path) -> None:
    data, out = cells(tmp_path / "cells", 20), tmp_path / "run"
    said, variables = run("own_trainer.py", data, out, "--epochs", 6, "--crop", 64)
    expected = pooled_dice(unetzoo.load(out / "best.safetensors"), data, "val")
    assert f"best Dice {expected:.4f} in epoch" in said
    assert expected > 0.5
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == variables["trainer"].global_step
    logged = (out / "log" / "metrics.csv").read_text(encoding="utf-8")
    assert "largest_gradient" in logged.splitlines()[0]


def test_the_own_loop_refuses_images_without_masks(run: Run, tmp_path: Path) -> None:
    data = cells(tmp_path / "cells", 12)
    (data / "masks" / "03.png").unlink()
    with pytest.raises(ConfigError, match="03"):
        run("own_loop.py", data, tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_two_published_sizes_agree(run: Run) -> None:
    said, _ = run("compare_parameters.py", "unet", "resunet18")
    assert "2 of 2 published sizes agree" in said


# Real images.


@pytest.mark.slow
def test_sixteen_bits_of_a_microscope(run: Run, shared_data: Path, tmp_path: Path) -> None:
    """Trains on 12 images of one channel, and segments one of the two that it has never seen: a minute."""
    folder = shared_data / "nuclei_16bit"
    unseen = find_samples(folder, Labels())["test"]
    sample = max(unseen, key=lambda sample: (pixels(sample.mask) > 0).sum())
    run("non_rgb.py", folder, sample.image, tmp_path / "out", "--trainer.max_epochs=1", "--data.crop_size=128",
        "--model.lr=0.003", "--model.encoder_lr=0.003", *SHORT)  # fmt: skip
    assert dice(tifffile.imread(tmp_path / "out" / "mask.tif") > 0, pixels(sample.mask) > 0) > 0.85


@pytest.mark.slow
def test_thirteen_bands_of_a_satellite(run: Run, shared_data: Path, tmp_path: Path) -> None:
    """Learns the water of one chip by heart, from a list, pixels without data left out: a minute."""
    folder = shared_data / "floods_multiband"
    (one_image,), (mask,) = (folder / "images").glob("*S2Hand.tif"), (folder / "masks").iterdir()
    (tmp_path / "list.csv").write_text(
        f"image,mask,split\n{one_image},{mask},train\n{one_image},{mask},val\n", encoding="utf-8"
    )
    run("non_rgb.py", tmp_path / "list.csv", one_image, tmp_path / "out", "--ignore", -1, "--trainer.max_epochs=2",
        "--data.repeats=64", "--data.crop_size=128", "--model.lr=0.003", "--model.encoder_lr=0.003",
        *SHORT)  # fmt: skip
    true = tifffile.imread(mask)
    found = tifffile.imread(tmp_path / "out" / "mask.tif")
    assert (true == -1).any()
    assert dice(found[true >= 0] > 0, true[true >= 0] > 0) > 0.6


@pytest.mark.parametrize(
    "parts",
    [
        ("networks", "layers", "kernels", "equalities", "predictor"),
        pytest.param(("profile", "fit", "compiled"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def test_the_benchmark_for_gpus(
    parts: tuple[str, ...], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts run to the end, here on the CPU, and what they hold against the CPU in float64 is equal."""
    monkeypatch.syspath_prepend(EXAMPLES / "benchmarks")
    words = ("--minutes", 10, "--device", "cpu", "--smoke", "--out", tmp_path, "--parts", *parts)
    run("benchmarks/gpu.py", *words)
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert found.get("errors", []) == []
    assert [*found["seconds"]] == [*parts]
    assert all(found[part] for part in parts)
    assert all(row["difference"] <= row["allowed"] for row in found.get("equalities", []))


def test_the_plain_layer_of_the_benchmarks_is_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """What layers are timed against has none of their faster ways, forward or backward: they would be in both times."""
    monkeypatch.syspath_prepend(EXAMPLES / "benchmarks")
    plain = runpy.run_path(str(EXAMPLES / "benchmarks" / "gpu_forms.py"))["plain"]
    conv = convolutions.ConcatConv(512, 256, 3, 1, bias=True)
    skip, below = (
        torch.randn(2, channels, side, side).to(memory_format=torch.channels_last)
        for channels, side in ((448, 32), (64, 16))
    )
    sources = (skip.requires_grad_(), convolutions.Upsampled(below.requires_grad_(), (32, 32)))
    expected = F.conv2d(
        torch.cat([skip, F.interpolate(below, scale_factor=2, mode="bilinear")], 1), conv.weight, conv.bias, padding=1
    )
    for way in ("by_points", "input_gradient", "kernel_gradient"):
        monkeypatch.setattr(winograd, way, lambda *_, **__: pytest.fail("Winograd's algorithm is used"))
    out = plain(conv, sources)
    out.sum().backward()
    assert torch.equal(out, expected)
    with pytest.raises(pytest.fail.Exception):
        conv(*sources)


def test_the_benchmark_for_data(run: Run, tmp_path: Path) -> None:
    """Each way makes items, those of other packages where they are installed."""
    folder = cells(tmp_path / "cells", 4)
    said, _ = run("benchmarks/data.py", folder, "--images", 2, "--rounds", 1, "--json", tmp_path / "data.json")
    found = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    ours = {(preset, place): rate for _, name, preset, place, rate in found if name == "unetzoo"}
    assert [*ours] == [(preset, place) for preset in augmentation.PRESETS for place in ("read anew", "in memory")]
    assert all(rate > 0 for *_, rate in found)
    assert f"{folder}: 2 images" in said


# All of them.


def scripts() -> list[Path]:
    found = (path for path in EXAMPLES.rglob("*.py") if "benchmarks" not in path.parts)
    return sorted(path.relative_to(EXAMPLES) for path in found)


def code_lines(path: Path) -> int:
    """Count lines that hold code: neither blank, nor comment, nor docstring."""
    text = path.read_text(encoding="utf-8")
    strings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for k, line in lines if k not in strings and line.strip() and not line.strip().startswith("#"))


@functools.cache
def strings_of_tests() -> set[str]:
    """Return the strings of tests that name scripts: one calls a script by its name, not in a longer text."""
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = [script.name for script in scripts()]
    return {
        node.value
        for text in texts
        if any(name in text for name in named)  # the others need not be parsed
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_scripts_are_short_listed_and_tested() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    wrong = []
    for script in scripts():
        listed = script.as_posix() if script.parent == Path() else f"{script.parts[0]}/"
        habits = {
            "is too long": code_lines(EXAMPLES / script) < 60,
            "says not what it is": ast.get_docstring(ast.parse((EXAMPLES / script).read_text(encoding="utf-8"))),
            "is not in README.md": listed in links,
            "is run by no test": script.name in strings_of_tests(),
        }
        wrong += [f"{script} {problem}" for problem, kept in habits.items() if not kept]
    assert scripts()
    assert not wrong, "\n".join(wrong)


def test_the_list_of_examples_names_what_there_is() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert len(links) == len(set(links))
    assert [link for link in links if not (EXAMPLES / link).exists()] == []

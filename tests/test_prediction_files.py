"""Folders of images, bad files among them, and images by rows, through the command line where there is one."""

from __future__ import annotations

import itertools
import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROCESSES, chunk, needs_links
from drawn import saved
from PIL import Image

import unetzoo
from unetzoo import ConfigError, InputError, Predictor, WriteError, drawing, images
from unetzoo.cli import main
from unetzoo.data import annotations
from unetzoo.prediction import files, layout, reach
from unetzoo.prediction.by_rows import begun
from unetzoo.prediction.geography import geography, georeference
from unetzoo.prediction.inputs import LoadedImage
from unetzoo.prediction.partial import PartialMask
from unetzoo.prediction.stored import StoredRows


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model.safetensors")


def write(path: Path, seed: int = 0, size: tuple[int, int] = (40, 56), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path


def mask_at(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def png_header(width: int, height: int) -> bytes:
    """Return a small PNG that says it is large."""
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


class TestCommand:
    def test_masks_keep_names_folders_and_sizes(self, model: Path, tmp_path: Path) -> None:
        some_images = tmp_path / "images"
        write(some_images / "a.png", 1)
        write(some_images / "left" / "b.jpg", 2, (33, 47))
        write(some_images / "left" / "c.tif", 3, (64, 31))
        write(tmp_path / "single.bmp", 4)
        (some_images / "notes.txt").write_text("no image", encoding="utf-8")
        (some_images / ".hidden.png").write_text("no image", encoding="utf-8")
        out = tmp_path / "masks"
        assert main(["predict", str(model), str(some_images), str(tmp_path / "single.bmp"), "--out", str(out)]) == 0
        written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        assert written == {".unetzoo.json", "a.png", "left/b.png", "left/c.tif", "single.png"}
        predictor = Predictor(model)
        for mask, image in {"a.png": "a.png", "left/b.png": "left/b.jpg", "left/c.tif": "left/c.tif"}.items():
            expected = predictor(some_images / image).mask.numpy() * 255
            assert 0 < expected.mean() < 255
            assert (mask_at(out / mask) == expected).all()

    def test_all_that_is_asked_for_is_written(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        pytest.importorskip("scipy", reason="objects need SciPy")
        write(tmp_path / "in" / "a.png")
        out = tmp_path / "masks"
        asked = ["--overlay", "--probabilities", "--write", "geojson,coco", "--json"]
        assert main(["predict", str(model), str(tmp_path / "in"), "--out", str(out), *asked]) == 0
        found = Predictor(model)(tmp_path / "in" / "a.png")
        (line,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert line == {
            "image": str(tmp_path / "in" / "a.png"),
            "status": "segmented",
            "mask": "a.png",
            "objects": len(found.instances()),
            "size": [40, 56],
            "shares": found.shares(),
        }
        assert (np.load(out / "probabilities" / "a.npy") == found.probabilities.numpy()).all()
        assert json.loads((out / "geojson" / "a.geojson").read_text(encoding="utf-8")) == found.geojson()
        found.overlay(tmp_path / "o.png")
        assert (out / "overlays" / "a.png").read_bytes() == (tmp_path / "o.png").read_bytes()
        record = json.loads((out / "coco" / "annotations.json").read_text(encoding="utf-8"))
        assert sum(entry["area"] for entry in record["annotations"]) == int(found.mask.sum())
        assert [entry["file_name"] for entry in record["images"]] == ["a.png"]

    @needs_links
    def test_bad_files_are_a_line_each_and_stop_nothing(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        folder = tmp_path / "in"
        whole = write(folder / "a_whole.png").read_bytes()
        tiff = write(folder / "b_whole.tif").read_bytes()
        jpeg = write(folder / "c_whole.jpg").read_bytes()
        good = ["a_whole", "b_whole", "c_whole", "d_cmyk", "e_bits", "f_gif", "g_strip", "z_whole"]
        write(folder / "d_cmyk.jpg", mode="CMYK")
        write(folder / "e_bits.png", mode="1")
        frames = [Image.fromarray(np.uint8(np.mgrid[:40, :40][1] + 60 * k)) for k in range(3)]
        frames[0].save(folder / "f_gif.gif")
        frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
        write(folder / "g_strip.png", size=(1, 65535))
        write(folder / "z_whole.png")
        bad = {
            "text.png": b"this is no image\n",
            "empty.jpg": b"",
            "bomb.png": png_header(60000, 60000),
            "short.png": whole[: len(whole) // 2],
            "short.tif": tiff[: len(tiff) // 2],
            "short.jpg": jpeg[: len(jpeg) // 2],
            "animated.gif": (tmp_path / "animated.gif").read_bytes(),  # which of its frames is meant is not said
        }
        for name, content in bad.items():
            (folder / name).write_bytes(content)
        (folder / "sub").mkdir()
        (folder / "sub" / "up").symlink_to(folder)
        (folder / "self.png").symlink_to(folder / "self.png")
        out = tmp_path / "masks"
        assert main(["predict", str(model), str(folder), "--out", str(out)]) == 1
        printed = capsys.readouterr()
        lines = printed.err.splitlines()
        named = [Path(line.split(": ")[1]).name for line in lines]
        alike = [other for line in lines for other in line.partition("and 1 other: ")[2].split(", ") if other]
        assert sorted([*named, *(Path(other).name for other in alike)]) == sorted([*bad, "self.png"])
        assert all(line.startswith("unetzoo: ") for line in lines)
        assert printed.out == f"masks in {out}: {len(good)} segmented, {len(bad) + 1} failed\n"
        assert {path.stem for path in out.iterdir() if path.suffix in (".png", ".tif")} == set(good)
        assert mask_at(out / "g_strip.png").shape == (1, 65535)
        assert mask_at(out / "f_gif.png").shape == (40, 40)

    def test_what_is_there_is_not_done_again(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        folder, out = tmp_path / "in", tmp_path / "masks"
        for k in range(3):
            write(folder / f"{k}.png", k)
        command = ["predict", str(model), str(folder), "--out", str(out)]
        assert main(command) == 0
        kept = mask_at(out / "1.png")
        inode = (out / "1.png").stat().st_ino
        (out / "2.png").unlink()
        write(folder / "0.png", 7)
        os.utime(folder / "0.png", (1, 1))  # a change is one, whatever its time
        capsys.readouterr()
        assert main(command) == 0
        assert capsys.readouterr().out == f"masks in {out}: 2 segmented, 1 there already\n"
        assert (out / "1.png").stat().st_ino == inode
        expected = Predictor(model)([folder / "0.png", folder / "2.png"])
        assert (mask_at(out / "0.png") == expected[0].mask.numpy() * 255).all()
        assert (mask_at(out / "2.png") == expected[1].mask.numpy() * 255).all()
        assert main([*command, "--overwrite"]) == 0
        assert (out / "1.png").stat().st_ino != inode
        assert (mask_at(out / "1.png") == kept).all()

    def test_masks_of_other_settings_are_not_mixed(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        write(tmp_path / "in" / "a.png")
        command = ["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "masks")]
        assert main(command) == 0
        before = (tmp_path / "masks" / "a.png").read_bytes()
        capsys.readouterr()
        assert main([*command, "--threshold", "0.6"]) == 2
        assert "--threshold 0.5 there, --threshold 0.6 now" in capsys.readouterr().err
        torch.manual_seed(1)
        unetzoo.save(unetzoo.create("unet", base_channels=4), model)
        assert main(command) == 2
        assert "the model has other weights" in capsys.readouterr().err
        assert (tmp_path / "masks" / "a.png").read_bytes() == before
        assert main([*command, "--overwrite"]) == 0

    def test_images_of_one_name_keep_their_endings(self, model: Path, tmp_path: Path) -> None:
        write(tmp_path / "in" / "a.png", 1)
        write(tmp_path / "in" / "a.bmp", 2)
        write(tmp_path / "in" / "b.bmp", 3)
        assert main(["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "masks")]) == 0
        assert {path.name for path in (tmp_path / "masks").glob("*.png")} == {"a.png.png", "a.bmp.png", "b.png"}
        found = mask_at(tmp_path / "masks" / "a.bmp.png")
        assert (found == Predictor(model)(tmp_path / "in" / "a.bmp").mask.numpy() * 255).all()

    def test_two_images_never_share_a_mask(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        first, second = write(tmp_path / "p1" / "a.png", 1), write(tmp_path / "p2" / "a.png", 2)
        out = tmp_path / "masks"
        assert main(["predict", str(model), str(first.parent), str(second.parent), "--out", str(out)]) == 2
        assert re.search(r"p1.*a\.png .*p2.*a\.png .*mask a\.png.*--out", capsys.readouterr().err)
        assert not out.exists()
        for ending in (".png", ".tif"):
            one, two = first.with_suffix(ending), second.with_suffix(ending)
            Image.open(first).save(one)
            Image.open(second).save(two)
            assert main(["predict", str(model), str(one), "--out", str(out)]) == 0
            before = (out / f"a{ending}").read_bytes()
            capsys.readouterr()
            assert main(["predict", str(model), str(two), "--out", str(out)]) == 1
            said = capsys.readouterr().err
            assert re.search(rf"\ba\{ending} .*another image.*--out.*--overwrite", said)
            assert (out / f"a{ending}").read_bytes() == before
            assert main(["predict", str(model), str(two), "--out", str(out), "--overwrite"]) == 0
            assert (mask_at(out / f"a{ending}") == Predictor(model)(two).mask.numpy() * 255).all()

    def test_true_masks_are_never_written_over(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        write(tmp_path / "set" / "images" / "a.png", 1)
        true = write(tmp_path / "set" / "masks" / "a.png", 2, mode="L")
        before = true.read_bytes()
        command = ["predict", str(model), str(tmp_path / "set"), "--out", str(tmp_path / "set" / "masks")]
        for more in ([], ["--overwrite"]):
            assert main([*command, *more]) == 2
            assert re.search("masks .*ground truth.*new --out", capsys.readouterr().err)
            assert true.read_bytes() == before

    @pytest.mark.parametrize("beside", ["masks", "labels", "instances"])
    def test_beside_images_masks_of_any_name_are_left_out(self, beside: str, tmp_path: Path) -> None:
        write(tmp_path / "set" / "images" / "a.png")
        write(tmp_path / "set" / beside / "a.png", mode="L")
        assert [job.name for job in files.find_jobs([tmp_path / "set"])] == ["a.png"]

    def test_of_a_data_set_the_images_are_taken(self, model: Path, tmp_path: Path) -> None:
        write(tmp_path / "set" / "images" / "a.png", 1)
        write(tmp_path / "set" / "masks" / "a.png", 2, mode="L")
        assert main(["predict", str(model), str(tmp_path / "set"), "--out", str(tmp_path / "out")]) == 0
        assert [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")] == [
            "a.png"
        ]

    def test_masks_of_earlier_runs_are_no_images(self, model: Path, tmp_path: Path) -> None:
        write(tmp_path / "in" / "a.png", 1)
        assert main(["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "in" / "old")]) == 0
        assert main(["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "new")]) == 0
        assert [path.name for path in (tmp_path / "new").rglob("*.png")] == ["a.png"]

    def test_a_model_behind_its_images_is_told(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        write(tmp_path / "in" / "a.png")
        out = str(tmp_path / "out")
        for images_, last in ((str(tmp_path / "in"), "nuclei"), (str(tmp_path / "in" / "a.png"), str(model))):
            assert main(["predict", images_, last, "--out", out]) == 2
            said = capsys.readouterr().err
            assert f"the model comes first, then images: unetzoo predict {last} {images_}" in said
        assert main(["predict", str(model), str(tmp_path / "in"), str(tmp_path / "nuclei"), "--out", out]) == 2
        assert "no such file or folder" in capsys.readouterr().err

    def test_objects_are_counted_in_what_was_segmented(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        pytest.importorskip("scipy")
        write(tmp_path / "in" / "a.png")
        command = ["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--write", "labelme"]
        assert main(command) == 0
        assert re.search(r": 1 segmented, \d+ objects? in them", capsys.readouterr().out)
        assert main(command) == 0
        assert ": 0 segmented, 1 there already; " in capsys.readouterr().out

    def test_an_interrupted_run_says_so_in_a_line(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "in" / "a.png", 1)

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Predictor, "_one", interrupted)
        assert main(["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 130
        assert capsys.readouterr().err == "unetzoo: interrupted\n"

    def test_masks_among_the_images_are_no_images(self, model: Path, tmp_path: Path) -> None:
        write(tmp_path / "a.png")
        for _ in range(2):
            assert main(["predict", str(model), str(tmp_path), "--out", str(tmp_path / "masks")]) == 0
        assert [path.name for path in (tmp_path / "masks").rglob("*.png")] == ["a.png"]

    def test_several_models_are_averaged(self, model: Path, tmp_path: Path) -> None:
        torch.manual_seed(5)
        unetzoo.save(unetzoo.create("unet_valid", base_channels=4), tmp_path / "other.safetensors")
        image = write(tmp_path / "a.png")
        both = f"{model},{tmp_path / 'other.safetensors'}"
        assert main(["predict", both, str(image), "--out", str(tmp_path / "masks"), "--probabilities"]) == 0
        said = [Predictor(path)(image).probabilities for path in both.split(",")]
        found = np.load(tmp_path / "masks" / "probabilities" / "a.npy")
        np.testing.assert_allclose(found, torch.stack(said).mean(dim=0), atol=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere"], "'nowhere': .*no such file"),
            (["RUN"], "run' .*run: .*models .*commas"),
            (["OUT"], "in' .*masks .*another --out"),
            ([], "no images in"),
            (["--tta", "d8"], "--tta d8"),
            (["--device", "cuda:99"], "--device cuda:99"),
        ],
    )
    def test_what_cannot_be_done_is_said_before_any_work(
        self, arguments: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (tmp_path / "in").mkdir()
        if arguments and arguments[0].startswith("--"):
            write(tmp_path / "in" / "a.png")
        out = tmp_path / "masks"
        (tmp_path / "run").mkdir()
        model.rename(tmp_path / "run" / "best.safetensors")
        (tmp_path / "run" / "config.yaml").touch()
        named = {"RUN": str(tmp_path / "run"), "OUT": str(out)}
        if arguments == ["OUT"]:
            out = tmp_path / "in"
            named["OUT"] = str(out)
        arguments = [named.get(argument, argument) for argument in arguments]
        assert main(["predict", named["RUN"], str(tmp_path / "in"), *arguments, "--out", str(out)]) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not out.exists() or not any(path.name == files.RECORD for path in out.iterdir())

    @pytest.mark.parametrize("kind", ["nuclei", "vessels", "polyps", "nuclei_16bit", "floods_multiband"])
    def test_real_images_of_all_kinds_go_the_same_way(self, kind: str, shared_data: Path, tmp_path: Path) -> None:
        channels = {"nuclei_16bit": 1, "floods_multiband": 13}.get(kind, 3)
        torch.manual_seed(0)
        network = unetzoo.create("unet", base_channels=4, in_channels=channels)
        unetzoo.save(network, tmp_path / "m.safetensors")
        pattern = "*S2Hand*" if kind == "floods_multiband" else "*.*"
        chosen = sorted((shared_data / kind / "images").glob(pattern))[:2]
        out = tmp_path / "masks"
        assert main(["predict", str(tmp_path / "m.safetensors"), *map(str, chosen), "--out", str(out)]) == 0
        for path in chosen:
            (mask,) = (entry for entry in out.iterdir() if entry.stem == path.stem)
            shown = images.read_image(path)
            height, width = shown.shape[1:]
            padded = torch.from_numpy(
                np.pad(shown.numpy(), ((0, 0), (0, -height % 16), (0, -width % 16)), mode="reflect")
            )
            said = network.predict(images.prepare(padded, network.config))[0, 0, :height, :width]
            sure = ((said - 0.5).abs() > 1e-4).numpy()
            assert ((mask_at(mask) > 0) == (said > 0.5).numpy())[sure].all()


@pytest.mark.parametrize("compression", ["lzw", "zstd", "deflate", "packbits"])
def test_geotiffs_as_gdal_writes_them(compression: str, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio writes the GeoTIFF")
    array = np.random.default_rng(0).integers(0, 3000, (4, 50, 60), np.uint16)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=50, width=60, count=4, dtype="uint16", compress=compression,
        crs="EPSG:32630", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 4_200_000),
    ) as file:  # fmt: skip
        file.write(array)
    assert (images.read_image(tmp_path / "a.tif").numpy() == array).all()


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError])
@pytest.mark.parametrize("kind", ["png", "zarr", "done"])
def test_an_error_of_the_listener_is_no_image_s(kind: str, error: type, model: Path, tmp_path: Path) -> None:
    name = f"a.{'zarr' if kind == 'zarr' else 'png'}"
    job = files.Job(tmp_path / "in" / name, name, name)
    outputs, predictor = files.Outputs(tmp_path / "out"), Predictor(model)
    if kind == "zarr":
        pytest.importorskip("zarr").save(str(job.source), noise(40, 56))
    else:
        write(job.source)
    if kind == "done":
        files.predict_files(predictor, [job], outputs, {})

    told: list[files.Outcome] = []

    def heard(outcome: files.Outcome) -> None:
        told.append(outcome)
        if len(told) == 1:
            raise error("of the listener")

    with pytest.raises(error, match="of the listener"):
        files.predict_files(predictor, [job], outputs, {}, tell=heard)
    assert len(told) == 1


class TestGeography:
    def test_of_a_geotiff_is_its_mask_s(self, model: Path, tmp_path: Path) -> None:
        rasterio = pytest.importorskip("rasterio", reason="rasterio writes the GeoTIFF")
        noise = np.random.default_rng(0).integers(0, 256, (3, 50, 60), np.uint8)
        place = rasterio.Affine(10, 0, 500_000, 0, -10, 4_200_000)
        with rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", height=50, width=60, count=3, dtype="uint8", crs="EPSG:32630",
            transform=place,
        ) as file:  # fmt: skip
            file.write(noise)
        assert main(["predict", str(model), str(tmp_path / "a.tif"), "--out", str(tmp_path / "masks")]) == 0
        found = Predictor(model)(tmp_path / "a.tif")
        found.save(tmp_path / "saved.tif")
        for mask in ("masks/a.tif", "saved.tif"):
            with rasterio.open(tmp_path / mask) as file:
                assert file.crs.to_epsg() == 32630
                assert file.transform == place
                assert (file.read(1) == found.mask.numpy() * 255).all()

    @pytest.mark.parametrize(
        ("crs", "numbers", "kind"),
        [
            ("EPSG:32630", (10, 0, 500_000, 0, -10, 4_200_000), "Area"),
            ("EPSG:32630", (10, 0, 500_000, 0, -20, 4_200_000), "Point"),
            ("EPSG:3035", (8, 3, 4_321_000, 3, -8, 3_210_000), "Area"),
            ("EPSG:3035", (8, 3, 4_321_000, 3, -8, 3_210_000), "Point"),
            ("EPSG:4326", (1e-4, 0, 13, 0, -1e-4, 52), "Area"),
        ],
    )
    @pytest.mark.parametrize("bands", [3, 5])
    def test_objects_lie_where_rasterio_says(
        self, crs: str, numbers: tuple[float, ...], kind: str, bands: int, tmp_path: Path
    ) -> None:
        """Drawn by rasterio, under the transform that it reads, outlines give the mask back: to the pixel."""
        rasterio = pytest.importorskip("rasterio", reason="rasterio writes the GeoTIFF")
        from rasterio.features import rasterize

        path = tmp_path / "a.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=50, width=60, count=bands, dtype="uint8", crs=crs,
            transform=rasterio.Affine(*numbers),
        ) as file:  # fmt: skip
            file.update_tags(AREA_OR_POINT=kind)
            file.write(np.random.default_rng(0).integers(0, 256, (bands, 50, 60), np.uint8))
        found = Predictor(unetzoo.create("unet", base_channels=2, in_channels=bands))(path)
        record = found.geojson()
        with rasterio.open(path) as file:
            shapes = [feature["geometry"] for feature in record["features"]]
            assert file.tags()["AREA_OR_POINT"] == kind
            drawn = rasterize(shapes, (50, 60), transform=file.transform)
        assert 0 < found.mask.sum() < found.mask.numel()
        assert (torch.from_numpy(drawn) == found.mask).all()
        named = crs.replace("EPSG:", "EPSG::").replace("EPSG::4326", "OGC:1.3:CRS84")
        assert record["crs"] == {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{named}"}}
        (tmp_path / "a.geojson").write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(InputError, match=r"a\.geojson.*not in pixels"):
            annotations.read(tmp_path / "a.geojson")
        assert "objectType" not in record["features"][0]["properties"]
        found.save(tmp_path / "mask.tif")
        with rasterio.open(path) as file, rasterio.open(tmp_path / "mask.tif") as mask:
            assert (mask.crs, mask.transform) == (file.crs, file.transform)

    @pytest.mark.parametrize("bands", [3, 5])
    @pytest.mark.parametrize("orientation", [1, 3, 6])
    def test_what_is_stored_turned_has_no_place(self, bands: int, orientation: int, tmp_path: Path) -> None:
        """As the tags say where the stored rows and columns lie, and an image is read as it is shown."""
        tags = [(33550, 12, 3, (10.0, 10.0, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
                (274, 3, 1, orientation, True)]  # fmt: skip
        path = write_tiff(
            tmp_path / "a.tif", np.zeros((20, 30, bands), np.uint8), photometric="rgb", extratags=tags, metadata=None
        )
        assert bool(geography(path)) == (orientation == 1)

    @pytest.mark.parametrize("crs", [None, "+proj=laea +lat_0=50 +lon_0=7"])
    def test_objects_of_an_unnamed_system_are_in_pixels(self, crs: str | None, tmp_path: Path) -> None:
        rasterio = pytest.importorskip("rasterio", reason="rasterio writes the GeoTIFF")
        path, array = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (3, 50, 60), np.uint8)
        with rasterio.open(
            path, "w", driver="GTiff", height=50, width=60, count=3, dtype="uint8", crs=crs,
            transform=rasterio.Affine(10, 0, 500_000, 0, -10, 4_200_000),
        ) as file:  # fmt: skip
            file.write(array)
        predictor = Predictor(unetzoo.create("unet", base_channels=2))
        assert predictor(path).geojson() == predictor(torch.from_numpy(array)).geojson()

    @pytest.mark.parametrize(
        "broken",
        [
            {33550: (0.0, 0.0, 0.0)},
            {33550: (10.0, float("nan"), 0.0)},
            {33922: (0.0,) * 12},
            {33922: 3.0},
            {34735: 7},
            {34735: (1, 1, 0, 2, 1024, 0, 1)},
            {34735: (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 34736, 1, 0)},
            {33550: None, 34264: (0.0,) * 16},
            {33550: None, 34264: (1.0,) * 16},
            {33550: "ten", 33922: None},
        ],
    )
    def test_broken_tags_place_nothing(self, broken: dict[int, Any]) -> None:
        whole = {33550: (10.0, 10.0, 0.0), 33922: (0.0, 0.0, 0.0, 5e5, 4e6, 0.0),
                 34735: (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32630)}  # fmt: skip
        tags = {**whole, **broken}
        read = [(code, 12, value) for code, value in tags.items() if value is not None]
        assert georeference(read) == {}
        assert georeference([(code, 12, value) for code, value in whole.items()]) == {
            "transform": (10, 0, 500_000, 0, -10, 4_000_000), "crs": "EPSG:32630",
        }  # fmt: skip


def write_tiff(path: Path, array: np.ndarray, **options: object) -> Path:
    tifffile = pytest.importorskip("tifffile", reason="tifffile writes the TIFF")
    tifffile.imwrite(path, array, **options)
    return path


def predict_by_rows(words: list[str]) -> None:
    """Run the command in another process, in which an image of this test is a large one."""
    Image.MAX_IMAGE_PIXELS = 10_000
    main(words)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


class TestByRows:
    @pytest.mark.parametrize("kind", ["tiled", "strips", "planar", "zarr", "zarr planar", "ome-zarr", "pyramid"])
    def test_a_image_is_read_as_it_is_in_memory(self, kind: str, tmp_path: Path) -> None:
        zarr = pytest.importorskip("zarr", reason="images by rows need zarr")
        array = noise(100, 130)
        planes = np.ascontiguousarray(array.transpose(2, 0, 1))
        path = tmp_path / ("a.zarr" if "zarr" in kind else "a.tif")
        match kind:
            case "tiled":
                write_tiff(path, array, tile=(32, 48), compression="zlib", photometric="rgb")
            case "strips":
                write_tiff(path, array, rowsperstrip=7, photometric="rgb")
            case "planar":
                write_tiff(path, planes, planarconfig="separate", photometric="rgb")
            case "zarr":
                zarr.create_array(path, data=array, chunks=(32, 32, 3))
            case "zarr planar":
                zarr.create_array(path, data=planes, chunks=(1, 32, 32))
            case "ome-zarr":
                group = zarr.open_group(path, mode="w")
                group.create_array("0", data=planes[None, :, None], chunks=(1, 1, 1, 32, 32))
                group.create_array("1", data=planes[None, :, None, ::2, ::2], chunks=(1, 1, 1, 32, 32))
                axes = [{"name": name} for name in "tczyx"]
                group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}]
            case "pyramid":
                tifffile = pytest.importorskip("tifffile")
                with tifffile.TiffWriter(path) as writer:
                    writer.write(array, subifds=1, tile=(32, 32), photometric="rgb")
                    writer.write(array[::2, ::2], subfiletype=1, tile=(32, 32), photometric="rgb")
        with StoredRows(path) as rows:
            assert (rows.height, rows.width) == (100, 130)
            assert (rows.rows(0, 100).numpy() == planes).all()
            assert (rows.rows(37, 61).numpy() == planes[:, 37:61]).all()

    @pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
    @pytest.mark.parametrize("ending", [".tif", ".zarr"])
    def test_the_mask_is_that_of_the_image_in_memory(self, ending: str, task: str, tmp_path: Path) -> None:
        zarr = pytest.importorskip("zarr", reason="images by rows need zarr")
        torch.manual_seed(0)
        network = unetzoo.create("unet", base_channels=4, num_classes=1 if task == "binary" else 3, task=task)
        predictor = Predictor(network, tile=64)
        array = noise(150, 130)
        write_tiff(tmp_path / "a.tif", array, tile=(32, 32), photometric="rgb")
        predictor.write_mask(tmp_path / "a.tif", tmp_path / f"m{ending}", progress=True)
        expected = predictor(array).mask.numpy()
        expected = expected if task == "multiclass" else expected * 255
        if ending == ".zarr":
            found = zarr.open(tmp_path / f"m{ending}", mode="r")[:]
        else:
            found = pytest.importorskip("tifffile").imread(tmp_path / f"m{ending}")
        assert found.shape == expected.shape
        assert (found == expected).all()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", f"m{ending}"]

    def test_the_command_takes_zarr_and_large_tiffs(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        zarr = pytest.importorskip("zarr", reason="images by rows need zarr")
        array = noise(96, 80)
        zarr.create_array(tmp_path / "in.zarr", data=array, chunks=(32, 32, 3))
        write_tiff(tmp_path / "large.tif", array, photometric="rgb")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        out = tmp_path / "masks"
        command = ["predict", str(model), str(tmp_path / "in.zarr"), str(tmp_path / "large.tif"), "--out", str(out)]
        assert main(command) == 0
        expected = Predictor(model)(array).mask.numpy() * 255
        assert (zarr.open(out / "in.zarr", mode="r")[:] == expected).all()
        assert (pytest.importorskip("tifffile").imread(out / "large.tif") == expected).all()
        assert main(command) == 0
        assert "2 there already" in capsys.readouterr().out
        assert main([*command, "--overwrite", "--probabilities"]) == 1
        assert re.search("by rows.*without probabilities", capsys.readouterr().err)
        assert main([*command, "--overwrite", "--overlay"]) == 0
        monkeypatch.undo()
        with Image.open(out / "overlays" / "large.png") as shown:
            found = torch.from_numpy(np.array(shown)).permute(2, 0, 1)
        whole = torch.from_numpy(array).permute(2, 0, 1)
        assert torch.equal(found, images.overlay(whole, torch.from_numpy(expected > 0)))

    def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("zarr", reason="images by rows need zarr")
        write_tiff(tmp_path / "a.tif", noise(1500, 70), tile=(32, 32), photometric="rgb")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)

        def command(out: str) -> list[str]:
            return ["predict", str(model), str(tmp_path / "a.tif"), "--tile", "64", "--out", str(tmp_path / out)]

        assert main(command("whole")) == 0
        note = tmp_path / "cut" / ".a.tif.partial" / "note.json"
        process = PROCESSES.Process(target=predict_by_rows, args=(command("cut"),))
        process.start()
        try:
            while not (note.exists() and json.loads(note.read_text(encoding="utf-8"))["rows"] > 200):
                assert process.is_alive(), "it was through before it was killed: give it a larger image"
                time.sleep(0.002)
        finally:
            process.kill()
            process.join()
        assert not (tmp_path / "cut" / "a.tif").exists()
        before = json.loads(note.read_text(encoding="utf-8"))["rows"]
        assert before < 1500
        mask = np.memmap(note.parent / "rows", np.uint8, "r+", shape=(before, 70))
        mask[10] = 77  # what is done is not done again
        mask.flush()
        del mask  # Windows deletes no file that is mapped
        assert main(command("cut")) == 0
        imread = pytest.importorskip("tifffile").imread
        found, expected = imread(tmp_path / "cut" / "a.tif"), imread(tmp_path / "whole" / "a.tif")
        assert (found[10] == 77).all()
        found[10] = expected[10]
        assert (found == expected).all()
        assert not note.parent.exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"II*\0 and no more", "cannot be read"), (b"", "cannot be read"), (b"text", "cannot be read")],
    )
    def test_damaged_files_are_one_error(self, content: bytes, message: str, tmp_path: Path) -> None:
        pytest.importorskip("zarr", reason="images by rows need zarr")
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.raises(unetzoo.InputError, match=message):
            StoredRows(tmp_path / "a.tif")

    def test_what_has_too_many_dimensions_is_refused(self, tmp_path: Path) -> None:
        zarr = pytest.importorskip("zarr", reason="images by rows need zarr")
        zarr.create_array(tmp_path / "a.zarr", data=np.zeros((2, 2, 8, 8), np.uint8))
        with pytest.raises(unetzoo.InputError, match="4 dimensions"):
            StoredRows(tmp_path / "a.zarr")
        zarr.create_array(tmp_path / "b.zarr", data=np.zeros((8, 8), np.float64))
        with pytest.raises(unetzoo.InputError, match="8 to 32 bits"):
            StoredRows(tmp_path / "b.zarr")
        zarr.open_group(tmp_path / "c.zarr", mode="w")
        with pytest.raises(unetzoo.InputError, match="without an OME-Zarr image"):
            StoredRows(tmp_path / "c.zarr")


def test_reading_and_writing_wait_for_one_another(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast images are read, no more than a few wait in memory."""
    for k in range(30):
        write(tmp_path / "in" / f"{k:02}.png", k, (16, 16))
    read, through, ahead = [], [], []
    plain = files._read

    def counted(job: files.Job) -> object:
        read.append(job)
        return plain(job)

    monkeypatch.setattr(files, "_read", counted)
    predictor = Predictor(model)
    ask = predictor._one

    def slow(source: object, progress: bool = False, planes: str | int | None = None) -> object:
        time.sleep(0.01)
        through.append(source)
        ahead.append(len(read) - len(through))
        return ask(source, progress, planes)

    monkeypatch.setattr(predictor, "_one", slow)
    jobs = files.find_jobs([tmp_path / "in"])
    report = files.predict_files(predictor, jobs, files.Outputs(tmp_path / "masks"), {})
    assert len(report.done) == 30
    assert 1 <= max(ahead) <= files.READ_AHEAD + 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="getrusage gives the peak of memory in KiB on Linux alone")
def test_thirty_thousand_pixels_square_in_two_gibibytes(model: Path, tmp_path: Path) -> None:
    """Draws an image of 2.5 GB, segments it, and reads the peak of the process's memory: some minutes."""
    zarr = pytest.importorskip("zarr", reason="images by rows need zarr")
    side = 30_000
    array = zarr.create_array(tmp_path / "a.zarr", shape=(side, side, 3), dtype="u1", chunks=(500, 500, 3))
    tile = np.tile(drawing.draw_nuclei(500, 500)[0].permute(1, 2, 0).numpy(), (1, side // 500, 1))
    for y in range(0, side, 500):
        array[y : y + 500] = tile
    code = (
        "import resource, sys\nfrom unetzoo.cli import main\nstatus = main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\nsys.exit(status)"
    )
    arguments = ["predict", str(model), str(tmp_path / "a.zarr"), "--tile", "1024", "--out", str(tmp_path / "masks")]
    begun = time.time()
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    peak = int(done.stdout.split()[-1])
    print(f"peak {peak / 2**30:.2f} GiB, {time.time() - begun:.0f} s")
    found = zarr.open(tmp_path / "masks" / "a.zarr", mode="r")
    assert found.shape == (side, side)
    expected = Predictor(model, tile=1024)(np.concatenate([tile[:, :4000]] * 6)).mask.numpy() * 255
    middle = (slice(200, 2500), slice(200, 3500))
    assert (found[middle] != expected[middle]).mean() < 1e-3  # other tiles, blended: pixels at the threshold
    assert peak < 2 * 2**30


def test_wildcards_are_expanded_where_the_shell_does_not(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.png", "c.jpg", "deep/er/d.png", "[x].png"):
        write(tmp_path / "in" / name)
    assert [job.name for job in files.find_jobs(["in/?.png"])] == ["a.png", "b.png"]
    assert [job.name for job in files.find_jobs([tmp_path / "in" / "**" / "d.png"])] == ["d.png"]
    assert [job.name for job in files.find_jobs(["in/[x].png"])] == ["[x].png"]  # a file's own name comes first
    with pytest.raises(InputError, match=r"'in/\*\.bmp': .*no such file"):
        files.find_jobs(["in/*.bmp"])
    assert main(["predict", str(model), "in/*.png", "--out", "masks"]) == 0
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == ["[x].png", "a.png", "b.png"]


@pytest.mark.parametrize(
    ("axes", "planes"),
    [("QYX", "channels"), ("QYX", 2), ("CYX", None), ("YXS", None), ("IYX", "first"), ("IYX", "max"), ("SYX", None)],
)
def test_a_tiff_read_by_rows_is_the_one_read_whole(axes: str, planes: str | int | None, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile writes the TIFF")
    shape = {"Y": 20, "X": 24, "S": 3, "C": 3, "Q": 3, "I": 2}
    array = np.random.default_rng(0).integers(0, 60_000, [shape[letter] for letter in axes], np.uint16)
    options = {"photometric": "rgb" if "S" in axes else "minisblack"}
    if axes == "SYX":
        options["planarconfig"] = "separate"
    if axes in ("CYX", "IYX"):
        tifffile.imwrite(tmp_path / "a.tif", array, metadata={"axes": axes}, ome=axes == "CYX", **options)
    else:
        tifffile.imwrite(tmp_path / "a.tif", array, metadata=None if "S" in axes else {}, **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.series[0].axes == axes
    with StoredRows(tmp_path / "a.tif", planes) as source:
        rows = torch.cat([source.rows(0, 7), source.rows(7, 20)], dim=1)
    whole = images.read_image(tmp_path / "a.tif", planes)
    assert torch.equal(rows, whole)
    first = array[..., 0] if axes == "YXS" else array.max(0) if planes == "max" else array[2 if planes == 2 else 0]
    assert torch.equal(whole[0].int(), torch.from_numpy(first.astype(np.int32)))


def test_a_mask_by_rows_has_an_ending_that_can_be_written_by_rows(model: Path, tmp_path: Path) -> None:
    predictor, source = Predictor(model), LoadedImage(torch.zeros(3, 9, 9, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"'.*mask\.png': \.tif, \.tiff, \.zarr are possible"):
        predictor.write_rows(source, tmp_path / "mask.png", {})
    assert not (tmp_path / "mask.png.partial").exists()


def test_a_resumed_mask_keeps_its_grid(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free memory, which says how large tiles are, is another at every look; the tiles are those of the first."""
    write_tiff(tmp_path / "a.tif", noise(300, 80), photometric="rgb")
    predictor, put, parts = Predictor(model), PartialMask.put, []
    each = reach.memory_of_pixel(predictor.networks.members[0])

    def free(*sides: int) -> None:
        """Let tiles of these sides be what fits, one after the other."""
        memory = itertools.cycle([int(2 * each * (side + 1) ** 2) for side in sides])
        monkeypatch.setattr(layout, "free_memory", lambda device: next(memory))

    def interrupted(self: PartialMask, part: torch.Tensor, **options: bool) -> None:
        put(self, part, **options)
        parts.append(part)
        if len(parts) == 2:
            raise KeyboardInterrupt

    free(64)
    predictor.write_mask(tmp_path / "a.tif", tmp_path / "undisturbed.tif")
    free(64, 96, 48, 112, 80)
    monkeypatch.setattr(PartialMask, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predictor.write_mask(tmp_path / "a.tif", tmp_path / "mask.tif")
    free(96, 48, 112, 80)
    predictor.write_mask(tmp_path / "a.tif", tmp_path / "mask.tif")
    assert (tmp_path / "mask.tif").read_bytes() == (tmp_path / "undisturbed.tif").read_bytes()


@pytest.mark.parametrize("damage", ["text", "no grid", "a grid of other rows", "rows that no tile ends at"])
def test_a_damaged_note_begins_anew(damage: str, model: Path, tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(150, 80), photometric="rgb")
    predictor = Predictor(model, tile=64)
    with StoredRows(tmp_path / "a.tif") as rows:
        predictor.write_rows(rows, tmp_path / "mask.tif", {"weights": "a"})
        mask = begun(rows, tmp_path / "mask.tif", predictor.config, {"weights": "a"}, lambda: predictor.grid(rows))
        mask.put(torch.ones(mask.grid.down.starts[1], 80, dtype=torch.uint8))
        note = mask.folder / "note.json"
        record = json.loads(note.read_text(encoding="utf-8"))
        match damage:
            case "no grid":
                del record["grid"]
            case "a grid of other rows":
                record["grid"]["down"]["starts"] = [0, 32, 96]
            case "rows that no tile ends at":
                record["rows"] -= 1
        note.write_text("{" if damage == "text" else json.dumps(record), encoding="utf-8")
        predictor.write_rows(rows, tmp_path / "again.tif", {"weights": "a"})
        predictor.write_rows(rows, tmp_path / "mask.tif", {"weights": "a"})
    assert (tmp_path / "mask.tif").read_bytes() == (tmp_path / "again.tif").read_bytes()


@pytest.mark.parametrize("second", ["a.tif", "b.tif"])
def test_a_mask_by_rows_goes_on_after_a_stop_with_the_same_image_alone(
    second: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, put, written = Predictor(model, tile=64), PartialMask.put, []
    for name in ("a.tif", "b.tif"):
        write_tiff(tmp_path / name, noise(150, 80) ^ (255 if name == "b.tif" else 0), photometric="rgb")

    def counted(self: PartialMask, part: torch.Tensor, **options: bool) -> None:
        if len(written) == 1:
            written.append(0)
            raise KeyboardInterrupt
        written.append(part.shape[0])
        put(self, part, **options)

    monkeypatch.setattr(PartialMask, "put", counted)
    with pytest.raises(KeyboardInterrupt):
        predictor.write_mask(tmp_path / "a.tif", tmp_path / "mask.tif")
    predictor.write_mask(tmp_path / second, tmp_path / "mask.tif")
    assert sum(written) == (150 if second == "a.tif" else 150 + written[0])
    assert 0 < written[0] < 150
    expected = predictor(tmp_path / second).mask.numpy() * 255
    assert (np.asarray(Image.open(tmp_path / "mask.tif")) == expected).all()


def test_what_cannot_be_written_is_a_write_error(model: Path, tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(20, 20), photometric="rgb")
    predictor, inside = Predictor(model), tmp_path / "a.tif" / "inside"
    found = predictor(tmp_path / "a.tif")
    for work in (
        lambda: predictor.write_mask(tmp_path / "a.tif", inside / "m.tif"),
        lambda: found.save(inside / "m.png"),
        lambda: found.overlay(inside / "o.png"),
        lambda: found.save_probabilities(inside / "p.npy"),
        lambda: files.predict_files(predictor, [], files.Outputs(inside), {}),
    ):
        with pytest.raises(WriteError):
            work()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", model.name]


def test_a_mask_by_rows_fills_no_holes(model: Path, tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(20, 20), photometric="rgb")
    with pytest.raises(ConfigError, match=r"holes=20: .*by rows"):
        Predictor(model, holes=20).write_mask(tmp_path / "a.tif", tmp_path / "mask.tif")
    assert [path.name for path in tmp_path.iterdir() if path != model] == ["a.tif"]

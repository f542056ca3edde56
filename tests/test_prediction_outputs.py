"""What is written of images: never of two in one file, never over one another, never half of it taken for all."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import saved
from PIL import Image, PngImagePlugin
from test_prediction_files import mask_at, noise, write, write_tiff

import unetzoo
from unetzoo import ConfigError, InputError, Predictor, images
from unetzoo.cli import main
from unetzoo.data import labels, list_samples, listing, masks, plain_folders
from unetzoo.prediction.files import Job, Outputs, find_jobs, predict_files
from unetzoo.prediction.outputs import check_outputs, mask_paths
from unetzoo.prediction.partial import PartialMask
from unetzoo.prediction.stored import StoredRows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "model.safetensors")


def store(path: Path, array: np.ndarray) -> Path:
    """Write an image that is read by rows, a TIFF or a zarr array, in the place of another."""
    if path.suffix == ".tif":
        return write_tiff(path, array, photometric="rgb")
    zarr = pytest.importorskip("zarr", reason="zarr writes the array")
    shutil.rmtree(path, ignore_errors=True)
    zarr.create_array(path, data=array, chunks=(32, 32, 3))
    return path


def stored(path: Path) -> np.ndarray:
    if path.suffix == ".tif":
        return pytest.importorskip("tifffile").imread(path)
    return pytest.importorskip("zarr").open(path, mode="r")[:]


def software(path: Path) -> str:
    with Image.open(path) as file:
        return file.info["Software"]


class TestIdentity:
    """No mask is of two images, and none of an image that is there no more."""

    @pytest.mark.parametrize("door", ["write_mask", "predict"])
    @pytest.mark.parametrize("kind", [".tif", ".zarr"])
    def test_a_mask_begun_of_another_image_begins_anew(
        self, kind: str, door: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("zarr", reason="images by rows need zarr")
        path, out, put, parts = tmp_path / f"a{kind}", tmp_path / "masks", PartialMask.put, []
        store(path, noise(150, 80))
        predictor = Predictor(model, tile=64)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)

        def go() -> None:
            if door == "write_mask":
                predictor.write_mask(path, out / path.name)
            else:
                assert main(["predict", str(model), str(path), "--tile", "64", "--out", str(out)]) == 0

        def interrupted(self: PartialMask, part: torch.Tensor, **more: bool) -> None:
            put(self, part, **more)
            parts.append(part)
            if len(parts) == 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(PartialMask, "put", interrupted)
        if door == "write_mask":
            with pytest.raises(KeyboardInterrupt):
                go()
        else:
            assert main(["predict", str(model), str(path), "--tile", "64", "--out", str(out)]) == 130
        assert (out / f".a{kind}.partial" / "note.json").exists()
        other = np.ascontiguousarray(noise(150, 80)[::-1])
        store(path, other)
        if kind == ".tif":
            os.utime(path, (1, 1))  # older than what it replaced
        go()
        assert (stored(out / path.name) == predictor(other).mask.numpy() * 255).all()

    @pytest.mark.parametrize("kind", [".png", ".tif", ".zarr"])
    def test_a_replaced_image_is_done_again(
        self, kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        path, out = tmp_path / "in" / f"a{kind}", tmp_path / "masks"
        path.parent.mkdir()
        for seed, time in ((1, None), (2, 1)):
            array = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
            if kind == ".zarr":
                store(path, array)
            else:
                Image.fromarray(array).save(path)
            if time is not None and kind != ".zarr":
                os.utime(path, (time, time))
            assert main(["predict", str(model), str(path.parent), "--out", str(out)]) == 0
            assert capsys.readouterr().out == f"masks in {out}: 1 segmented\n"
            found = stored(out / path.name) if kind == ".zarr" else mask_at(out / path.name)
            assert (found == Predictor(model)(array).mask.numpy() * 255).all()
        assert main(["predict", str(model), str(path.parent), "--out", str(out)]) == 0
        assert capsys.readouterr().out == f"masks in {out}: 0 segmented, 1 there already\n"

    @pytest.mark.parametrize("kind", [".tif", ".zarr"])
    def test_another_image_of_one_name_is_refused(
        self, kind: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        """By rows too: a mask beyond memory says of which image it is."""
        pytest.importorskip("zarr", reason="images by rows need zarr")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        one, two, out = tmp_path / "1" / f"a{kind}", tmp_path / "2" / f"a{kind}", tmp_path / "masks"
        for path in (one, two):
            path.parent.mkdir()
            store(path, noise(64, 48))
        assert main(["predict", str(model), str(one), "--out", str(out)]) == 0
        before = stored(out / one.name)
        capsys.readouterr()
        assert main(["predict", str(model), str(two), "--out", str(out)]) == 1
        assert re.search(rf"masks.*a\{kind} .*another image.*--out.*--overwrite", capsys.readouterr().err)
        assert (stored(out / one.name) == before).all()

    def test_an_image_changed_while_it_is_read_is_refused(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, put = store(tmp_path / "a.zarr", noise(150, 80)), PartialMask.put

        def changing(self: PartialMask, part: torch.Tensor, **more: bool) -> None:
            put(self, part, **more)
            store(path, np.ascontiguousarray(noise(150, 80)[::-1]))

        predictor = Predictor(model, tile=64)
        with monkeypatch.context() as patched:
            patched.setattr(PartialMask, "put", changing)
            with pytest.raises(InputError, match=r"a\.zarr' was changed"):
                predictor.write_mask(path, tmp_path / "mask.zarr")
        assert not (tmp_path / "mask.zarr").exists()
        predictor.write_mask(path, tmp_path / "mask.zarr")
        expected = predictor(np.ascontiguousarray(noise(150, 80)[::-1])).mask.numpy() * 255
        assert (stored(tmp_path / "mask.zarr") == expected).all()

    def test_rows_that_are_no_file_s_have_an_identity(self, tmp_path: Path) -> None:
        from unetzoo.prediction.inputs import LoadedImage

        image = torch.zeros(3, 40, 30, dtype=torch.uint8)
        other = image.clone()
        other[2, 39, 29] = 1
        assert LoadedImage(image).identity == LoadedImage(image.clone()).identity
        assert len({LoadedImage(x).identity for x in (image, other, image.int(), image[:1], image[:, :, :29])}) == 5


class TestDone:
    """What is there is done if it says so itself, is whole, and all of it is there."""

    @pytest.fixture
    def command(self, model: Path, tmp_path: Path) -> list[str]:
        write(tmp_path / "in" / "a.png")
        return ["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "masks")]

    def test_what_is_cut_off_is_written_again(self, model: Path, tmp_path: Path) -> None:
        pytest.importorskip("scipy", reason="objects need SciPy")
        for name in ("a.png", "b.tif"):
            write(tmp_path / "in" / name, ord(name[0]))
        predictor, jobs = Predictor(model), find_jobs([tmp_path / "in"])
        outputs = Outputs(tmp_path / "masks", overlays=True, probabilities=True, formats=("geojson",))
        assert len(predict_files(predictor, jobs, outputs, {}).done) == 2
        for name in ("a.png", "b.tif", "overlays/a.png", "probabilities/a.npy", "geojson/a.geojson", "overlays/b.png"):
            path = outputs.folder / name
            whole = path.read_bytes()
            for left in (0, len(whole) // 2, -200):
                path.write_bytes(whole[:left])
                report = predict_files(predictor, jobs, outputs, {})
                assert [done.stem for done in report.done] == [path.stem], (name, left)
                assert path.read_bytes() == whole
        assert len(predict_files(predictor, jobs, outputs, {}).skipped) == 2

    def test_what_was_written_of_an_earlier_image_is_written_again(self, command: list[str], tmp_path: Path) -> None:
        assert main([*command, "--probabilities"]) == 0
        image = write(tmp_path / "in" / "a.png", 7)
        assert main(command) == 0  # the mask alone
        assert main([*command, "--probabilities"]) == 0
        expected = Predictor(command[1])(image).probabilities.numpy()
        assert (np.load(tmp_path / "masks" / "probabilities" / "a.npy") == expected).all()

    def test_masks_of_the_version_before_are_made_again(
        self, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        """As they say where their image lies, and not which it is."""
        assert main(command) == 0
        mask = tmp_path / "masks" / "a.png"
        before, expected = software(mask), mask_at(mask)
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Software", " ".join(before.split()[:2]))
        Image.fromarray(255 - expected).save(mask, pnginfo=texts)
        capsys.readouterr()
        assert main(command) == 0
        assert "1 segmented" in capsys.readouterr().out
        assert software(mask) == before
        assert (mask_at(mask) == expected).all()

    @pytest.mark.parametrize("more", [[], ["--overlay"]])
    @pytest.mark.parametrize("kind", ["png", "tif"])
    def test_a_corrected_mask_is_not_written_over(
        self, kind: str, more: list[str], command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        command += more
        (tmp_path / "in" / "a.png").unlink()
        write(tmp_path / "in" / f"a.{kind}")
        assert main(command) == 0
        mask = tmp_path / "masks" / f"a.{kind}"
        Image.fromarray(255 - mask_at(mask)).save(mask)
        before = mask.read_bytes()
        capsys.readouterr()
        assert main(command) == 0
        assert "1 there already (1 corrected by hand)" in capsys.readouterr().out
        assert mask.read_bytes() == before
        assert main([*command, "--probabilities"]) == 1
        assert re.search(rf"a\.{kind} .*corrected.*a\.npy is missing.*--overwrite", capsys.readouterr().err)
        assert mask.read_bytes() == before
        assert main([*command, "--overwrite"]) == 0
        assert mask.read_bytes() != before

    @pytest.mark.parametrize("record", ["[]", "7", "{", '{"tile": NaN}', "[" * 100_000])
    def test_a_record_that_is_none_is_an_error(
        self, record: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        assert main(command) == 0
        (tmp_path / "masks" / ".unetzoo.json").write_text(record, encoding="utf-8")
        assert main(command) == 2
        assert re.search(r"unetzoo\.json cannot be read.*--overwrite", capsys.readouterr().err)
        assert main([*command, "--overwrite"]) == 0


class TestPlaces:
    """Two things that would go to one place are found before any work."""

    @pytest.mark.parametrize(
        ("names", "more", "message"),
        [
            (["x.png", "overlays/x.png"], ["--overlay"], r"overlays of .*x\.png.* mask of .*overlays"),
            (["X.png", "x.png"], [], "both have the mask"),
            (["é.png", unicodedata.normalize("NFD", "é.png")], [], "both have the mask"),
            (["x.bmp", "x.png/y.bmp"], [], r"both have .*x\.png/y\.png"),
            (["x.png/y.bmp", "x.png.bmp", "x.bmp"], [], "both"),
        ],
    )
    def test_images_whose_files_would_collide(
        self, names: list[str], more: list[str], message: str, model: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture,
    ) -> None:  # fmt: skip
        for k, name in enumerate(names):
            write(tmp_path / "in" / name, k)
        if len(find_jobs([tmp_path / "in"])) < len(names):
            pytest.skip("these names are one here")
        more = [*more, "--out", str(tmp_path / "masks")]
        assert main(["predict", str(model), str(tmp_path / "in"), *more]) == 2
        said = capsys.readouterr().err
        assert re.search(message, said)
        assert "--out" in said
        assert not (tmp_path / "masks").exists()

    def test_what_does_not_collide_is_written(self, model: Path, tmp_path: Path) -> None:
        for k, name in enumerate(["a/x.png", "a/overlays/x.png"]):
            write(tmp_path / "in" / name, k)
        out = tmp_path / "masks"
        assert main(["predict", str(model), str(tmp_path / "in"), "--out", str(out)]) == 0
        for name in ("a/x.png", "a/overlays/x.png"):
            assert (mask_at(out / name) == Predictor(model)(tmp_path / "in" / name).mask.numpy() * 255).all()

    def test_an_overlay_is_not_written_over_a_mask_of_an_earlier_run(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        write(tmp_path / "1" / "overlays" / "x.png", 1)
        write(tmp_path / "2" / "x.png", 2)
        out = tmp_path / "masks"
        assert main(["predict", str(model), str(tmp_path / "1"), "--out", str(out)]) == 0
        before = (out / "overlays" / "x.png").read_bytes()
        capsys.readouterr()
        assert main(["predict", str(model), str(tmp_path / "2"), "--out", str(out), "--overlay"]) == 1
        assert re.search(r"overlays.*x\.png .*another image", capsys.readouterr().err)
        assert (out / "overlays" / "x.png").read_bytes() == before

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["yolo/data.yaml/a.png"], r"mask of .*data\.yaml/a\.png.*description of all images"),
            (["a.tif", "labels/a.tif"], r"labels of .*a\.tif and the mask of .*labels/a\.tif"),
        ],
    )
    def test_annotations_are_written_over_no_mask(
        self, names: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        pytest.importorskip("scipy", reason="objects need SciPy")
        for name in names:
            write(tmp_path / "in" / name)
        command = ["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "masks")]
        assert main([*command, "--write", "coco,yolo,labels"]) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not (tmp_path / "masks").exists()

    def test_no_mask_is_written_over_its_image(self, model: Path, tmp_path: Path) -> None:
        image = write(tmp_path / "masks" / "a.png")
        jobs = find_jobs([image])
        with pytest.raises(InputError, match=r"would overwrite the image .*a\.png"):
            check_outputs(jobs, Outputs(tmp_path / "masks"), Predictor(model).config)

    @pytest.mark.parametrize(
        "names",
        [
            ("a/b", "a_b", "a b"),
            ("cat", "cat", "dog"),
            ("Cat", "cat", "CAT"),
            ("é", unicodedata.normalize("NFD", "é"), "e"),
            ("class_1", "class_2", "class_0"),
            ("class_1", "x", "CLASS_1"),
            ("overlays", "labelme", "probabilities"),
            ("cat ", "cat", "cat."),
            ("straße", "STRASSE", "x" * 300),
            ("..", "", "\x1b[31m"),
        ],
    )
    def test_every_class_has_a_folder_of_its_own(self, names: tuple[str, ...], tmp_path: Path) -> None:
        model = unetzoo.create("unet", base_channels=4, num_classes=3, task="multilabel", class_names=names)
        paths = mask_paths(tmp_path / "x.png", model.config)
        folders = [unicodedata.normalize("NFC", path.parent.name).casefold() for path in paths]
        assert len(set(folders)) == 3
        assert not set(folders) & {"overlays", "probabilities", "labelme"}
        found = Predictor(model)(torch.from_numpy(noise(16, 16)).permute(2, 0, 1))
        found.save(tmp_path / "x.png")
        for path, layer in zip(paths, found.mask, strict=True):
            assert (mask_at(path) == layer.numpy() * 255).all()

    def test_of_many_conflicts_some_are_listed(self, model: Path, tmp_path: Path) -> None:
        jobs = [Job(tmp_path / str(k) / "a.png", "a.png", "a.png") for k in range(30)]
        with pytest.raises(InputError) as error:
            check_outputs(jobs, Outputs(tmp_path / "masks"), Predictor(model).config)
        assert str(error.value).count("\n") == 11
        assert str(error.value).endswith("and 19 more")


class TestCoco:
    def test_names_keep_their_folders(self, model: Path, tmp_path: Path) -> None:
        pytest.importorskip("scipy", reason="objects need SciPy")
        for k, name in enumerate(["a/x.png", "b/x.jpg", "y.bmp"]):
            write(tmp_path / "in" / name, k)
        write(tmp_path / "single.png", 5)
        command = ["predict", str(model), str(tmp_path / "in"), str(tmp_path / "single.png")]
        assert main([*command, "--out", str(tmp_path / "masks"), "--write", "coco"]) == 0
        record = json.loads((tmp_path / "masks" / "coco" / "annotations.json").read_text(encoding="utf-8"))
        assert [entry["file_name"] for entry in record["images"]] == ["y.bmp", "a/x.png", "b/x.jpg", "single.png"]
        for entry in record["images"][:3]:
            area = sum(a["area"] for a in record["annotations"] if a["image_id"] == entry["id"])
            assert area == int(Predictor(model)(tmp_path / "in" / entry["file_name"]).mask.sum())

    def test_a_zarr_array_is_refused_before_it_is_worked_on(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        pytest.importorskip("scipy", reason="objects need SciPy")
        write(tmp_path / "in" / "a.png")
        store(tmp_path / "in" / "b.zarr", noise(40, 40))
        command = ["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "masks")]
        coco = ["--write", "coco"]
        monkeypatch.setattr(Predictor, "write_rows", lambda *_: pytest.fail("it was worked on"))
        assert main([*command, *coco]) == 1
        assert re.search(r"b\.zarr: .*by rows, without coco", capsys.readouterr().err)
        monkeypatch.undo()
        record = json.loads((tmp_path / "masks" / "coco" / "annotations.json").read_text(encoding="utf-8"))
        assert [entry["file_name"] for entry in record["images"]] == ["a.png"]
        assert main(command) == 0
        capsys.readouterr()
        assert main([*command, *coco]) == 1  # whose mask is there
        assert re.search(r"b\.zarr: .*by rows, without coco", capsys.readouterr().err)


class TestManyClasses:
    """More than 256 classes have 16 bits."""

    @pytest.fixture
    def many(self, tmp_path: Path) -> Path:
        torch.manual_seed(0)
        network = unetzoo.create("unet", base_channels=4, num_classes=300, task="multiclass")
        with torch.no_grad():
            network.head.conv.weight[270:].mul_(20)
        unetzoo.save(network, tmp_path / "many.safetensors")
        return tmp_path / "many.safetensors"

    @pytest.mark.parametrize("kind", [".png", ".tif"])
    def test_masks_are_read_back_as_they_are(self, kind: str, many: Path, tmp_path: Path) -> None:
        pytest.importorskip("scipy", reason="objects need SciPy")
        skimage = pytest.importorskip("skimage.io", reason="skimage reads the mask")
        image = write(tmp_path / "in" / f"a{kind}", size=(24, 32))
        out = tmp_path / "masks"
        asked = ["--overlay", "--write", "geojson,coco"]
        assert main(["predict", str(many), str(image), "--out", str(out), *asked]) == 0
        found = Predictor(many)(image)
        assert found.mask.max() > 256
        assert (skimage.imread(out / f"a{kind}") == found.mask.numpy()).all()
        assert torch.equal(images.read_values(out / f"a{kind}")[0].int(), found.mask.int())
        target = masks.read_target(
            listing.Sample("a", image, out / f"a{kind}"), labels.Labels(task="multiclass", num_classes=300), (24, 32)
        )
        assert torch.equal(target, found.mask.long())
        record = json.loads((out / "coco" / "annotations.json").read_text(encoding="utf-8"))
        kinds, areas = zip(*((a["category_id"], a["area"]) for a in record["annotations"]), strict=True)
        expected = np.bincount(found.mask.numpy().ravel())
        assert (np.bincount(kinds, areas)[1:] == expected[1:]).all()
        outlines = json.loads((out / "geojson" / "a.geojson").read_text(encoding="utf-8"))
        assert len(outlines["features"]) == len(record["annotations"])
        assert mask_at(out / "overlays" / "a.png").shape == (24, 32, 3)
        assert main(["predict", str(many), str(image), "--out", str(out), *asked]) == 0

    @pytest.mark.parametrize("kind", [".tif", ".zarr"])
    def test_by_rows_too(self, kind: str, many: Path, tmp_path: Path) -> None:
        pytest.importorskip("zarr", reason="images by rows need zarr")
        path = store(tmp_path / f"a{kind}", noise(40, 24))
        predictor = Predictor(many, tile=32)
        predictor.write_mask(path, tmp_path / f"mask{kind}")
        found = stored(tmp_path / f"mask{kind}")
        assert found.dtype == np.uint16
        assert (found == predictor(noise(40, 24)).mask.numpy()).all()

    def test_more_than_16_bits_are_no_png(self, tmp_path: Path) -> None:
        from unetzoo.prediction.results import Prediction

        model = unetzoo.create("unet", base_channels=1, num_classes=70_000, task="multiclass")
        mask = torch.tensor([[0, 69_999]], dtype=torch.int32)
        found = Prediction(torch.zeros(0, 1, 2), mask, torch.zeros(3, 1, 2), model.config)
        with pytest.raises(InputError, match=r"70000 classes .*give \.tif"):
            found.save(tmp_path / "a.png")
        found.save(tmp_path / "a.tif")
        assert images.read_values(tmp_path / "a.tif").tolist() == [[[0, 69_999]]]


@pytest.mark.parametrize(
    "bad",
    ["empty", "no metadata", "text", "axes", "long axes", "no axes", "no pixels", "attributes", "one axis", "chunks"],
)
def test_a_bad_zarr_stops_nothing(bad: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr writes the array")
    path = tmp_path / "in" / "b.zarr"
    path.mkdir(parents=True)
    write(tmp_path / "in" / "a.png")
    write(tmp_path / "in" / "c.png")
    match bad:
        case "no metadata":
            (path / "c").mkdir()
        case "text":
            (path / "zarr.json").write_text("text", encoding="utf-8")
        case "axes" | "long axes" | "no axes":
            group = zarr.open_group(path, mode="w")
            group.create_array("0", data=noise(16, 16), chunks=(8, 8, 3))
            axes = {"axes": [{"name": name} for name in "tcz"]} if bad == "axes" else {}
            axes = {"axes": [{"name": name} for name in "tczyx"]} if bad == "long axes" else axes
            group.attrs["multiscales"] = [{**axes, "datasets": [{"path": "0"}]}]
        case "attributes":
            zarr.open_group(path, mode="w").attrs["ome"] = [7]
        case "no pixels":
            zarr.create_array(path, shape=(0, 16, 3), chunks=(8, 8, 3), dtype="u1")
        case "one axis":
            zarr.create_array(path, data=np.zeros(8, np.uint8))
        case "chunks":
            zarr.create_array(path, data=noise(16, 16), chunks=(8, 8, 3))
            for chunk in (path / "c").rglob("*"):
                if chunk.is_file():
                    chunk.write_bytes(b"no chunk")
    assert main(["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "masks")]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"masks in {tmp_path / 'masks'}: 2 segmented, 1 failed\n"
    assert printed.err.count("\n") == 1
    assert "b.zarr: " in printed.err
    if bad != "chunks":
        with pytest.raises(InputError):
            StoredRows(path)


def test_a_disk_that_is_full_leaves_nothing_that_is_half(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file the disk is full at: what is there after is whole, and the next run does the rest."""
    import errno

    write(tmp_path / "in" / "a.png")
    predictor, outputs = Predictor(model), Outputs(tmp_path / "masks", overlays=True, probabilities=True)
    jobs, fsync = find_jobs([tmp_path / "in"]), os.fsync
    predict_files(predictor, jobs, outputs, {})
    whole = {path: path.read_bytes() for path in outputs.folder.rglob("*.*") if path.is_file()}
    for full_at in range(2, 5):  # the record comes first
        shutil.rmtree(outputs.folder)
        calls = []

        def full(handle: int, calls: list[int] = calls, full_at: int = full_at) -> None:
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                calls.append(handle)
            if len(calls) == full_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(handle)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            report = predict_files(predictor, jobs, outputs, {})
        assert list(report.failed) == [tmp_path / "in" / "a.png"]
        assert all(path.read_bytes() == whole[path] for path in outputs.folder.rglob("*.*") if path.is_file())
        assert len(predict_files(predictor, jobs, outputs, {}).done) == 1
        assert {path: path.read_bytes() for path in outputs.folder.rglob("*.*") if path.is_file()} == whole


class TestConverted:
    """``data convert`` writes files under names too."""

    @pytest.mark.parametrize("ignore", [None, 299])
    def test_more_than_255_classes_have_16_bits(self, ignore: int | None, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(0, 300, (20, 24), np.uint16)
        values[0] = 299
        write(tmp_path / "in" / "images" / "a.png", size=(20, 24))
        (tmp_path / "in" / "masks").mkdir()
        Image.fromarray(values).save(tmp_path / "in" / "masks" / "a.png")
        meaning = labels.Labels(task="multiclass", num_classes=300 if ignore is None else 299, ignore=ignore)
        written = plain_folders.convert(tmp_path / "in", tmp_path / "out", meaning)
        found = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png"))
        assert (found == np.where(values == 299, 65535, values) if ignore else found == values).all()
        (sample,) = list_samples(tmp_path / "out", written).samples[""]
        target = masks.read_target(sample, written, (20, 24)).numpy()
        assert (target[values < 299] == values[values < 299]).all()
        assert written.ignore == (None if ignore is None else 65535)

    def test_names_that_are_one_on_some_systems_are_refused(self, tmp_path: Path) -> None:
        for name in ("X", "x"):
            write(tmp_path / "in" / "images" / f"{name}.png")
            write(tmp_path / "in" / "masks" / f"{name}.png", mode="1")
        if len(list((tmp_path / "in" / "images").iterdir())) < 2:
            pytest.skip("these names are one here")
        with pytest.raises(ConfigError, match=r"'/X' and '/x': .*names are the same"):
            plain_folders.convert(tmp_path / "in", tmp_path / "out", labels.Labels())
        assert not (tmp_path / "out").exists()

    def test_so_are_classes(self, tmp_path: Path) -> None:
        write(tmp_path / "in" / "images" / "a.png", size=(8, 8))
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / "images" / "a.png")
        (tmp_path / "in" / "masks").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / "masks" / "a.png")
        meaning = labels.Labels(task="multilabel", num_classes=3, class_names=("Cat", "cat", "dog"))
        with pytest.raises(ConfigError, match=r"classes 'Cat' and 'cat': .*names are the same"):
            plain_folders.convert(tmp_path / "in", tmp_path / "out", meaning)

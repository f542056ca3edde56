"""Objects written for other tools: the very pixels come back, read by independent libraries and by unetzoo."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from drawn import saved, small
from PIL import Image
from test_prediction_files import noise, write

import unetzoo
from unetzoo import ConfigError, InputError, Predictor, data, images, objects
from unetzoo.cli import main
from unetzoo.data import annotations, masks
from unetzoo.objects import WRITERS, Annotated, Instances
from unetzoo.objects.bridging import bridged
from unetzoo.prediction.results import Prediction

pytest.importorskip("scipy", reason="objects need SciPy")
# Of pycocotools itself.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
draw = pytest.importorskip("skimage.draw", reason="skimage fills the polygons")

NAMES = ['née "β" #1: x', "it's, 核"]
FORMATS = ["coco", "geojson", "labelme", "labels", "nifti", "rois", "yolo"]
NEEDED = {"nifti": "nibabel", "rois": "roifile"}


def drawn(*rows: str) -> np.ndarray:
    return np.array([[sign != "." for sign in row] for row in rows], np.uint8)


def dots(side: int) -> np.ndarray:
    plane = np.zeros((2 * side, 2 * side), np.uint8)
    plane[::2, ::2] = 1
    return plane


MASKS = {
    "none": drawn("...", "..."),
    "one pixel": drawn("#"),
    "pixels at the border": drawn("#.#.#", ".....", "#...#", ".....", "#.#.#"),
    "corners": drawn("##..##", "##..##", "..##..", "#.##.#", ".#..#."),
    "a hole": drawn("#####", "#...#", "#.#.#", "#...#", "#####"),
    "holes that touch": drawn("######", "#.####", "##.###", "#.#..#", "######"),
    "a hole open at a corner": drawn("####.", "#..#.", "#..#.", "####.", "....#"),
    "an island touching its hole": drawn("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "##....#", "#######"),
    "noise": (np.random.default_rng(0).random((23, 37)) < 0.55).astype(np.uint8),
    "thin": (np.random.default_rng(1).random((64, 3)) < 0.5).astype(np.uint8),
    "7": np.kron(drawn("#.#.#.#", ".......", "#.#.#.."), np.ones((4, 5), np.uint8)),
    "3,025": dots(55),
}


def found_in(mask: np.ndarray, task: str = "binary", classes: int = 1) -> Instances:
    return objects.instances(torch.from_numpy(mask), task, classes)


def content(kind: str, found: Instances, names: list[str] | None = None) -> bytes:
    return b"".join(WRITERS[kind].pieces([Annotated(found, names, "a.png", "a.png")]))


def each(found: Instances) -> list[np.ndarray]:
    """Return the pixels of each object."""
    plane = found.labels.numpy()
    return [
        (plane[kind] if found.task == "multilabel" else plane) == k for k, kind in enumerate(found.classes.tolist(), 1)
    ]


def inside(rings: list[list[list[float]]], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centres lie in polygons, as scikit-image sees it, by the even-odd rule."""
    plane = np.zeros(size, bool)
    for ring in rings:
        y, x = draw.polygon(np.array(ring)[:, 1] - 0.5, np.array(ring)[:, 0] - 0.5, size)
        plane[y, x] ^= True
    return plane


# Readers that know nothing of unetzoo: bytes and size → the pixels of each object, and its class


def coco(path: Path, size: tuple[int, int]) -> Iterator[tuple[np.ndarray, str]]:
    found = pytest.importorskip("pycocotools.coco", reason="pycocotools reads the file").COCO(str(path))
    for one in found.loadAnns(found.getAnnIds()):
        yield found.annToMask(one) > 0, found.loadCats(one["category_id"])[0]["name"]


def geojson(path: Path, size: tuple[int, int]) -> Iterator[tuple[np.ndarray, str]]:
    for one in json.loads(path.read_text(encoding="utf-8"))["features"]:
        rings = one["geometry"]["coordinates"]
        parts = rings if one["geometry"]["type"] == "MultiPolygon" else [rings]
        yield inside([ring for part in parts for ring in part], size), one["properties"]["classification"]["name"]


def labelme(path: Path, size: tuple[int, int]) -> Iterator[tuple[np.ndarray, str]]:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (record["imageHeight"], record["imageWidth"], record["imageData"]) == (*size, None)
    last = None
    for one in record["shapes"]:
        plane = np.zeros(size, bool)
        if one["shape_type"] == "mask":
            (left, top), (right, bottom) = np.array(one["points"]).astype(int)
            part = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["mask"]))))
            plane[top : bottom + 1, left : right + 1] = part
        else:
            plane = inside([one["points"]], size)
        if one["group_id"] is not None and last is not None and one["group_id"] == last[2]:
            last = (last[0] | plane, *last[1:])
            continue
        if last is not None:
            yield last[:2]
        last = plane, one["label"], one["group_id"]
    if last is not None:
        yield last[:2]


def rois(path: Path, size: tuple[int, int]) -> Iterator[tuple[np.ndarray, str]]:
    roifile = pytest.importorskip("roifile", reason="roifile reads the file")
    read = roifile.roiread(path) if path.stat().st_size > 22 else []  # an archive of nothing
    for one in read if isinstance(read, list) else [read]:
        yield inside([ring.tolist() for ring in one.coordinates(multi=True)], size), one.name.rpartition("-")[0]


def yolo(path: Path, size: tuple[int, int]) -> Iterator[tuple[np.ndarray, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, *shares = line.split()
        yield inside([np.array(shares, float).reshape(-1, 2) * (size[1], size[0])], size), kind


READERS: dict[str, Callable[[Path, tuple[int, int]], Iterator[tuple[np.ndarray, str]]]] = {
    "coco": coco, "geojson": geojson, "labelme": labelme, "rois": rois, "yolo": yolo,
}  # fmt: skip


def needs(*kinds: str) -> None:
    for module in (NEEDED[kind] for kind in kinds if kind in NEEDED):
        pytest.importorskip(module, reason=f"{module} writes the file")


def nifti(path: Path) -> np.ndarray:
    """Return the slice of a file, as nibabel reads it, with rows first."""
    found = np.asarray(pytest.importorskip("nibabel").load(path).dataobj)
    return (found if found.ndim == 2 else found[:, :, 0]).T


def written(kind: str, found: Instances, folder: Path, names: list[str] | None = None) -> Path:
    needs(kind)
    path = folder / f"a{WRITERS[kind].suffix}"
    path.write_bytes(content(kind, found, names))
    return path


def test_these_formats_ship() -> None:
    assert set(WRITERS) >= set(FORMATS)
    assert set(READERS) == set(FORMATS) - {"labels", "nifti"}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("kind", READERS)
def test_the_very_pixels_come_back(kind: str, mask: np.ndarray, tmp_path: Path) -> None:
    """By an independent reader, object by object, and by unetzoo's; and what is made of them is the same file."""
    found = found_in(mask)
    path = written(kind, found, tmp_path)
    there, here = each(found), [plane for plane, _ in READERS[kind](path, mask.shape)]
    assert len(there) == len(here)
    assert all((one == other).all() for one, other in zip(there, here, strict=True))
    (drawing,) = annotations.read(path).drawings.values()
    again = np.zeros(mask.shape, np.uint8)
    assert len(drawing.annotations) == len(there)
    for one, plane in zip(drawing.annotations, there, strict=True):
        part = one.region.pixels(mask.shape)
        own = np.zeros(mask.shape, bool)
        own[part.slices] = part.inside
        assert (own == plane).all()
        again |= own
    assert content(kind, found_in(again)) == path.read_bytes()


@pytest.mark.parametrize(("mask", "kind"), [("noise", "uint16"), ("3,025", "uint16"), ("70,225", "int32")])
def test_label_images_are_the_numbers_themselves(mask: str, kind: str, tmp_path: Path) -> None:
    skimage = pytest.importorskip("skimage.io", reason="skimage reads the image")
    found = found_in(dots(265) if mask == "70,225" else MASKS[mask])
    path = written("labels", found, tmp_path)
    for read in (np.asarray(Image.open(path)), skimage.imread(path)):
        assert read.dtype == kind
        assert (read == found.labels.numpy()).all()
    assert content("labels", found) == path.read_bytes()


@pytest.mark.parametrize(("mask", "kind"), [("none", "uint16"), ("noise", "uint16"), ("70,225", "int32")])
def test_nifti_has_the_numbers_themselves(mask: str, kind: str, tmp_path: Path) -> None:
    """As nibabel and unetzoo read them; x is the first axis."""
    found = found_in(dots(265) if mask == "70,225" else MASKS[mask])
    path = written("nifti", found, tmp_path)
    nibabel = pytest.importorskip("nibabel")
    read, labels = nibabel.load(path), found.labels.numpy()
    assert read.get_data_dtype() == kind
    assert read.shape == labels.shape[::-1]
    assert (labels == np.asarray(read.dataobj).T).all()
    assert (images.read_values(path)[0].numpy() == labels).all()
    assert content("nifti", found) == path.read_bytes()
    # Where ITK has an image that says nothing: its axes run left and back, those of NIfTI right and to the front.
    assert (read.affine == np.diag([-1, -1, 1, 1])).all()


def test_nifti_with_a_side_of_more_than_15_bits(tmp_path: Path) -> None:
    mask = np.zeros((2, 33_000), np.uint8)
    mask[1, 32_999] = 1
    assert (nifti(written("nifti", found_in(mask), tmp_path)) == mask).all()


@pytest.mark.parametrize("kind", READERS)
def test_classes_keep_their_names(kind: str, tmp_path: Path) -> None:
    mask = np.kron(drawn("#.#", "...", "#.#"), np.ones((3, 3), np.uint8))
    mask[6:] *= 2
    mask[7, 7] = 0
    found = found_in(mask, "multiclass", 3)
    path = written(kind, found, tmp_path, ["background", *NAMES])
    read = list(READERS[kind](path, mask.shape))
    expected = ["0", "0", "1", "1"] if kind == "yolo" else [NAMES[0], NAMES[0], NAMES[1], NAMES[1]]
    assert [name for _, name in read] == expected
    assert all((plane == other).all() for (plane, _), other in zip(read, each(found), strict=True))
    (drawing,) = annotations.read(path).drawings.values()
    assert [str(one.kind) for one in drawing.annotations] == expected


@pytest.mark.parametrize("kind", READERS)
def test_objects_of_several_labels_may_overlap(kind: str, tmp_path: Path) -> None:
    mask = np.stack([drawn("##.", "##.", "..."), drawn(".##", ".##", "...")])
    found = found_in(mask, "multilabel", 2)
    path = written(kind, found, tmp_path, NAMES)
    read = list(READERS[kind](path, (3, 3)))
    assert len(read) == 2
    assert all((plane == other).all() for (plane, _), other in zip(read, mask, strict=True))


def test_parts_that_meet_nowhere_are_one_line() -> None:
    """As objects of other origin than connected components may have."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        size = tuple(rng.integers(1, 25, 2).tolist())
        mask = (rng.random(size) < rng.random()).astype(np.uint8)
        if not mask.any():
            continue
        parts = [[ring.numpy() for ring in part] for parts in objects.polygons(found_in(mask)) for part in parts]
        assert (inside([bridged(parts).tolist()], size) == mask).all()


def test_a_line_goes_to_holes_within_the_object() -> None:
    """No step leaves it: with the line drawn, too, an object without parts is what it was."""
    mask = drawn("########", "#..##..#", "#.#.#..#", "##..####", "########")
    (parts,) = objects.polygons(found_in(mask))
    line = bridged([[ring.numpy() for ring in part] for part in parts])
    for (x, y), (to_x, to_y) in zip(line, np.roll(line, -1, 0), strict=True):
        assert x == to_x or y == to_y
        for k in range(abs(to_x - x) + abs(to_y - y)):
            left, top = min(x, to_x) + k * (y == to_y), min(y, to_y) + k * (x == to_x)
            sides = [(top, left), (top - 1, left)] if y == to_y else [(top, left), (top, left - 1)]
            assert any(0 <= r < 5 and 0 <= c < 8 and mask[r, c] for r, c in sides)


def test_names_of_rois_leave_no_archive(tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile", reason="roifile reads the file")
    for name, entry in (("../x", "0001.roi"), ("nucleus", "nucleus-0001.roi"), ("😀", "0001.roi")):
        path = written("rois", found_in(drawn("#")), tmp_path, [name])
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == [entry]
            one = roifile.ImagejRoi.frombytes(archive.read(entry))
        assert one.name == f"{name if name < '😀' else '�'}-0001"
        assert one.group == 1


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "model.safetensors", class_names=["nucleus"])


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    write(tmp_path / "cells" / "a.png", 1)
    write(tmp_path / "cells" / "plate 1" / "b.jpg", 2, (33, 40))
    return tmp_path / "cells"


def command(model: Path, cells: Path, formats: str, *more: str) -> list[str]:
    return ["predict", str(model), str(cells), "--out", str(cells.parent / "out"), "--write", formats, *more]


def test_each_format_has_a_folder(model: Path, cells: Path, capsys: pytest.CaptureFixture) -> None:
    needs(*FORMATS)
    out = cells.parent / "out"
    assert main(command(model, cells, ",".join(FORMATS))) == 0
    predictor = Predictor(model)
    results = {name: predictor(cells / name) for name in ("a.png", "plate 1/b.jpg")}
    count = sum(len(one.instances()) for one in results.values())
    assert f"{count} objects" in capsys.readouterr().out
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        ".unetzoo.json", ".unetzoo.written", "a.png", "plate 1/b.png", "coco/annotations.json", "yolo/data.yaml",
        "geojson/a.geojson", "geojson/plate 1/b.geojson", "labelme/a.json", "labelme/plate 1/b.json",
        "labels/a.tif", "labels/plate 1/b.tif", "rois/a.zip", "rois/plate 1/b.zip",
        "nifti/a.nii.gz", "nifti/plate 1/b.nii.gz", "yolo/labels/a.txt", "yolo/labels/plate 1/b.txt",
    }  # fmt: skip
    for name, one in results.items():
        stem = name.partition(".")[0]
        for kind, folder in (("geojson", ""), ("labelme", ""), ("rois", ""), ("yolo", "labels")):
            path = out / kind / folder / f"{stem}{WRITERS[kind].suffix}"
            planes = [plane for plane, _ in READERS[kind](path, one.mask.shape)]
            assert all((x == y).all() for x, y in zip(planes, each(one.instances()), strict=True))
        assert (nifti(out / "nifti" / f"{stem}.nii.gz") == one.instances().labels.numpy()).all()
        path = out / "labelme" / f"{stem}.json"
        image = path.parent / json.loads(path.read_text(encoding="utf-8"))["imagePath"]
        assert image.samefile(cells / name)
    record = json.loads((out / "coco" / "annotations.json").read_text(encoding="utf-8"))
    assert [entry["file_name"] for entry in record["images"]] == ["a.png", "plate 1/b.jpg"]
    assert len(record["annotations"]) == count
    assert len({entry["id"] for entry in record["annotations"]}) == count
    assert yaml.safe_load((out / "yolo" / "data.yaml").read_text(encoding="utf-8"))["names"] == {0: "nucleus"}


@pytest.mark.parametrize("kind", ["coco", "geojson", "labelme", "rois", "yolo"])
def test_what_was_written_is_a_data_set(kind: str, model: Path, cells: Path) -> None:
    needs(kind)
    assert main(command(model, cells, kind)) == 0
    place, out = cells.parent / "set", cells.parent / "out" / kind
    if kind == "yolo":
        shutil.copytree(out, place)
        shutil.copytree(cells, place / "images")
    elif kind == "coco":
        shutil.copytree(cells, place)
        shutil.copy(out / "annotations.json", place)
    else:
        shutil.copytree(cells, place / "images")
        shutil.copytree(out, place / "masks")
    meant = data.labels_of(place)
    samples = data.list_samples(place, meant).samples[""]
    assert len(samples) == 2
    for sample in samples:
        mask = Predictor(model)(sample.image).mask
        target = masks.read_target(sample, meant, tuple(mask.shape))
        assert torch.equal(target.squeeze().long(), mask.long())


@pytest.mark.parametrize("kind", ["labels", "nifti", "rois"])
def test_what_was_written_passes_the_check(
    kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With an image among others that has no objects."""
    needs(kind)
    cells = tmp_path / "set" / "images"
    for k in range(9):
        write(cells / f"{k}.png", k)
    Image.new("RGB", (40, 30)).save(cells / "9.png")
    predictor = Predictor(model, threshold=0.6)
    assert not predictor(cells / "9.png").mask.any()
    formats = [kind, "--threshold", "0.6"]
    assert main(command(model, cells, *formats)) == 0
    shutil.copytree(cells.parent / "out" / kind, cells.parent / "masks")
    shutil.rmtree(cells.parent / "out")
    capsys.readouterr()
    more = [] if kind == "rois" else ["--foreground", "any"]
    assert main(["data", "check", str(cells.parent), *more]) == 0, capsys.readouterr().out
    meant = data.labels_of(cells.parent, **({"foreground": "any"} if more else {}))
    for sample in data.list_samples(cells.parent, meant).samples[""]:
        mask = predictor(sample.image).mask
        target = masks.read_target(sample, meant, tuple(mask.shape))
        assert torch.equal(target.squeeze().long(), mask.long())


def test_what_is_there_is_not_done_again(
    model: Path, cells: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(command(model, cells, "labelme,labels,coco,yolo")) == 0
    out = cells.parent / "out"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "__call__", lambda *_: pytest.fail("it was done again"))
        assert main(command(model, cells, "coco,yolo,labels")) == 0
        assert main(command(model, cells, "labelme,labels,coco,yolo")) == 0
    assert "2 there already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    (out / "labels" / "a.tif").unlink()
    assert main(command(model, cells, "geojson,labels")) == 0
    assert {path: path.read_bytes() for path in before if path.suffix == ".tif"} == {
        path: content for path, content in before.items() if path.suffix == ".tif"
    }
    (out / "a.png").unlink()  # as if it had been killed before it wrote that
    assert main(command(model, cells, "labelme")) == 0  # which is known, though another run came between
    write(cells / "c.png", 3)
    assert main(command(model, cells, "labelme,coco")) == 0
    record = json.loads((out / "coco" / "annotations.json").read_text(encoding="utf-8"))
    assert [entry["file_name"] for entry in record["images"]] == ["a.png", "c.png", "plate 1/b.jpg"]


@pytest.mark.parametrize("kind", ["labelme", "geojson", "labels", "nifti", "yolo"])
def test_what_was_corrected_is_not_written_over(
    kind: str, model: Path, cells: Path, capsys: pytest.CaptureFixture
) -> None:
    """Neither where its size is the same, nor where the mask is gone."""
    needs(kind)
    assert main(command(model, cells, kind)) == 0
    out = cells.parent / "out"
    path = out / kind / ("labels" if kind == "yolo" else "") / f"a{WRITERS[kind].suffix}"
    if kind == "labels":
        plane = np.asarray(Image.open(path))
        Image.fromarray(np.flipud(plane)).save(path)
    elif kind == "nifti":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-2] + b"\7\0"))
    else:
        path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    corrected = path.read_bytes()
    (out / "a.png").unlink()
    capsys.readouterr()
    assert main(command(model, cells, f"{kind},coco")) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in (path.name, "corrected", "--overwrite"))
    assert path.read_bytes() == corrected
    assert not (out / "a.png").exists()
    record = json.loads((out / "coco" / "annotations.json").read_text(encoding="utf-8"))
    assert [entry["file_name"] for entry in record["images"]] == ["plate 1/b.jpg"]
    assert main(command(model, cells, kind, "--overwrite")) == 0
    assert path.read_bytes() != corrected


@pytest.mark.parametrize("name", ["coco/annotations.json", "yolo/data.yaml"])
def test_what_was_corrected_of_all_images_stops_before_any_work(
    name: str, model: Path, cells: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(command(model, cells, "coco,yolo")) == 0
    path = cells.parent / "out" / name
    path.write_text(path.read_text(encoding="utf-8").replace("nucleus", "cell"), encoding="utf-8")
    corrected = path.read_bytes()
    write(cells / "c.png", 3)
    capsys.readouterr()
    assert main(command(model, cells, "coco,yolo")) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in (path.name, "corrected", "--overwrite"))
    assert path.read_bytes() == corrected
    assert not (cells.parent / "out" / "c.png").exists()
    assert main(command(model, cells, "coco,yolo", "--overwrite")) == 0
    assert path.read_bytes() != corrected


@pytest.mark.parametrize(
    ("formats", "said"),
    [
        ("labelm", ["labelm", "labelme"]),
        ("coco,nifty", ["nifty", "known"]),
        ("rois", ["roifile", "annotations"]),
        ("nifti", ["nibabel", "medical"]),
    ],
)
def test_a_format_that_cannot_be_written_is_said_before(
    formats: str, said: list[str], cells: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in NEEDED.values():
        monkeypatch.setitem(sys.modules, module, None)
    assert main(command(Path("no.safetensors"), cells, formats)) == 2
    printed = capsys.readouterr().err
    assert all(word in printed for word in said)
    assert not (cells.parent / "out").exists()


def test_turned_images_have_annotations_as_they_are_looked_at(model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "cells").mkdir()
    Image.fromarray(noise(30, 50)).save(tmp_path / "cells" / "a.png", exif=exif)
    assert main(command(model, tmp_path / "cells", "labelme,labels,coco")) == 0
    mask = Predictor(model)(tmp_path / "cells" / "a.png").mask.numpy()
    assert mask.shape == (50, 30)
    out = tmp_path / "out"
    assert ((np.asarray(Image.open(out / "labels" / "a.tif")) > 0) == mask).all()
    assert sum(plane for plane, _ in labelme(out / "labelme" / "a.json", mask.shape)).tolist() == mask.tolist()
    (image,) = json.loads((out / "coco" / "annotations.json").read_text(encoding="utf-8"))["images"]
    assert (image["height"], image["width"]) == mask.shape


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_label_images_of_several_classes_have_folders(task: str, cells: Path) -> None:
    torch.manual_seed(3)
    names = ["background", "cell", "nucleus"]
    network = unetzoo.create("unet", base_channels=4, num_classes=3, task=task, class_names=names)
    unetzoo.save(network, cells.parent / "m.safetensors")
    assert main(command(cells.parent / "m.safetensors", cells, "labels")) == 0
    mask = Predictor(network)(cells / "a.png").mask.numpy()
    for k, name in enumerate(names):
        path = cells.parent / "out" / "labels" / name / "a.tif"
        if task == "multiclass" and k == 0:
            assert not path.exists()
            continue
        expected = found_in((mask[k] if task == "multilabel" else mask == k).astype(np.uint8))
        assert (np.asarray(Image.open(path)) == expected.labels.numpy()).all()


def network_of_greys() -> torch.nn.Module:
    return small(in_channels=1, class_names=["nucleus"])


PLACE = np.array([[-0.6, -0.3, 0.1, 10], [-0.2, 0.8, 0.2, -20], [0.1, 0.1, 2.5, 33], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("shape", "qform", "sform"),
    [
        *(((20, 16, 3), *codes) for codes in ((0, 0), (1, 0), (0, 2), (1, 4))),
        *((shape, 1, 4) for shape in ((20, 16), (20, 16, 1), (20, 16, 2, 2))),
    ],
    ids=str,
)
def test_nifti_lies_where_its_image_does(shape: tuple[int, ...], qform: int, sform: int, tmp_path: Path) -> None:
    """Each slice of a volume at its depth, with the codes and the unit of the image; nothing else is told of it."""
    nibabel = pytest.importorskip("nibabel")
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    source = nibabel.Nifti1Image(array, None)
    source.header.set_zooms((0.5, 0.6, 2.0, 1.5)[: len(shape)])
    source.header.set_qform(PLACE if qform else None, qform)
    source.header.set_sform(PLACE if sform else None, sform)
    source.header.set_xyzt_units("micron", "sec" if len(shape) == 4 else None)
    source.header["descrip"], source.header["cal_max"] = b"somebody", 90
    source.header.set_slope_inter(2, 1)
    (tmp_path / "cells").mkdir()
    nibabel.save(source, tmp_path / "cells" / "a.nii.gz")
    model = tmp_path / "m.safetensors"
    unetzoo.save(network_of_greys(), model)
    assert main(command(model, tmp_path / "cells", "nifti", "--planes", "split")) == 0
    count = array[0, 0].size
    source = nibabel.load(tmp_path / "cells" / "a.nii.gz")
    assert len(list((tmp_path / "out" / "nifti").iterdir())) == count
    for k in range(count):
        name = "a" if count == 1 else f"a_{k}"
        path = tmp_path / "out" / "nifti" / f"{name}.nii.gz"
        assert (
            nifti(path) == found_in(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) // 255).labels.numpy()
        ).all()
        found = nibabel.load(path)
        depth = k % array.shape[2] if array.ndim > 2 else 0
        assert found.shape == (*shape[:2], *((1,) if len(shape) > 2 else ()))
        for form in ("get_qform", "get_sform"):
            (here, code), (there, other) = (getattr(one, form)(coded=True) for one in (found, source))
            assert code == other
            if code:
                np.testing.assert_allclose(here, moved(there, depth), atol=1e-5)
        assert found.header.get_zooms()[:2] == source.header.get_zooms()[:2]
        assert found.header["pixdim"][3] == source.header["pixdim"][3]
        assert found.header.get_xyzt_units() == ("micron", "unknown")
        assert (found.header["descrip"], found.header["cal_max"]) == (b"", 0)
        found = Predictor(network_of_greys())(tmp_path / "cells" / "a.nii.gz", planes=k)
        found.save_annotations(tmp_path / "x.nii.gz", "nifti")
        assert (tmp_path / "x.nii.gz").read_bytes() == path.read_bytes()


def moved(affine: np.ndarray, depth: int) -> np.ndarray:
    step = np.eye(4)
    step[2, 3] = depth
    return affine @ step


# Python


@pytest.mark.parametrize("kind", FORMATS)
def test_a_prediction_is_written(kind: str, model: Path, tmp_path: Path) -> None:
    needs(kind)
    found = Predictor(model)(noise(30, 40))
    path = tmp_path / "new" / f"x{WRITERS[kind].suffix}"
    found.save_annotations(path, kind, image="x.png")
    planes = (
        [np.asarray(Image.open(path)) == k for k in range(1, len(found.instances()) + 1)]
        if kind == "labels"
        else [nifti(path) == k for k in range(1, len(found.instances()) + 1)]
        if kind == "nifti"
        else [plane for plane, _ in READERS[kind](path, (30, 40))]
    )
    assert all((x == y).all() for x, y in zip(planes, each(found.instances()), strict=True))
    with pytest.raises(InputError, match=rf"x\.bin.*{re.escape(WRITERS[kind].suffix)}"):
        found.save_annotations(tmp_path / "x.bin", kind)
    with pytest.raises(ConfigError, match="labelme"):
        found.save_annotations(path, "labelmee")
    if kind in ("coco", "labelme"):
        with pytest.raises(InputError, match="names the image"):
            found.save_annotations(path, kind)
    else:
        found.save_annotations(path, kind)


def test_a_score_stays_beside_its_object() -> None:
    mask = torch.tensor([[1, 0, 1]], dtype=torch.uint8)
    config = unetzoo.create("unet", base_channels=1).config
    found = Prediction(torch.tensor([[[0.75, 0.0, 1.0]]]), mask, torch.zeros(3, 1, 3), config).instances()
    assert [one["score"] for one in objects.to_labelme(found, "a.png")["shapes"]] == [0.75, 1.0]

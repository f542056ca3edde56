"""Objects as a task: what a network learns of them, what becomes of what it says, and every door on the way."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage.measure import label
from skimage.segmentation import find_boundaries
from torch import Tensor

import unetzoo
from unetzoo import ConfigError, Predictor
from unetzoo.cli import main
from unetzoo.data import Labels, SegmentationDataset, check, convert, labels_of, list_samples
from unetzoo.data.edges import edges_of, joined, read_objects
from unetzoo.evaluation.evaluating import true_objects
from unetzoo.losses import class_weights_from
from unetzoo.objects import instances, matched
from unetzoo.objects.finding import SPLIT_BY_EDGES
from unetzoo.prediction.files import Outputs, find_jobs, predict_files
from unetzoo.prediction.results import Prediction
from unetzoo.train.runs import Run

SIZE = 64


def disc(y: float, x: float, radius: float, size: int = SIZE) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def discs() -> np.ndarray:
    """A chain of discs that overlap, each cut by the next one, and one alone."""
    ids = np.zeros((SIZE, SIZE), np.uint16)
    for k, x in enumerate((10, 24, 38, 52), 1):
        ids[disc(20, x, 8)] = k
    ids[disc(50, 30, 7)] = 9
    return ids


def rods(width: int) -> np.ndarray:
    """Rods side by side, end to end as well, without a pixel between them."""
    ids = np.zeros((SIZE, SIZE), np.uint16)
    for k in range(5):
        ids[8:32, 6 + k * width : 6 + (k + 1) * width] = 2 * k + 1
        ids[32:56, 6 + k * width : 6 + (k + 1) * width] = 2 * k + 2
    return ids


def ring() -> np.ndarray:
    """A ring, a disc that fills its hole, and a second ring that has a disc inside and does not touch it."""
    ids = np.zeros((SIZE, SIZE), np.uint16)
    ids[disc(20, 20, 14)] = 1
    ids[disc(20, 20, 7)] = 2
    ids[disc(46, 46, 14)] = 3
    ids[disc(46, 46, 9)] = 0
    ids[disc(46, 46, 4)] = 4
    return ids


def aslant() -> np.ndarray:
    """Rods side by side that run from border to border, and one across their ends, without a pixel between them."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    way = rows + 0.5 * columns
    ids = np.zeros((SIZE, SIZE), np.uint16)
    for k in range(4):
        ids[(way >= 20 + 9 * k) & (way < 29 + 9 * k)] = k + 1
    ids[:, 52:60][ids[:, 52:60] > 0] = 5
    ids[:, 60:] = 0
    return ids


def at_the_border() -> np.ndarray:
    """Discs and rods that the border of the image cuts, two in its corners, and of each some that touch there."""
    ids = np.zeros((SIZE, SIZE), np.uint16)
    for k, (y, x) in enumerate(((0, 0), (0, 17), (2, 34), (63, 63), (63, 47), (30, 63)), 1):
        ids[disc(y, x, 9)] = k
    ids[24:32, :30], ids[32:40, :26], ids[44:, 4:12], ids[48:, 12:21] = 11, 12, 13, 14
    return ids


def nested() -> np.ndarray:
    """A disc in a ring in a ring, each of which fills the hole of the next."""
    ids = np.zeros((SIZE, SIZE), np.uint16)
    for k, radius in enumerate((29, 20, 11), 1):
        ids[disc(32, 31, radius)] = k
    return ids


SCENES = {
    "rods aslant": aslant(),
    "at the border": at_the_border(),
    "nested": nested(),
    "discs": discs(),
    "rods of 9": rods(9),
    "rods of 5": rods(5),
    "ring": ring(),
    "one": disc(30, 30, 20).astype(np.uint16),
    "none": np.zeros((SIZE, SIZE), np.uint16),
}


def crowd(seed: int) -> np.ndarray:
    """Discs by chance, each in front of those before it: many touch."""
    rng, ids = np.random.default_rng(seed), np.zeros((SIZE, SIZE), np.uint16)
    for k in range(1, 14):
        ids[disc(*rng.uniform(0, SIZE, 2), rng.uniform(5, 9))] = k
    for k in range(1, 14):  # what is seen of one that others hide
        if (ids == k).sum() < 60 or label(ids == k, connectivity=2).max() > 1:
            ids[ids == k] = 0
    return ids


def said_of(ids: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return what a network without faults says: the probabilities of the mask and of the edges."""
    true = torch.from_numpy(ids.astype(np.int64))
    return (true > 0).float()[None], edges_of(true).float()


class TestEdges:
    @pytest.mark.parametrize("name", SCENES)
    def test_they_are_scikit_image_s_inner_boundaries(self, name: str) -> None:
        expected = find_boundaries(SCENES[name], connectivity=2, mode="inner")
        np.testing.assert_array_equal(edges_of(torch.from_numpy(SCENES[name].astype(np.int64))).numpy(), expected)

    @pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1), (2, 3, 8, 7)])
    def test_any_shape_has_those_of_its_planes(self, shape: tuple[int, ...]) -> None:
        ids = np.random.default_rng(0).integers(0, 3, shape)
        planes = ids.reshape(-1, *shape[-2:])
        expected = [find_boundaries(plane, connectivity=2, mode="inner") for plane in planes]
        np.testing.assert_array_equal(edges_of(torch.from_numpy(ids)).numpy(), np.reshape(expected, shape))

    def test_large_numbers_are_told_apart(self) -> None:
        ids = torch.full((4, 6), 2**40)
        ids[:, 3:] += 1
        assert edges_of(ids).sum() == 8

    def test_pixels_that_do_not_count_and_the_border_end_no_object(self) -> None:
        ids = torch.full((8, 8), 3)
        ids[:, 5:] = -100
        assert not edges_of(ids).any()


class TestObjects:
    @pytest.mark.parametrize("name", SCENES)
    def test_what_touches_comes_apart(self, name: str) -> None:
        ids = SCENES[name]
        probabilities, edges = said_of(ids)
        mask = probabilities[0] > 0.5
        found = instances(mask, "binary", 1, probabilities=probabilities, edges=edges, split=SPLIT_BY_EDGES)
        true = instances(mask, "binary", 1, ids=torch.from_numpy(ids.astype(np.int64)))
        assert len(found) == len(np.unique(ids[ids > 0]))
        assert torch.equal(found.labels > 0, mask)
        scores = matched(found, true)
        assert scores.met == len(true)
        if len(true):
            assert scores.pooled()["sq"] > 0.9

    @pytest.mark.parametrize("name", SCENES)
    def test_label_images_come_back_as_they_were_found(self, name: str, tmp_path: Path) -> None:
        """As a file and through ``unetzoo.data``: the mask, the edges and the numbers of the prediction."""
        probabilities, edges = said_of(SCENES[name])
        mask, image = (probabilities[0] > 0.5).byte(), torch.zeros(1, SIZE, SIZE)
        config = unetzoo.create("unet", task="instances", in_channels=1, base_channels=4).config
        found = Prediction(probabilities, mask, image, config, edges=edges, split=SPLIT_BY_EDGES)
        found.save_annotations(tmp_path / "masks" / "a.tif", "labels")
        (tmp_path / "images").mkdir()
        Image.new("L", (SIZE, SIZE)).save(tmp_path / "images" / "a.png")
        labels = labels_of(tmp_path, task="instances")
        (item,) = SegmentationDataset(list_samples(tmp_path, labels).samples[""], labels, in_channels=1)
        assert torch.equal(item["target"], mask.long())
        assert torch.equal(item["ids"], found.instances().labels.to(item["ids"].dtype))
        assert torch.equal(item["edges"], edges_of(found.instances().labels).long())

    def test_without_edges_a_straight_wall_is_no_neck(self) -> None:
        probabilities, _ = said_of(SCENES["rods of 9"])
        assert len(instances(probabilities[0] > 0.5, "binary", 1, split=SPLIT_BY_EDGES)) == 1

    def test_turning_the_image_turns_the_objects(self) -> None:
        probabilities, edges = said_of(SCENES["discs"])
        once, turned = (
            instances((p[0] > 0.5), "binary", 1, probabilities=p, edges=e, split=SPLIT_BY_EDGES)
            for p, e in ((probabilities, edges), (probabilities.rot90(1, (1, 2)), edges.rot90(1, (0, 1))))
        )
        assert sorted(once.areas.tolist()) == sorted(turned.areas.tolist())

    def test_edges_want_probabilities(self) -> None:
        with pytest.raises(ConfigError, match="edges without probabilities"):
            instances(torch.ones(4, 4, dtype=torch.uint8), "binary", 1, edges=torch.zeros(4, 4), split=1)


class TestNetwork:
    def test_it_has_a_channel_more_than_classes(self, tmp_path: Path) -> None:
        model = unetzoo.create("unet", num_classes=2, task="instances", base_channels=4, deep_supervision=True).eval()
        images = torch.rand(1, 3, 32, 48)
        assert model(images).shape == (1, 3, 32, 48)
        assert all(head.shape[1] == 3 for head in model.training_outputs(images).deep)
        unetzoo.save(model, tmp_path / "a.safetensors")
        again = unetzoo.load(tmp_path / "a.safetensors")
        assert again.config == model.config
        assert torch.equal(again(images), model(images))

    def test_a_semantic_model_goes_on_with_a_new_head(self, tmp_path: Path) -> None:
        model = unetzoo.create("unet", base_channels=4).eval()
        unetzoo.save(model, tmp_path / "a.safetensors")
        again = unetzoo.load(tmp_path / "a.safetensors", task="instances")
        assert again.config.channels == 2
        assert torch.equal(
            again.state_dict()["encoder.levels.0.0.conv.weight"], model.state_dict()["encoder.levels.0.0.conv.weight"]
        )

    def test_a_guide_of_classes_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="classification_guided=True: task='instances'"):
            unetzoo.create("unet3p", task="instances", classification_guided=True)


def write(folder: Path, scenes: dict[str, np.ndarray], ending: str = ".png") -> Path:
    """Write scenes as images whose objects are brighter than the ground, and their numbers."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, ids in scenes.items():
        shade = np.random.default_rng(0).integers(0, 20, ids.shape)
        Image.fromarray(
            (shade + 160 * (ids > 0) - 60 * find_boundaries(ids, mode="inner") * (ids > 0)).astype(np.uint8)
        ).save(folder / "images" / f"{name}.png")
        Image.fromarray(ids).save(folder / "masks" / f"{name}{ending}")
    return folder


class TestData:
    def test_items_have_the_mask_the_edges_and_the_numbers(self, tmp_path: Path) -> None:
        write(tmp_path, {"a": SCENES["ring"]})
        labels = labels_of(tmp_path, task="instances")
        assert (labels.num_classes, labels.foreground) == (1, "any")
        samples = list_samples(tmp_path, labels).samples[""]
        (item,) = SegmentationDataset(samples, labels, in_channels=1)
        np.testing.assert_array_equal(item["target"].numpy(), SCENES["ring"] > 0)
        np.testing.assert_array_equal(item["ids"].numpy(), SCENES["ring"])
        np.testing.assert_array_equal(
            item["edges"].numpy(), find_boundaries(SCENES["ring"], connectivity=2, mode="inner")
        )
        assert torch.equal(joined(item["target"], item["edges"]), torch.stack([item["target"], item["edges"]]))

    def test_what_an_augmentation_moves_moves_with_its_edges(self, tmp_path: Path) -> None:
        write(tmp_path, {"a": SCENES["discs"]})
        labels = labels_of(tmp_path, task="instances")
        samples = list_samples(tmp_path, labels).samples[""]
        augment = unetzoo.augmentation.build(["RandomQuarterTurn", {"RandomHorizontalFlip": {"p": 1.0}}])
        (item,) = SegmentationDataset(samples, labels, in_channels=1, augmentation=augment)
        ids = item["ids"].numpy()
        assert sorted(np.bincount(ids.ravel())) == sorted(
            np.bincount(np.unique(SCENES["discs"], return_inverse=True)[1].ravel())
        )
        np.testing.assert_array_equal(item["edges"].numpy(), find_boundaries(ids, connectivity=2, mode="inner"))

    def test_annotations_of_two_classes_have_two_planes(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        (tmp_path / "labels").mkdir()
        Image.new("L", (20, 10)).save(tmp_path / "images" / "a.png")
        shapes = [("b", 2, 6), ("a", 6, 10), ("a", 12, 18)]
        record = {
            "version": "5.5.0", "flags": {}, "imagePath": "a.png", "imageData": None,
            "imageHeight": 10, "imageWidth": 20,
            "shapes": [
                {"label": kind, "points": [[x, 2], [end, 8]], "shape_type": "rectangle", "flags": {}, "group_id": None}
                for kind, x, end in shapes
            ],
        }  # fmt: skip
        (tmp_path / "labels" / "a.json").write_text(json.dumps(record))
        labels = labels_of(tmp_path, task="instances")
        assert labels.class_names == ("a", "b")
        samples = list_samples(tmp_path, labels).samples[""]
        (item,) = SegmentationDataset(samples, labels, in_channels=1)
        assert item["target"].sum(dim=(1, 2)).tolist() == [60, 24]
        assert sorted(item["ids"].unique().tolist()) == [0, 1, 2, 3]
        assert item["edges"][4, 5:7].tolist() == [1, 1]
        weights = class_weights_from(SegmentationDataset(samples, labels, in_channels=1).loss_targets())
        assert weights[:2].tolist() == pytest.approx([(140 / 60) ** 0.5, (176 / 24) ** 0.5])

    def test_each_part_of_a_black_and_white_mask_is_an_object_where_that_is_said(self, tmp_path: Path) -> None:
        mask = ((SCENES["ring"] > 0) * 255).astype(np.uint8)
        write(tmp_path, {"a": mask})
        labels = labels_of(tmp_path, task="instances", foreground="white")
        samples = list_samples(tmp_path, labels).samples[""]
        (item,) = SegmentationDataset(samples, labels, in_channels=1)
        assert int(item["ids"].max()) == 3

    @pytest.mark.parametrize(("white", "scenes"), [(255, ["one"]), (255, ["discs", "ring"]), (1, ["discs", "one"])])
    def test_black_and_white_is_not_taken_for_one_object(self, white: int, scenes: list[str], tmp_path: Path) -> None:
        masks = {name: ((SCENES[name] > 0) * white).astype(np.uint8) for name in scenes}
        for part in ("train", "val"):
            write(tmp_path / part, masks)
        for closely in (True, False):
            found = check(tmp_path, labels_of(tmp_path, task="instances"), closely=closely)
            (problem,) = found.problems
            assert f"only one number, {white}" in problem
            assert "foreground='white'" in problem

    def test_a_single_object_in_each_image_is_one(self, tmp_path: Path) -> None:
        for part in ("train", "val"):
            write(tmp_path / part, {"a": SCENES["one"], "b": SCENES["none"]})
        assert not check(tmp_path, labels_of(tmp_path, task="instances")).problems

    def test_a_pixel_is_of_one_object_and_of_its_class_alone(self, tmp_path: Path) -> None:
        """Of label images of two classes that overlap it is that of the last one."""
        below, above = np.zeros((2, SIZE, SIZE), np.uint16)
        below[disc(30, 20, 12)], below[disc(30, 44, 8)] = 1, 2
        above[disc(30, 24, 5)], above[disc(30, 50, 6)] = 1, 2
        (tmp_path / "images").mkdir()
        Image.new("L", (SIZE, SIZE)).save(tmp_path / "images" / "a.png")
        for name, ids in (("cell", below), ("nucleus", above)):
            (tmp_path / "masks" / name).mkdir(parents=True)
            Image.fromarray(ids).save(tmp_path / "masks" / name / "a.png")
        labels = labels_of(tmp_path, task="instances", class_names=["cell", "nucleus"])
        samples = list_samples(tmp_path, labels).samples[""]
        (item,) = SegmentationDataset(samples, labels, in_channels=1)
        np.testing.assert_array_equal(item["target"].numpy(), [(below > 0) & (above == 0), above > 0])
        np.testing.assert_array_equal(item["target"].sum(0).numpy(), item["ids"].numpy() > 0)
        true = true_objects(samples[0], labels, item["target"])[1]
        assert true.classes.tolist() == [0, 0, 1, 1]
        assert true.areas[:2].tolist() == [((below == k) & (above == 0)).sum() for k in (1, 2)]
        assert sorted(true.areas[2:].tolist()) == sorted((above == k).sum() for k in (1, 2))

    @pytest.mark.parametrize("turn", [1, 6])
    def test_annotations_become_label_images_that_say_the_same(self, turn: int, tmp_path: Path) -> None:
        """Rectangles of two classes: side by side, over and in another class, hidden in part, and ignored."""
        source, target = tmp_path / "in", tmp_path / "out"
        source.mkdir()
        rectangles = [
            ("b", 1, 2, 6, 8, 0), ("b", 6, 2, 9, 8, 0), ("a", 4, 5, 12, 9, 0), ("a", 12, 0, 15, 10, 0),
            ("a", 14, 3, 18, 7, 0), ("b", 6, 6, 8, 8, 0), ("a", 17, 0, 20, 2, 1),
        ]  # fmt: skip
        exif = Image.Exif()
        exif[274] = turn
        for name in "xyz":
            Image.new("L", (10, 20) if turn == 6 else (20, 10), 50).save(source / f"{name}.jpg", exif=exif)
        record = {
            "images": [{"id": k, "file_name": f"{n}.jpg", "width": 20, "height": 10} for k, n in enumerate("xyz")],
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
            "annotations": [
                {
                    "id": 10 * k + i, "image_id": k, "category_id": "ab".index(kind) + 1, "iscrowd": crowd,
                    "segmentation": [[x, y, u, y, u, v, x, v]], "bbox": [x, y, u - x, v - y], "area": 1,
                }
                for k in range(2)
                for i, (kind, x, y, u, v, crowd) in enumerate(rectangles[k:])
            ],
        }  # fmt: skip
        (source / "annotations.json").write_text(json.dumps(record), encoding="utf-8")
        labels = labels_of(source, task="instances")
        written = convert(source, target, labels)
        assert written == Labels(
            task="instances", num_classes=2, class_names=("a", "b"), foreground="any", ignore=65535
        )
        assert labels_of(target, ignore=65535, class_names=["a", "b"]) == written
        with Image.open(target / "instances" / "a" / "x.png") as file:
            assert (file.format, file.mode) == ("PNG", "I;16")
        before, after = (list_samples(*one).samples[""] for one in ((source, labels), (target, written)))
        counts = []
        for old, new in zip(before, after, strict=True):
            assert old.image.read_bytes() == new.image.read_bytes()
            one, other = (read_objects(sample, said, (10, 20)) for sample, said in ((old, labels), (new, written)))
            assert torch.equal(one[:2], other[:2])
            assert ((one[:2] == 1).sum(0) == (one[2] > 0)).all()  # a pixel is of one object, and of one class
            assert torch.equal(edges_of(one[2]), edges_of(other[2]))
            pairs = np.unique(torch.stack([one[2], other[2]]).flatten(1).numpy(), axis=1)
            assert len(pairs[0]) == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
            counts.append(int((pairs[0] > 0).sum()))
            true = [true_objects(sample, said, one[:2].long())[1] for sample, said in ((old, labels), (new, written))]
            assert torch.equal(true[0].labels, true[1].labels)
        assert counts == [6, 5, 0]

    @pytest.mark.parametrize("foreground", ["any", "white"])
    def test_what_was_converted_is_trained_on_by_the_command_that_the_check_prints(
        self, foreground: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        scenes = {f"{k}": SCENES["discs"] if foreground == "any" else crowd(k) for k in range(5)}
        if foreground == "white":
            scenes = {name: ((ids > 0) * 255).astype(np.uint8) for name, ids in scenes.items()}
        write(tmp_path / "in", scenes, ".tif")
        target = tmp_path / "out"
        command = ["data", "convert", str(tmp_path / "in"), str(target), "--task", "instances"]
        assert main([*command, "--foreground", foreground]) == 0
        assert capsys.readouterr().out.splitlines()[-2] == "train with"
        for name, ids in scenes.items():
            found = np.array(Image.open(target / "instances" / f"{name}.png"))
            expected = np.unique(ids, return_inverse=True)[1] if foreground == "any" else label(ids, connectivity=2)
            np.testing.assert_array_equal(found, expected.reshape(ids.shape))
        assert main(["data", "check", str(target)]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        words = shlex.split(last[last.index("unetzoo ") :])[1:]
        assert words == ["train", "--model", "resunet18", "--data", str(target)]
        words[2] = "unet"  # which can be narrow
        small = ["--epochs", "1", "--batch-size", "2", "--crop-size", "32", "--quiet", "--data.workers", "0"]
        small += ["--trainer.limit_train_batches", "2", "--model.options.base_channels", "4"]
        assert main([*words, *small, "--out", str(tmp_path / "run")]) == 0
        assert Run(tmp_path / "run").load().config.task == "instances"

    def test_what_label_images_cannot_say_is_not_converted(self, tmp_path: Path) -> None:
        """Of Pascal VOC an object may have no number."""
        folder = tmp_path / "in"
        for part in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
            (folder / part).mkdir(parents=True)
        ids = np.where(SCENES["discs"] == 9, 0, SCENES["discs"]).astype(np.uint8)
        Image.new("RGB", (SIZE, SIZE)).save(folder / "JPEGImages/a.jpg")
        Image.fromarray((SCENES["discs"] > 0).astype(np.uint8)).save(folder / "SegmentationClass/a.png")
        Image.fromarray(ids).save(folder / "SegmentationObject/a.png")
        (folder / "ImageSets/Segmentation/train.txt").write_text("a\n", encoding="utf-8")
        (folder / "class_names.txt").write_text("background\ncell\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=f"{(SCENES['discs'] == 9).sum()} pixels of .* belong to no object"):
            convert(folder, tmp_path / "out", labels_of(folder, task="instances"))
        assert not (tmp_path / "out").exists()

    def test_colours_tell_no_objects_apart(self) -> None:
        with pytest.raises(ConfigError, match="label images or annotations are needed"):
            Labels(task="instances", colours=("#000000", "#ffffff"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, no_curves: None) -> Run:
    """Give a run that has learned drawn scenes by heart."""
    folder = tmp_path_factory.mktemp("instances")
    scenes = {name: SCENES[key] for name, key in (("a", "discs"), ("b", "rods of 9"), ("c", "ring"), ("d", "one"))}
    for part in ("train", "val"):
        write(folder / "data" / part, scenes)
    return unetzoo.fit(
        "unet",
        data=folder / "data",
        out=folder / "run",
        task="instances",
        epochs=4,
        crop_size=64,
        batch_size=4,
        lr=5e-3,
        augmentation="none",
        quiet=True,
        settings={"data.workers": 0, "data.repeats": 20, "model.options.base_channels": 8},
    )


class TestTraining:
    def test_it_learns_objects_by_heart_and_judges_itself_by_them(self, run: Run) -> None:
        best = max(run.history, key=lambda row: (row["object_ap_50"] or 0, row["dice"]))
        assert run.best_epoch == best["epoch"]
        assert best["object_ap_50"] >= 0.95
        assert best["objects_true"] == 4 + 1 + 10 + 4 + 1

    def test_a_predictor_finds_what_was_learned(self, run: Run, tmp_path: Path) -> None:
        data = run.folder.parent / "data" / "val"
        out = tmp_path / "out"
        assert main(
            [
                "predict",
                str(run.folder),
                str(data / "images"),
                "--out",
                str(out),
                "--write",
                "coco",
                "--table",
                str(tmp_path / "t.csv"),
            ]
        ) in (0, None)
        for name, key in (("a", "discs"), ("b", "rods of 9"), ("c", "ring")):
            found = tifffile.imread(out / "labels" / f"{name}.tif")
            assert len(np.unique(found[found > 0])) == len(np.unique(SCENES[key][SCENES[key] > 0]))
            np.testing.assert_array_equal(found > 0, np.array(Image.open(out / f"{name}.png")) > 0)
        assert len(json.loads(next((out / "coco").glob("*.json")).read_text())["annotations"]) == 20
        assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + 20

    def test_images_beyond_memory_have_the_objects_of_those_in_memory(self, run: Run, tmp_path: Path) -> None:
        zarr = pytest.importorskip("zarr")
        seen = np.array(Image.open(run.folder.parent / "data" / "val" / "images" / "b.png"))
        image = zarr.create_array(tmp_path / "a.zarr", shape=(64, 64), chunks=(32, 32), dtype="uint8")
        image[:] = seen
        jobs, predictor = find_jobs([tmp_path / "a.zarr"]), Predictor(run.folder)
        told: list[int | None] = []
        report = predict_files(
            predictor, jobs, Outputs(tmp_path / "out"), {}, tell=lambda outcome: told.append(outcome.objects)
        )
        assert not report.failed
        assert told[-1] == 10
        (labels,) = (tmp_path / "out" / "labels").rglob("*.tif")
        np.testing.assert_array_equal(tifffile.imread(labels), predictor(seen).instances().labels.numpy())

    @pytest.mark.parametrize("missing", [{"skimage"}, {"skimage", "scipy"}])
    def test_without_what_separates_there_are_masks_and_a_warning(
        self,
        missing: set[str],
        run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        image = str(run.folder.parent / "data" / "val" / "images" / "a.png")
        assert main(["predict", str(run.folder), image, "--out", str(tmp_path / "whole")]) in (0, None)
        assert (tmp_path / "whole" / "labels" / "a.tif").is_file()
        for name in [*missing, *(name for name in sys.modules if name.partition(".")[0] in missing)]:
            monkeypatch.setitem(sys.modules, name, None)
        caplog.clear()
        assert main(["predict", str(run.folder), image, "--out", str(tmp_path / "out"), "--overlay"]) in (0, None)
        assert "pip install 'unetzoo[objects]'" in caplog.text
        assert {path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."} == {"a.png", "overlays"}
        mask, whole = (np.array(Image.open(tmp_path / name / "a.png")) for name in ("out", "whole"))
        np.testing.assert_array_equal(mask, whole)
        with pytest.raises(ConfigError, match=r"unetzoo\[objects\]"):
            Predictor(run.folder)(image).instances()
        with pytest.raises(ConfigError, match=r"unetzoo\[objects\]"):
            unetzoo.evaluation.evaluate(run.folder, tmp_path / "no such data", objects=True)  # before any work
        if "scipy" not in missing:  # connected components do without scikit-image
            assert main(["predict", str(run.folder), image, "--out", str(tmp_path / "c"), "--split", "0"]) in (0, None)
            assert (tmp_path / "c" / "labels" / "a.tif").is_file()
        for k, asked in enumerate((["--split", "1"], ["--write", "labels"], ["--table", str(tmp_path / "t.csv")])):
            out = tmp_path / str(k)
            assert main(["predict", str(run.folder), image, "--out", str(out), *asked]) == 2
            assert "unetzoo[objects]" in capsys.readouterr().err
            assert not out.exists()

    def test_objects_are_found_once(self, run: Run) -> None:
        found = Predictor(run.folder)(run.folder.parent / "data" / "val" / "images" / "a.png")
        assert found.instances() is found.instances()

    def test_evaluation_counts_the_same_objects(self, run: Run) -> None:
        found = unetzoo.evaluation.evaluate(run.folder, run.folder.parent / "data", split="train", objects=True)
        row = run.history[(run.best_epoch or 1) - 1]
        assert found.objects is not None
        assert found.objects.true == row["objects_true"]
        assert found.objects.pooled()["ap_50"] == pytest.approx(row["object_ap_50"])

    def test_tiles_and_views_give_the_objects_of_the_whole(self, run: Run) -> None:
        path = run.folder.parent / "data" / "val" / "images" / "a.png"
        whole = Predictor(run.folder, tile=None)(path).instances()
        tiled = Predictor(run.folder, tile=32, overlap=16, tta="flips")(path).instances()
        assert len(whole) == len(tiled) == 5

    @pytest.mark.parametrize("name", ["unet", pytest.param("unet3p", marks=pytest.mark.slow)])
    def test_what_was_cut_goes_on_bit_for_bit(self, name: str, run: Run, tmp_path: Path) -> None:
        data = run.folder.parent / "data"
        settings = {
            "data.workers": 0,
            "model.options.base_channels": 4,
            "model.schedule": "constant",
            "model.warmup": 0,
        }
        common = {"data": data, "task": "instances", "crop_size": 32, "batch_size": 2, "quiet": True}
        whole = unetzoo.fit(name, out=tmp_path / "whole", epochs=2, settings=settings, **common)
        limit = {"trainer.limit_val_batches": 1.0, "trainer.max_steps": 3}
        unetzoo.fit(name, out=tmp_path / "cut", epochs=2, settings={**settings, **limit}, **common)
        cut = unetzoo.fit(resume=tmp_path / "cut", quiet=True, settings={"trainer.max_steps": -1})
        assert (cut.folder / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()
        ours, theirs = cut.load().state_dict(), whole.load().state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["unet", "unetpp", "unet3p", "unetpp_lite_resnet18", "unet3p_lite_resnet18"])
    def test_every_architecture_learns_twenty_crops_by_heart(self, name: str, tmp_path: Path) -> None:
        for part in ("train", "val"):
            write(tmp_path / "data" / part, {f"{seed:02}": crowd(seed) for seed in range(20)})
        small = {} if "res" in name else {"model.options.base_channels": 8}
        small |= {"model.options.branch_channels": 8} if name == "unet3p" else {}
        run = unetzoo.fit(
            name,
            data=tmp_path / "data",
            out=tmp_path / "run",
            task="instances",
            epochs=30,
            crop_size=64,
            batch_size=4,
            lr=3e-3,
            augmentation="none",
            quiet=True,
            settings={"data.workers": 0, "data.repeats": 3, **small},
        )
        assert max(row["object_ap_50"] or 0 for row in run.history) >= 0.95


class TestHeads:
    """What becomes of the head where a model goes on with or without edges."""

    @pytest.mark.parametrize(("classes", "task"), [(1, "binary"), (3, "multilabel")])
    def test_classes_are_kept_with_and_without_edges(self, classes: int, task: str, tmp_path: Path) -> None:
        image = torch.rand(1, 3, 32, 32)
        model = unetzoo.create(
            "unet", task="instances", num_classes=classes, base_channels=4, deep_supervision=True,
        ).eval()  # fmt: skip
        unetzoo.save(model, tmp_path / "edges.safetensors")
        plain = unetzoo.load(tmp_path / "edges.safetensors", task=task)
        torch.testing.assert_close(plain(image), model(image)[:, :classes])
        unetzoo.save(plain, tmp_path / "plain.safetensors")
        again = unetzoo.load(tmp_path / "plain.safetensors", task="instances")
        assert again.config == model.config
        torch.testing.assert_close(again(image)[:, :classes], plain(image))
        ours, theirs = again.head.conv.weight[classes:], model.head.conv.weight[classes:]
        assert not torch.equal(ours, theirs)
        for one, other in zip(again.deep_heads, model.deep_heads, strict=True):
            assert torch.equal(one.conv.weight[:classes], other.conv.weight[:classes])

    @pytest.mark.parametrize(
        ("classes", "wanted", "task"), [(1, 2, "multiclass"), (2, 3, "multiclass"), (1, 2, "multilabel")]
    )
    def test_edges_are_never_taken_for_a_class(
        self, classes: int, wanted: int, task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As many outputs, which say other things."""
        model = unetzoo.create("unet", task="instances", num_classes=classes, base_channels=4)
        unetzoo.save(model, tmp_path / "a.safetensors")
        other = unetzoo.load(tmp_path / "a.safetensors", task=task, num_classes=wanted)
        assert other.head.conv.weight.shape == model.head.conv.weight.shape
        assert not torch.equal(other.head.conv.weight, model.head.conv.weight)
        assert "re-initialised" in caplog.text
        assert "#000000" not in caplog.text


def test_a_pixel_of_a_band_a_class_is_of_the_last_class_alone(tmp_path: Path) -> None:
    """As of a folder a class; what does not count stays so, whichever class says it."""
    bands = np.zeros((2, 16, 16), np.uint8)
    bands[0, 2:10, 2:10], bands[1, 6:14, 6:14] = 1, 1
    bands[0, 7, 7] = 9
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    tifffile.imwrite(tmp_path / "masks" / "a.tif", bands, photometric="minisblack", planarconfig="separate")
    labels = Labels(task="instances", num_classes=2, ignore=9, foreground="any")
    (item,) = SegmentationDataset(list_samples(tmp_path, labels).samples[""], labels)
    first, second = item["target"]
    assert first[7, 7] == -100
    counted = first >= 0
    assert torch.equal((first == 1)[counted], torch.from_numpy((bands[0] == 1) & (bands[1] == 0))[counted])
    assert torch.equal((second == 1)[counted], torch.from_numpy(bands[1] == 1)[counted])

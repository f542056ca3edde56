"""Predictors in other processes: pickled, given batches, and in workers of Ray that are killed on the way."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import unetzoo
from unetzoo import Predictor, drawing, images

Sizes = tuple[tuple[int, int], ...]
TASKS = {"binary": 1, "multiclass": 3, "multilabel": 2}
WITH_RAY = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='pip install "ray[data]"'),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the tree of processes is read in /proc"),
]


def lively_model(task: str = "binary") -> unetzoo.SegmentationModel:
    """Return a network whose masks are neither empty nor full: half of an image passes the threshold, more or less."""
    model = unetzoo.create("unet", base_channels=4, num_classes=TASKS[task], task=task).eval()
    image, _ = drawing.draw_nuclei(96, 96, seed=99)
    with torch.no_grad():
        model.head.conv.weight *= 50
        logits = model(images.prepare(image, model.config))
        model.head.conv.bias -= logits.median(dim=3).values.median(dim=2).values[0]
    return model


def arrays(count: int, sizes: Sizes = ((48, 64),)) -> list[np.ndarray]:
    """Return images (H, W, 3) uint8, of the sizes in turn."""
    drawn = (drawing.draw_nuclei(*sizes[k % len(sizes)], seed=k)[0] for k in range(count))
    return [image.permute(1, 2, 0).numpy() for image in drawn]


@pytest.mark.parametrize("task", TASKS)
def test_a_pickled_predictor_says_the_same(task: str) -> None:
    options = {} if task == "multiclass" else {"threshold": 0.4}
    predictor = Predictor(lively_model(task), tile=32, overlap=8, tta="flips", **options)
    copied = pickle.loads(pickle.dumps(predictor))
    (image,) = arrays(1, ((70, 50),))
    mine, its = predictor(image), copied(image)
    assert torch.equal(its.probabilities, mine.probabilities)
    assert torch.equal(its.mask, mine.mask)
    assert len(mine.mask.unique()) > 1


def test_another_process_that_is_given_a_predictor_says_the_same(tmp_path: Path) -> None:
    predictor = Predictor(lively_model(), device="cpu")
    (image,) = arrays(1)
    (tmp_path / "given.pickle").write_bytes(pickle.dumps((predictor, image)))
    code = (
        "import pickle, torch; torch.set_num_threads(1); predictor, image = pickle.load(open('given.pickle', 'rb')); "
        "pickle.dump(predictor({'image': image[None]})['mask'], open('mask.pickle', 'wb'))"
    )
    with one_thread():
        mask = predictor(image).mask.numpy()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    (its,) = pickle.loads((tmp_path / "mask.pickle").read_bytes())
    assert its.dtype == mask.dtype
    assert np.array_equal(its, mask)
    assert 0 < mask.mean() < 1


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_of_arrays_gives_what_single_calls_give(task: str) -> None:
    predictor = Predictor(lively_model(task))
    some_images = arrays(3)
    batch = {"image": np.stack(some_images), "id": np.array([7, 8, 9])}
    found = predictor(batch)
    assert list(found) == ["image", "id", "mask"]
    assert found["image"] is batch["image"]
    assert found["id"] is batch["id"]
    assert list(batch) == ["image", "id"]
    assert found["mask"].dtype == np.uint8
    single = [predictor(image).mask.numpy() for image in some_images]
    assert np.array_equal(found["mask"], np.stack(single))
    assert not np.array_equal(single[0], single[1])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sizes", [((48, 64), (30, 50)), ((48, 64), (48, 50))], ids=["both sides", "widths alone"])
def test_a_batch_may_hold_images_of_several_sizes_and_paths(tmp_path: Path, task: str, sizes: Sizes) -> None:
    """Ray Data passes arrays of one size as one array, of several as an array of objects, and texts as text."""
    predictor = Predictor(lively_model(task))
    some_images = arrays(3, sizes)
    ragged = np.empty(3, dtype=object)
    ragged[:] = some_images
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, image in zip(paths, some_images, strict=True):
        Image.fromarray(image).save(path)
    single = [predictor(image).mask.numpy() for image in some_images]
    for batch in (ragged, some_images, paths, np.array(list(map(str, paths)))):
        masks = predictor({"image": batch})["mask"]
        assert masks.dtype == object
        assert masks.shape == (3,)
        for mask, expected in zip(masks, single, strict=True):
            assert np.array_equal(mask, expected)


def test_a_batch_without_images_is_refused_by_what_it_has() -> None:
    predictor = Predictor(lively_model())
    with pytest.raises(unetzoo.InputError, match=r"'image'.*'photo', 'path'"):
        predictor({"photo": np.zeros((1, 8, 8, 3), np.uint8), "path": ["a"]})
    with pytest.raises(unetzoo.InputError, match="nothing"):
        predictor({})


class TestExample:
    """``examples/ray_predict.py``, on a cluster of its own."""

    pytestmark = WITH_RAY

    @pytest.fixture
    def ray_folder(self) -> Iterator[Path]:
        """Return a folder for Ray's own files; its name is short, as sockets are in it."""
        folder = Path(tempfile.mkdtemp(prefix="ray_"))
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    @pytest.fixture
    def work(self, tmp_path: Path) -> Path:
        """Return a folder with a model and images: 48 whole ones of several sizes, in sub-folders too, and two not.

        They are large enough for a worker to be killed while it still has much to do.
        """
        unetzoo.save(lively_model(), tmp_path / "model.safetensors")
        (drawn,) = arrays(1, ((700, 640),))
        for k in range(48):
            image = np.roll(drawn, 31 * k, axis=k % 2)[: 700 - 90 * (k % 3)]
            path = tmp_path / "images" / ("even" if k % 2 == 0 else "") / f"{k:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, compress_level=1)
        (tmp_path / "images" / "00_cut.png").write_bytes(path.read_bytes()[:5000])
        (tmp_path / "images" / "even" / "text.png").write_text("no image", encoding="utf-8")
        return tmp_path

    def start(self, work: Path, ray_folder: Path, *options: str) -> subprocess.Popen[str]:
        settings = {
            "HOME": str(ray_folder),  # for the token that Ray writes
            "RAY_TMPDIR": str(ray_folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        with (work / "errors.txt").open("w") as errors:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "examples" / "ray_predict.py"), *options],
                cwd=work,
                env=environment | settings,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def finished(self, run: subprocess.Popen[str], work: Path) -> tuple[int, str, str]:
        printed, _ = run.communicate(timeout=300)
        return run.returncode, printed, (work / "errors.txt").read_text(encoding="utf-8")

    def test_a_killed_worker_neither_loses_nor_changes_a_mask(self, work: Path, ray_folder: Path) -> None:
        run = self.start(work, ray_folder, "model.safetensors", "images", "masks", "--actors", "2")
        masks = work / "masks"
        try:
            wait_for(lambda: any(masks.rglob("*.png")), run)
            workers = {pid for pid, title in descendants(run.pid) if title.startswith("ray::MapWorker")}
            assert len(workers) == 2
            killed = min(workers)
            os.kill(killed, signal.SIGKILL)
            left = 48 - len(list(masks.rglob("*.png")))
            wait_for(lambda: killed not in {pid for pid, _ in descendants(run.pid)}, run)
            code, printed, errors = self.finished(run, work)
        finally:
            stop(run)
        assert left > 8, "the worker was killed too late to matter"
        assert code == 1, errors
        assert printed.splitlines().count("48 of 50 images have their masks in masks") == 1  # beside what Ray says
        problems = [line for line in errors.splitlines() if line.startswith(str(work))]
        assert [line.partition(": ")[0] for line in problems] == [
            str(work / "images" / name) for name in ("00_cut.png", "even/text.png")
        ]
        self.check(work)

    def check(self, work: Path) -> None:
        """Hold each mask against the one that this process finds."""
        some_images = {path.relative_to(work / "images") for path in (work / "images").rglob("[0-9][0-9].png")}
        found = {path.relative_to(work / "masks") for path in (work / "masks").rglob("*") if path.is_file()}
        assert found - some_images == {Path(".unetzoo.json")}
        assert len(some_images) == 48
        assert some_images <= found
        predictor = Predictor(work / "model.safetensors", tile=1024)
        with one_thread():
            for name in some_images:
                mask = predictor(work / "images" / name).mask.numpy()
                assert 0.05 < mask.mean() < 0.95
                with Image.open(work / "masks" / name) as image:
                    assert np.array_equal(np.asarray(image), 255 * mask), name

    def test_a_run_that_was_stopped_goes_on_and_leaves_alone_what_is_done(self, work: Path, ray_folder: Path) -> None:
        predictor = Predictor(work / "model.safetensors", tile=1024)
        done = [*sorted((work / "images" / "even").glob("[0-9][0-9].png"))][:5]
        with one_thread():
            for path in done:
                predictor(path).save(work / "masks" / "even" / path.name)
        half = work / "masks" / ".01.png.saving"  # as a writer leaves it that is killed
        half.write_bytes(b"\x89PNG")
        before = {path: path.stat().st_mtime_ns for path in (work / "masks" / "even").iterdir()}
        run = self.start(work, ray_folder, "model.safetensors", "images", "masks", "--actors", "1")
        try:
            code, printed, errors = self.finished(run, work)
        finally:
            stop(run)
        assert code == 1, errors
        assert printed == "48 of 50 images have their masks in masks\n"
        assert before == {path: path.stat().st_mtime_ns for path in before}
        assert len(before) == 5
        self.check(work)

    def test_what_cannot_be_is_refused_before_ray_starts(self, work: Path, ray_folder: Path) -> None:
        (work / "empty").mkdir()
        (work / "others").mkdir()
        (work / "others" / ".unetzoo.json").write_text(
            '{"model": "another.safetensors", "tile": 1024}', encoding="utf-8"
        )
        for options, words in (
            (("none.safetensors", "images", "masks"), "none.safetensors"),
            (("model.safetensors", "empty", "masks"), "no images in"),
            (("model.safetensors", "missing", "masks"), "missing': .*no such file"),
            (("model.safetensors", "images", "others"), "another.safetensors"),
        ):
            code, printed, errors = self.finished(self.start(work, ray_folder, *options), work)
            assert code == 2
            assert not printed
            assert re.search(words, errors.splitlines()[-1])
            assert "Traceback" not in errors
        assert not list(ray_folder.iterdir())
        assert not (work / "masks").exists()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute as the workers do: sums are rounded alike where they are split alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wait_for(happened: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert run.poll() is None, "the example ended early"
        assert time.monotonic() < end
        time.sleep(0.01)


def descendants(pid: int) -> list[tuple[int, str]]:
    """Return process id and title of all processes that a process has started, and those have."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            waiting.append(child)
            with contextlib.suppress(OSError):
                found.append((child, Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()))
    return found


def stop(run: subprocess.Popen[str]) -> None:
    """End the cluster with all its processes, should a test have failed on the way."""
    left = descendants(run.pid) if run.poll() is None else []
    for pid in (*(pid for pid, _ in left), *([run.pid] if left else ())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.wait()
    if run.stdout is not None:
        run.stdout.close()

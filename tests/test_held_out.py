"""What a model is judged by: splits that stay when images come, and no image that it was trained on."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings, strategies as st
from PIL import Image

import unetzoo
from unetzoo.cli import main
from unetzoo.data import Labels, Sample, find_samples, splitting
from unetzoo.data.listing import Listing
from unetzoo.data.record import DataRecord
from unetzoo.data.splitting import NAMES, allot
from unetzoo.errors import ConfigError

pytestmark = pytest.mark.usefixtures("no_curves")

TRAINED = 12
"""Images of the run below, before any is added."""
RATIOS = (0.5, 0.25, 0.25)
TINY = {
    "epochs": 1, "crop_size": 32, "batch_size": 4, "quiet": True, "ratios": RATIOS,
    "settings": {"model.options.base_channels": 4, "data.workers": 0, "data.repeats": 1, "trainer.accelerator": "cpu"},
}  # fmt: skip
FURTHER = {
    **TINY,
    "batch_size": 1,
    "settings": {key: value for key, value in TINY["settings"].items() if "options" not in key},
}
"""Of a run that begins from another's network."""


def expected(key: str, ratios: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> str:
    """Return the split that the rule of the docs gives a name: the SHA-256 as a share of all that there can be."""
    share = int(hashlib.sha256(f"{seed}/{key}".encode()).hexdigest(), 16) / 16**64
    return "test" if share < ratios[2] else "val" if share < ratios[2] + ratios[1] else "train"


def listed(names: Sequence[str]) -> Listing:
    return Listing(Labels(), {"": tuple(Sample(name, Path("i"), Path("m")) for name in names)}, (), ())


def homes(splits: dict[str, tuple[Sample, ...]]) -> dict[str, str]:
    return {sample.name: split for split, found in splits.items() for sample in found}


def draw(folder: Path, names: Sequence[str], seed: int = 0) -> None:
    """Write images of noise with masks, each of which is another."""
    rng = np.random.default_rng(seed)
    for name in names:
        for part, shape in (("images", (32, 32, 3)), ("masks", (32, 32))):
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255 if part == "images" else 2, shape, dtype=np.uint8)
            Image.fromarray(pixels * (1 if part == "images" else 255)).save(folder / part / f"{name}.png")


def copied(folder: Path, name: str, other: str) -> None:
    for part in ("images", "masks"):
        shutil.copy(folder / part / f"{name}.png", folder / part / f"{other}.png")


def named_for(split: str, *, seed: int = 0) -> str:
    """Return a name that the rule sends to a split."""
    return next(name for name in (f"late{k}" for k in range(1000)) if expected(name, RATIOS, seed) == split)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data of 12 images, in ``data``, and a run on them, in ``run``."""
    folder = tmp_path_factory.mktemp("trained")
    draw(folder / "data", [f"{k:03}" for k in range(TRAINED)])
    unetzoo.fit("unet", data=folder / "data", out=folder / "run", **TINY)
    return folder


@pytest.fixture
def both(trained: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return the data and the run, to be changed."""
    return tuple(Path(shutil.copytree(trained / part, tmp_path / part)) for part in ("data", "run"))


# The split of a name


@pytest.mark.parametrize("seed", range(5))
def test_no_image_moves_when_ten_come(seed: int) -> None:
    names = [f"image_{k:03}" for k in range(110)]
    before = homes(splitting.divide(listed(names[:100]), seed=seed))
    after = homes(splitting.divide(listed(names), seed=seed))
    assert after == {name: expected(name, seed=seed) for name in names}
    assert before == {name: after[name] for name in names[:100]}
    assert homes(splitting.divide(listed(names[30:]), seed=seed)) == {name: after[name] for name in names[30:]}


@given(
    count=st.integers(3, 40),
    more=st.integers(1, 20),
    seed=st.integers(0, 10**6),
    ratios=st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.98, 0.01, 0.01), (0.7, 0.3, 0.0)]),
)
@settings(max_examples=300, deadline=None)
def test_what_trained_goes_on_training(count: int, more: int, seed: int, ratios: tuple[float, ...]) -> None:
    """Also where splits would be empty, and groups are moved there."""
    groups = {f"g{k}": 1 for k in range(count + more)}
    before, after = (allot(dict([*groups.items()][:many]), ratios, seed) for many in (count, count + more))
    wanted = {split for split, ratio in zip(NAMES, ratios, strict=True) if ratio}
    assert set(before.values()) == set(after.values()) == wanted
    if any(expected(key, ratios, seed) == "train" for key in before):
        assert all(after[key] == "train" for key, split in before.items() if split == "train")
    if {expected(key, ratios, seed) for key in before} == wanted:
        assert before == {key: expected(key, ratios, seed) for key in before}


def test_shares_are_near_the_ratios() -> None:
    parts = [*allot({f"{k}": 1 for k in range(10_000)}, (0.7, 0.2, 0.1), 0).values()]
    assert [parts.count(split) for split in NAMES] == pytest.approx([7000, 2000, 1000], abs=150)


def test_each_group_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, number = [], splitting.number
    monkeypatch.setattr(splitting, "number", lambda key, seed: calls.append(key) or number(key, seed))
    names = [f"{k:06}" for k in range(2000)]
    splitting.divide(listed(names))
    assert sorted(calls) == names


def test_images_of_another_folder_move_none_of_a_list(tmp_path: Path) -> None:
    """Names are told apart by as much of the path as is needed: more, when another folder is listed too."""
    draw(tmp_path / "one", [f"{k:02}" for k in range(30)])
    draw(tmp_path / "two", [f"{k:02}" for k in range(30)])
    (tmp_path / "lists").mkdir()
    rows = [f"../{f}/images/{k:02}.png,../{f}/masks/{k:02}.png" for f in ("one", "two") for k in range(30)]
    found = []
    for count in (30, 60):
        (tmp_path / "lists" / "a.csv").write_text("\n".join(["image,mask", *rows[:count]]), encoding="utf-8")
        splits = find_samples(tmp_path / "lists" / "a.csv", Labels())
        found.append({sample.image: split for split, samples in splits.items() for sample in samples})
    assert found[0] == {image: split for image, split in found[1].items() if "one" in image.parts}


def test_accents_count_alike_however_they_are_composed() -> None:
    assert splitting.number("zelle_\u00e4", 0) == splitting.number("zelle_a\u0308", 0)
    assert splitting.number("zelle_\udcff", 0) != splitting.number("zelle_\udcfe", 0)


# The list of a run


def test_a_run_lists_its_data(trained: Path) -> None:
    found = json.loads((trained / "run" / "data.json").read_text(encoding="utf-8"))
    splits = find_samples(trained / "data", Labels(), ratios=RATIOS)
    assert {split: [*found[split]] for split in NAMES} == {s: [x.name for x in splits[s]] for s in NAMES}
    pairs = {name: pair for split in NAMES for name, pair in found[split].items()}
    assert len({text for pair in pairs.values() for text in pair}) == 2 * TRAINED
    assert found["before"] == found["chosen"] == {}
    record = DataRecord.read(trained / "run" / "data.json")
    assert record.changes(record) == []
    assert record.changes(DataRecord.of(splits)) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "train": {"a": 3}}', '{"format": 2}', "[" * 9999])
def test_a_damaged_list_is_one_error(text: str, both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data, run = both
    (run / "data.json").write_text(text, encoding="utf-8")
    assert main(["evaluate", str(run), "--data", str(data), "--split", "test"]) == 2
    assert re.search(r"^unetzoo: .*data\.json is not a record .*move it away$", capsys.readouterr().err.strip())


# Judging


def ways(run: Path) -> list[Callable[..., set[str]]]:
    """Return all ways to name a run, each as what gives the names of the images that it is judged by."""
    models = [run, run / "best.safetensors", unetzoo.train.runs.Run(run), [run], unetzoo.Predictor(run, tile=None)]
    return [lambda model=model, **how: {row["name"] for row in unetzoo.evaluate(model, **how).rows} for model in models]


def test_a_run_is_judged_by_its_own_test_images_and_new_ones(
    both: tuple[Path, Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data, run = both
    record = json.loads((run / "data.json").read_text())
    own = {split: set(record[split]) for split in NAMES}
    names = [f"new{k}" for k in range(20)]
    draw(data, names, seed=1)
    new = {split: {name for name in names if expected(name, RATIOS) == split} for split in NAMES}
    assert all(new.values())
    for judge in ways(run):
        caplog.clear()
        assert judge(source=data, split="test") == own["test"] | new["test"]
        (said,) = (record.getMessage() for record in caplog.records)
        assert re.search(f"{len(new['test'])} of {len(own['test'] | new['test'])} images .* are new", said)
    assert judge(source=data, split="train") == own["train"] | new["train"]
    assert unetzoo.calibrate(run, data).images == len(own["val"] | new["val"])
    assert main(["evaluate", str(run), "--data", str(data), "--split", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == len(own["test"] | new["test"])


def test_images_that_were_renamed_stay_in_their_split(both: tuple[Path, Path]) -> None:
    data, run = both
    own = json.loads((run / "data.json").read_text())
    for part in ("images", "masks"):
        for path in [*(data / part).iterdir()]:
            path.rename(path.with_name(f"renamed_{path.name}"))
    for split in NAMES:
        found = unetzoo.evaluate(run, data, split=split)
        assert {row["name"] for row in found.rows} == {f"renamed_{name}" for name in own[split]}


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_copy_of_a_training_image_is_never_held_out(
    split: str, both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """In a layout with splits; where the run's list splits, the copy goes with what it is a copy of."""
    data, run = both
    own = json.loads((run / "data.json").read_text())
    learned, late = next(iter(own["train"])), named_for(split)
    copied(data, learned, late)
    for judge in ways(run):
        assert judge(source=data, split=split) == set(own[split])
        with pytest.raises(
            ConfigError, match=rf"1 of \d images .*trained on by .*split='train' .*'{late}' \(as '{learned}'\)"
        ):
            judge(source=data, split=split, ratios=RATIOS)
    copied(data, learned, "elsewhere")
    layout = data.parent / "layout"
    for part in ("train", "val", "test"):
        draw(layout / part, [f"{part}{k}" for k in range(2)], seed=5)
    for part in ("images", "masks"):
        shutil.copy(data / part / f"{learned}.png", layout / split / part / "planted.png")
    for judge in ways(run):
        with pytest.raises(ConfigError, match=rf"'planted' \(as '{learned}'\)"):
            judge(source=layout, split=split)
    with pytest.raises(ConfigError, match="'planted'"):
        unetzoo.calibrate(run, layout, split=split)
    for command in ("evaluate", "calibrate"):
        assert main([command, str(run), "--data", str(layout), "--split", split]) == 2
        assert "'planted'" in capsys.readouterr().err


def test_a_training_image_that_was_changed_is_known_by_its_name(both: tuple[Path, Path]) -> None:
    data, run = both
    own = json.loads((run / "data.json").read_text())
    learned = next(iter(own["train"]))
    layout = data.parent / "layout"
    for split in NAMES:
        for name in own[split]:
            for part in ("images", "masks"):
                (layout / split / part).mkdir(parents=True, exist_ok=True)
                shutil.copy(data / part / f"{name}.png", layout / split / part / f"{name}.png")
    assert {row["name"] for row in unetzoo.evaluate(run, layout).rows} == set(own["test"])
    draw(layout / "test", [learned], seed=9)
    with pytest.raises(ConfigError, match=rf"1 of \d images of test of .*: .*'{learned}'"):
        unetzoo.evaluate(run, layout)


def test_all_images_at_once_are_scored_where_none_was_trained_on(
    both: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    data, run = both
    with pytest.raises(ConfigError, match=rf"\d of {TRAINED} images .*say which split, such as split='test'"):
        unetzoo.evaluate(run, data)
    draw(data.parent / "other", [f"{k:03}" for k in range(TRAINED)], seed=3)  # of the same names
    assert len(unetzoo.evaluate(run, data.parent / "other").rows) == TRAINED
    assert not caplog.records


def test_validation_images_that_are_tested_on_are_told(
    both: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    data, run = both
    chosen = next(iter(json.loads((run / "data.json").read_text())["val"]))
    for split in NAMES:
        draw(data.parent / "layout" / split, [f"{split}{k}" for k in range(2)], seed=5)
    for part in ("images", "masks"):
        shutil.copy(data / part / f"{chosen}.png", data.parent / "layout" / "test" / part)
    unetzoo.evaluate(run, data.parent / "layout")
    assert re.search(rf"1 of 3 images .*used to validate .*'{chosen}'", caplog.text)
    caplog.clear()
    shutil.copytree(data.parent / "layout" / "test", data.parent / "all")
    unetzoo.evaluate(run, data.parent / "all")
    assert re.search(rf"1 of 3 images .*used to validate .*'{chosen}'", caplog.text)


def test_models_that_are_averaged_have_no_training_image_of_any_in_test(both: tuple[Path, Path]) -> None:
    data, run = both
    second = data.parent / "second"
    unetzoo.fit("unet", data=data, out=second, **TINY, seed=4)
    lists = [json.loads((folder / "data.json").read_text()) for folder in (run, second)]
    with pytest.raises(ConfigError, match="seed is 0, 4: give seed"):
        unetzoo.evaluate([run, second], data, split="test")
    learned = {name for found in lists for name in found["train"]} & set(lists[1]["test"])
    assert learned
    with pytest.raises(ConfigError, match=rf"{len(learned)} of .* trained on by .*run and .*second"):
        unetzoo.evaluate([run, second], data, split="test", seed=4)


def test_a_model_without_a_list_is_told(both: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    data, run = both
    shutil.copy(run / "best.safetensors", data.parent / "alone.safetensors")
    for model in (data.parent / "alone.safetensors", unetzoo.load(run)):
        caplog.clear()
        unetzoo.evaluate(model, data)  # nobody said that they are held out
        assert not caplog.records
        unetzoo.evaluate(model, data, split="test")
        assert re.search(r"no data\.json says what .* was trained on", caplog.text)


def test_what_the_model_began_with_counts_too(both: tuple[Path, Path]) -> None:
    data, run = both
    own = json.loads((run / "data.json").read_text())
    further = data.parent / "further"
    unetzoo.fit(run, data=data, out=further, **FURTHER, seed=4)
    found = json.loads((further / "data.json").read_text())
    assert found["before"] == own["train"]
    both_learned = set(own["train"]) & set(found["test"])
    assert both_learned
    with pytest.raises(ConfigError, match=f"{len(both_learned)} of .* were trained on"):
        unetzoo.evaluate(further, data, split="test")


def laid_out(folder: Path, data: Path, splits: dict[str, Sequence[str]]) -> Path:
    """Return a folder with splits of its own, of copies under the names of ``data``."""
    for split, names in splits.items():
        for part in ("images", "masks"):
            (folder / split / part).mkdir(parents=True)
            for name in names:
                shutil.copy(data / part / f"{name}.png", folder / split / part)
    return folder


def test_what_chose_the_model_that_it_began_with_is_told(
    both: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Also after another run between: the grandchild was chosen by what its parent's parent was validated on."""
    data, run = both
    own = json.loads((run / "data.json").read_text())
    draw(data, [name for k in range(3) for name in (f"new{k}", f"later{k}", f"other{k}")], seed=1)
    (chosen, *_), (held, *_) = own["val"], own["test"]
    runs, model = [], run / "best.safetensors"
    for k, word in enumerate(("new", "later")):
        splits = {"train": [f"{word}0"], "val": [f"{word}1"], "test": [f"{word}2", chosen, held]}
        layout = laid_out(data.parent / f"layout{k}", data, splits)
        caplog.clear()
        runs.append(Path(unetzoo.fit(model, data=layout, out=data.parent / f"run{k}", **FURTHER).folder))
        begun = [record.getMessage() for record in caplog.records]
        assert [text for text in begun if re.search(rf"1 of 3 images of test .*used to validate .*'{chosen}'", text)]
        assert not [text for text in begun if "trained on" in text or f"'{held}'" in text]
        model = runs[-1] / "best.safetensors"
        found = json.loads((runs[-1] / "data.json").read_text())
        assert set(found["chosen"]) == {*own["val"], *(["new1"] if k else [])}
        assert set(found["before"]) == {*own["train"], *(["new0"] if k else [])}
        for split, told in (("test", True), ("val", False), (None, True)):
            caplog.clear()
            unetzoo.evaluate(runs[-1], layout, split=split)
            assert bool(re.search(rf"1 of 3 images .*validate the initial model of .*'{chosen}'", caplog.text)) == told
    caplog.clear()
    unetzoo.calibrate(runs[-1], layout, split="test")
    assert re.search(rf"used to validate the initial model .*'{chosen}'", caplog.text)


def test_a_run_that_holds_back_what_its_model_learned_says_so(
    both: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    data, run = both
    learned, second, *_ = json.loads((run / "data.json").read_text())["train"]
    draw(data, ["new0", "new1", "new2"], seed=1)
    layout = laid_out(
        data.parent / "layout", data, {"train": ["new0"], "val": ["new1", second], "test": ["new2", learned]}
    )
    unetzoo.fit(run, data=layout, out=data.parent / "further", **FURTHER)
    for split, name in (("val", second), ("test", learned)):
        said = rf"1 of 2 images of {split} were trained on by .*seed.*'{name}'"
        assert [record for record in caplog.records if re.search(said, record.getMessage())]
    shutil.copy(run / "best.safetensors", data.parent / "alone.safetensors")
    caplog.clear()
    unetzoo.fit(data.parent / "alone.safetensors", data=layout, out=data.parent / "unknown", **FURTHER)
    assert re.search(r"no data\.json says what .*alone\.safetensors was trained on", caplog.text)
    caplog.clear()
    unetzoo.fit(resume=data.parent / "unknown", epochs=2, quiet=True)
    assert not caplog.records


def test_a_list_of_before_knows_of_no_images_that_chose(both: tuple[Path, Path]) -> None:
    _, run = both
    record = DataRecord.read(run / "data.json")
    found = json.loads((run / "data.json").read_text())
    del found["chosen"]
    (run / "data.json").write_text(json.dumps(found), encoding="utf-8")
    assert DataRecord.read(run / "data.json") == record


# Going on


@pytest.mark.parametrize("change", ["new", "gone", "another image", "another mask"])
def test_a_run_goes_on_with_its_own_data_alone(
    change: str, both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = both
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    settings["data"]["folder"] = str(data)
    (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    name = next(iter(json.loads((run / "data.json").read_text())["train"]))
    if change == "new":
        name = named_for("val")
        draw(data, [name], seed=2)
    else:
        for part in ("images", "masks"):
            if change == "gone":
                (data / part / f"{name}.png").unlink()
            elif change == f"another {part[:-1]}":
                copied(data, next(iter(path.stem for path in (data / part).iterdir() if path.stem != name)), "z")
                (data / part / "z.png").replace(data / part / f"{name}.png")
                for left in data.glob("*/z.png"):
                    left.unlink()
    said = rf"a resumed run needs the data that it began with.*'{name}'.*{change}"
    with pytest.raises(ConfigError, match=said):
        unetzoo.fit(resume=run, epochs=2, quiet=True)
    assert main(["train", "--resume", str(run), "--epochs", "2", "--quiet"]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_data_that_moved_as_they_are_go_on(both: tuple[Path, Path]) -> None:
    data, run = both
    data.rename(data.parent / "moved")
    before = (run / "data.json").read_bytes()
    assert len(unetzoo.fit(resume=run, data=data.parent / "moved", epochs=2, quiet=True).history) == 2
    assert (run / "data.json").read_bytes() == before


def test_a_run_without_a_list_does_not_go_on(both: tuple[Path, Path]) -> None:
    _, run = both
    (run / "data.json").unlink()
    with pytest.raises(ConfigError, match=r"there is no .*data\.json.*a new run, starting from .*best\.safetensors"):
        unetzoo.fit(resume=run, epochs=2, quiet=True)

"""Model cards: every fact is the model's, and the example runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard as HubCard
from PIL import Image

import unetzoo
from unetzoo import ConfigError, ModelCard, WeightsError
from unetzoo.saving import sources

CARD = ModelCard(
    license="cc-by-4.0",
    training_data="Grown in a dish --> and <b>photographed</b>.",
    metrics={"Dice": 0.9125, "Mean IoU": 1},
    evaluation_data="The held-out fifth",
    text="## Limits\n\nNone known.",
)


def written(
    folder: Path, card: ModelCard | None = None, name: str = "unet", half: bool = False, **options: object
) -> str:
    model = unetzoo.create(name, **options)
    if half:
        model.half()
    unetzoo.save_pretrained(model, folder, card=card)
    return (folder / "README.md").read_text(encoding="utf-8")


def front_matter(text: str) -> dict[str, object]:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_row_is_that_of_the_table(tmp_path: Path) -> None:
    text = written(tmp_path, name="resunet18")
    row = unetzoo.compare("resunet18", size=512).render("md").splitlines()
    for line in row:
        assert line in text
    assert "20.78M ✓" in text
    assert "20.78M" not in written(tmp_path / "b", name="resunet18", norm="group", num_classes=2, stem_stride=1)


@pytest.mark.parametrize(
    "options",
    [
        {"base_channels": 2},
        {"base_channels": 2, "half": True},
        {"base_channels": 2, "num_classes": 3, "in_channels": 5, "mean": [0.1] * 5, "std": [0.3] * 5},
        {"name": "resunet18", "class_names": ["nucleus"], "mean": (0.485, 0.456, 0.406), "std": (0.2, 0.2, 0.2)},
    ],
)
def test_the_example_runs(options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = written(tmp_path / "cells", CARD, **options)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) == 4
    monkeypatch.chdir(tmp_path)
    pixels = torch.randint(256, (3, 64, 96), dtype=torch.uint8)  # multiples of the strides: nothing is mirrored
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save("image.png")
    torch.manual_seed(5)
    namespace: dict[str, object] = {}
    exec(code, namespace)
    model = unetzoo.load("cells", dtype=torch.float32)
    torch.manual_seed(5)
    images = pixels / 255 if model.config.in_channels == 3 else torch.rand(model.config.in_channels, 256, 256)
    if model.config.mean:
        channels = zip(images, model.config.mean, model.config.std, strict=True)
        images = torch.stack([(channel - mean) / std for channel, mean, std in channels])
    expected = model.predict(images[None])[0]
    torch.testing.assert_close(namespace["result"].probabilities, expected)
    classes = (expected > 0.5)[0] if len(expected) == 1 else expected.argmax(0)
    saved = torch.from_numpy(np.array(Image.open("mask.png")))
    assert torch.equal(saved.bool() if len(expected) == 1 else saved.long(), classes)


def test_facts_stand_where_the_hub_looks_for_them(tmp_path: Path) -> None:
    text = written(tmp_path / "nuclei", CARD, base_channels=2, num_classes=2, class_names=["cell", "<rim>"])
    said = front_matter(text)
    assert said["library_name"] == "unetzoo"
    assert said["pipeline_tag"] == "image-segmentation"
    assert said["license"] == "cc-by-4.0"
    assert {"unetzoo", "semantic-segmentation", "unet"} <= set(said["tags"])
    (entry,) = said["model-index"]
    assert entry["name"] == "nuclei"
    found = {m["name"]: m["value"] for result in entry["results"] for m in result["metrics"]}
    assert found == {"Dice": 0.9125, "Mean IoU": 1}
    assert {result["dataset"]["name"] for result in entry["results"]} == {"The held-out fifth"}
    for words in (
        "- classes: 0: cell, 1: &lt;rim&gt;",
        ["- parameters", " 31,4"][0],
        "Grown in a dish",
        "| Dice | 0.9125 |",
        "Measured on: The held-out fifth",
        "`base_channels=2`",
        "arXiv 1505.04597",
        "## Limits\n\nNone known.",
    ):
        assert words in text, words
    assert HubCard(text).data.eval_results is not None


def test_nothing_is_claimed_that_was_not_given(tmp_path: Path) -> None:
    text = written(tmp_path, base_channels=2)
    for words in ("model-index", "license", "Licence", "Metrics", "Training data", "None", "classes:"):
        assert words not in text, words
    assert "options" not in written(tmp_path / "b", name="unetpp_lite_resnet18")


def test_ten_lines_of_facts_and_ten_rows_are_shown_and_the_rest_is_folded(tmp_path: Path) -> None:
    names = [f"class {k}" for k in range(14)]
    metrics = {f"score {k}": k / 16 for k in range(16)}
    card = replace(CARD, metrics=metrics, base_model="me/cells", training_data="Ten dishes.")
    text = written(tmp_path, card, base_channels=2, num_classes=14, class_names=names)
    shown = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    facts = re.findall(r"^- (.+?): ", shown.partition("\n# ")[2].partition("## Use")[0], re.MULTILINE)
    assert facts == ["input", "output", "classes", "fine-tuned from", "training data", "parameters",
                     "licence of these weights", "saved by"]  # fmt: skip
    assert "9: class 9, and 4 more" in shown
    assert "class 10" not in text
    assert re.findall(r"^\| (score \d+) \| (\S+) \|$", shown, re.MULTILINE) == [
        (name, f"{value:g}") for name, value in [*metrics.items()][:10]
    ]
    for name, value in metrics.items():
        assert f"| {name} | {value:g} |" in text
    assert text.count("<details>") == text.count("</details>") == 2


@pytest.mark.parametrize(
    ("base", "repository"),
    [("hf-hub:me/cells@v2", "me/cells"), ("me/cells", "me/cells"), ("nuclei", None), ("run 3", None), (None, None)],
)
def test_the_base_model_is_named_and_linked_where_it_is_on_the_hub(
    base: str | None, repository: str | None, tmp_path: Path
) -> None:
    text = written(tmp_path, ModelCard(base_model=base), base_channels=2)
    assert (f"- fine-tuned from: {base}\n" in text) == (base is not None)
    said = front_matter(text)
    assert said.get("base_model") == repository
    assert said.get("base_model_relation") == (None if repository is None else "finetune")
    assert f"fine-tuned from: {base}" in written(tmp_path, base_channels=2) or base is None  # kept


def test_saving_again_keeps_the_words_of_the_owner(tmp_path: Path) -> None:
    first = written(tmp_path, CARD, base_channels=2)
    readme = tmp_path / "README.md"
    readme.write_text(
        first.replace("license: cc-by-4.0", "license: mit\nlanguage:\n- fr") + "\nMore.\n", encoding="utf-8"
    )
    second = written(tmp_path, base_channels=2)
    assert second.count("## Limits\n\nNone known.") == 1
    assert second.endswith("\n\nMore.\n")
    assert front_matter(second)["language"] == ["fr"]
    assert front_matter(second)["license"] == "mit"
    assert "Grown in a dish --> and" in second
    assert "0.9125" not in second  # other weights
    assert written(tmp_path, base_channels=2) != second
    model = unetzoo.load(tmp_path)
    unetzoo.save_pretrained(model, tmp_path, card=CARD)
    once = readme.read_text(encoding="utf-8")
    unetzoo.save_pretrained(model, tmp_path)
    assert readme.read_text(encoding="utf-8") == once  # the same weights: the metrics stay, and nothing piles up


def test_a_new_text_takes_the_place_of_the_old_one_and_of_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(written(tmp_path, CARD, base_channels=2) + "\n## Citation\n\nOurs.\n", encoding="utf-8")
    text = written(tmp_path, ModelCard(text="## Only this"), base_channels=2)
    assert "None known." not in text
    assert text.count("## Only this") == 1
    assert text.endswith("## Citation\n\nOurs.\n")
    again = written(tmp_path, ModelCard(text="## Only this"), name="unet_valid", base_channels=2)
    assert again.count("## Only this") == 1
    assert "unet" not in front_matter(again)["tags"]


def test_numbers_of_other_libraries_are_metrics(tmp_path: Path) -> None:
    card = ModelCard(metrics={"Dice": torch.tensor(0.5), "IoU": np.float32(0.25)}, evaluation_data="x")
    assert "| Dice | 0.5 |\n| IoU | 0.25 |" in written(tmp_path, card, base_channels=2)


def test_a_spoilt_card_stops_nothing_but_bad_yaml(tmp_path: Path) -> None:
    text = written(tmp_path, CARD, base_channels=2)
    (tmp_path / "README.md").write_text(text.replace('"training_data"', '"training'), encoding="utf-8")
    again = written(tmp_path, base_channels=2)
    assert "None known." in again
    assert "Grown in a dish" not in again
    before = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\nWords.\n", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"YAML .*README\.md cannot"):
        written(tmp_path, base_channels=2)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    for mark in ("<!-- end of the unetzoo card -->", "<!-- end of the text -->"):
        (tmp_path / "README.md").write_text(text.replace(mark, ""), encoding="utf-8")
        with pytest.raises(WeightsError, match=r"README\.md .*mark '<!-- .*restore .*delete"):
            written(tmp_path, base_channels=2)
    (tmp_path / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(WeightsError, match=r"README\.md .*utf-8.*fix.*move"):
        written(tmp_path, base_channels=2)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"metrics": {"Dice": 0.9}}, "metrics .*evaluation_data.*measured"),
        ({"metrics": {"Dice": float("nan")}, "evaluation_data": "x"}, "a finite number"),
        ({"metrics": {"Dice": "0.9"}, "evaluation_data": "x"}, "a finite number"),
        ({"metrics": [0.9], "evaluation_data": "x"}, r"metrics=\[0\.9\]: .*dictionary"),
        ({"license": 3}, "license=3: text is needed"),
        ({"license": "CC BY 4.0"}, r"license='CC BY 4\.0': .*'mit', 'cc-by-4\.0'.*'other'"),
        ({"text": "<!-- end of the unetzoo card -->"}, r"\btext .*\bmark\b.*generated"),
        ({"training_data": "a <!-- end of the text --> b"}, r"\btraining_data .*\bmark\b.*generated"),
    ],
)
def test_cards_that_are_refused(facts: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ModelCard(**facts)


@pytest.mark.parametrize("name", ["unet", "nuclei", "cells"])
def test_a_card_names_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the card tells to run is this model, not the network or the trained model of the same name."""
    monkeypatch.chdir(tmp_path)
    unetzoo.save_pretrained(unetzoo.create("unet", base_channels=1), name)
    text = Path(name, "README.md").read_text(encoding="utf-8")
    given = re.search(r"unetzoo predict (\S+)", text)[1]
    assert sources.trained_source(given).path.resolve() == Path(name).resolve()
    assert f"# {name}\n" in text

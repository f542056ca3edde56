"""torch.hub: list, help and load, from a clone and from a copy in its cache."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import unetzoo
from unetzoo import ConfigError, information, naming


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lay a copy of the repository where torch.hub would have put it; return its name."""
    copy = tmp_path / "hub" / "someone_unetzoo_main"
    copy.mkdir(parents=True)
    shutil.copy(ROOT / "hubconf.py", copy)
    shutil.copytree(ROOT / "unetzoo", copy / "unetzoo", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "hub" / "trusted_list").write_text("someone_unetzoo\n", encoding="utf-8")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return "someone/unetzoo:main"


def test_list_from_the_cache(cached: str) -> None:
    entries = torch.hub.list(cached, skip_validation=True)
    assert sorted(entries) == sorted([*naming.names(), "from_pretrained"])


def test_help_is_worth_reading(cached: str) -> None:
    text = torch.hub.help(cached, "unetpp_resnet50", skip_validation=True)
    for words in (
        "UNet++ on the ResNet-50 encoder",
        "arXiv 1807.10165",
        "arXiv 1512.03385",
        "(N, num_classes, H, W)",
        "pretrained = False: weights of the encoder.",
        "levels = 4: depth of the triangle",
        "torch.hub.load",
    ):
        assert words in text
    assert "alias" not in text


def test_load_from_the_cache(cached: str) -> None:
    model = torch.hub.load(cached, "unetpp", skip_validation=True, base_channels=4, num_classes=4)
    assert model(torch.zeros(1, 3, 20, 30)).shape == (1, 4, 20, 30)


def test_load_from_a_clone() -> None:
    model = torch.hub.load(str(ROOT), "unet_resnet18", source="local", num_classes=4)
    assert isinstance(model, unetzoo.SegmentationModel)
    assert model.config.name == "resunet18"
    with pytest.raises(ConfigError, match="'num_clases'"):
        torch.hub.load(str(ROOT), "unetpp_resnet18", source="local", num_clases=4)


def test_a_copy_alone_is_enough(cached: str, tmp_path: Path) -> None:
    """The copy's own package is loaded, also the parts that are imported after the load."""
    code = f"""
import sys, torch
sys.path = [p for p in sys.path if p not in ("", {str(ROOT)!r})]
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
torch.hub.set_dir({str(tmp_path / "hub")!r})
model = torch.hub.load({cached!r}, "unet3p", skip_validation=True, base_channels=4)
import unetzoo
assert unetzoo.__file__.startswith({str(tmp_path)!r}), unetzoo.__file__
print(unetzoo.compare("unet", size=32).rows[0].parameters)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.split()[-1:] == ["31036673"], done.stderr


def test_every_entry_declares_its_dependencies_and_help() -> None:
    for name, entry in information.hub_entries().items():
        assert entry.__name__ == name
        assert inspect.getdoc(entry).count("\n") > 10
    text = (ROOT / "hubconf.py").read_text(encoding="utf-8")
    for package in ("torch", "torchvision", "huggingface_hub", "safetensors"):
        assert f'"{package}"' in text

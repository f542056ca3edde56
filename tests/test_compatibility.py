"""What files saved before the rooms were rebuilt hold: the same configs, and tensors of the same names and shapes."""

from __future__ import annotations

import hashlib
import json

import pytest
from conftest import ALIKE, ROOT, flags

import unetzoo
from unetzoo import naming
from unetzoo.nn.meta import on_meta

BEFORE = ROOT / "tests" / "data" / "names_of_0_1_0.json"
"""Digests that commit 55119f9 gave, for each name at its defaults and with every flag. Never written again."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_of_version_1(config: unetzoo.ModelConfig) -> str:
    """Return the record as the first version wrote it, which did not say what was always so."""
    record = {**config.to_dict(), "format_version": 1}
    if config.encoder == "plain":
        assert record["encoder_options"].pop("doublings") == 4
    assert (record.pop("normalisation"), record.pop("resize"), record.pop("pixels")) == ("fixed", 1.0, None)
    if config.decoder == "unet":
        options = record["decoder_options"]
        assert (options.pop("convolutions"), options.pop("attention")) == (2, False)
    text = json.dumps(record, indent=2) + "\n"
    assert unetzoo.ModelConfig.from_json(text) == config
    return text


@pytest.mark.parametrize("alike", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_earlier_files_fit_every_name(alike: bool) -> None:
    """Where the encoder is made of no other's blocks; and, in the longer form, where it is."""
    found = {}
    every = json.loads(BEFORE.read_text(encoding="utf-8"))["models"]
    assert {entry.partition(", ")[0] for entry in every} <= set(naming.index())
    expected = {key: every[key] for key in every if (naming.index()[key.partition(", ")[0]][1] in ALIKE) == alike}
    assert len(expected) > 30
    for entry in expected:
        name, _, title = entry.partition(", ")
        with on_meta():
            model = unetzoo.create(name, **({} if title == "default" else flags(name)))
        tensors = "\n".join(f"{key} {value.dtype} {tuple(value.shape)}" for key, value in model.state_dict().items())
        found[entry] = {"config": digest(record_of_version_1(model.config)), "tensors": digest(tensors)}
    assert [entry for entry in expected if found[entry] != expected[entry]] == []

"""What files saved before the rooms were rebuilt hold: the same configs, and tensors of the same names and shapes."""

from __future__ import annotations

import hashlib
import json

from conftest import ROOT, flags

import unetzoo
from unetzoo.model import on_meta

BEFORE = ROOT / "tests" / "data" / "names_of_0_1_0.json"
"""Digests that commit 55119f9 gave, for each name at its defaults and with every flag. Never written again."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_earlier_files_fit_every_name() -> None:
    found = {}
    expected = json.loads(BEFORE.read_text(encoding="utf-8"))["models"]
    for entry in expected:
        name, _, title = entry.partition(", ")
        with on_meta():
            model = unetzoo.create(name, **({} if title == "default" else flags(name)))
        tensors = "\n".join(f"{key} {value.dtype} {tuple(value.shape)}" for key, value in model.state_dict().items())
        found[entry] = {"config": digest(model.config.to_json()), "tensors": digest(tensors)}
    assert [entry for entry in expected if found[entry] != expected[entry]] == []

"""Gradients of two processes: averaged through ``for_training``, and a warning where they would not be."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from conftest import SPAWNED
from torch.nn.functional import binary_cross_entropy_with_logits

import unetzoo

MODEL = """
import torch, unetzoo
from torch.nn.functional import binary_cross_entropy_with_logits

def made():
    torch.manual_seed(0)
    return unetzoo.create("unetpp", base_channels=4, in_channels=1, deep_supervision=True, norm="instance").train()

def loss_of(outputs, target):
    heads = (outputs.logits, *outputs.deep)
    return sum(binary_cross_entropy_with_logits(head, target) for head in heads)
"""
PROCESS = f"""
import json, sys, warnings
from datetime import timedelta
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
{MODEL}
folder, rank = sys.argv[1], int(sys.argv[2])
warnings.simplefilter("always")
place = f"file://{{folder}}/rendezvous"
dist.init_process_group("gloo", timeout=timedelta(minutes=2), init_method=place, rank=rank, world_size=2)
images, target = torch.load(f"{{folder}}/data.pt")
images, target = images[2 * rank : 2 * rank + 2], target[2 * rank : 2 * rank + 2]
found, gradients = {{}}, {{}}

def step(name, wrapper, call):
    wrapper.zero_grad()
    with warnings.catch_warnings(record=True) as said:
        loss_of(call(), target).backward()
    gradients[name] = [p.grad.clone() for p in wrapper.parameters()]
    found[name] = [str(w.message) for w in said if "DistributedDataParallel" in str(w.message)]

model = made()
wrapper = DistributedDataParallel(model.for_training())
step("through", wrapper, lambda: wrapper(images))
with wrapper.no_sync():
    step("not yet", wrapper, lambda: model.training_outputs(images))
with torch.no_grad():
    model.training_outputs(images)
bypassed = made()
plain = DistributedDataParallel(bypassed)
for k in range(2):
    step(f"past {{k}}", plain, lambda: plain.module.training_outputs(images))
alone = made()  # in no wrapper: gradients are averaged by hand, say
step("alone", alone, lambda: alone.training_outputs(images))
torch.save(gradients, f"{{folder}}/{{rank}}.pt")
with open(f"{{folder}}/{{rank}}.json", "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
"""


def take_part(folder: Path, rank: int) -> None:
    sys.argv = ["-c", str(folder), str(rank)]
    exec(PROCESS, {"__name__": "__main__"})


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no processes")
def test_gradients_of_two_processes_are_those_of_one_with_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of the two is this process."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 1, 32, 32, generator=generator)
    target = torch.rand(4, 1, 32, 32, generator=generator).round()
    torch.save((images, target), tmp_path / "data.pt")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first = SPAWNED.Process(target=take_part, args=(tmp_path, 0))
    first.start()
    try:
        monkeypatch.setattr(sys, "argv", sys.argv)
        with warnings.catch_warnings():
            take_part(tmp_path, 1)
        first.join(300)
        assert first.exitcode == 0
    finally:
        first.kill()
    torch.manual_seed(0)
    model = unetzoo.create("unetpp", base_channels=4, in_channels=1, deep_supervision=True, norm="instance").train()
    outputs = model.training_outputs(images)
    sum(binary_cross_entropy_with_logits(head, target) for head in (outputs.logits, *outputs.deep)).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank in range(2):
        for mine, whole in zip(found[rank]["through"], expected, strict=True):
            torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-6)
        said = json.loads((tmp_path / f"{rank}.json").read_text())
        assert {name: len(texts) for name, texts in said.items()} == {
            "through": 0, "not yet": 0, "past 0": 1, "past 1": 0, "alone": 0,
        }  # fmt: skip
        assert "model.for_training()" in said["past 0"][0]
    largest = max(float((a - b).abs().max()) for a, b in zip(*(each["past 0"] for each in found), strict=True))
    assert largest > 1e-3  # of which the warning warns


def test_for_training_shares_the_weights_and_returns_the_training_outputs() -> None:
    model = unetzoo.create("unetpp", base_channels=4, deep_supervision=True)
    training = model.for_training()
    images = torch.rand(1, 3, 32, 32)
    outputs, expected = training.eval()(images), model.eval().training_outputs(images)
    assert torch.equal(outputs.logits, expected.logits)
    assert len(outputs.deep) == len(expected.deep) == 3
    assert {id(parameter) for parameter in training.parameters()} == {id(parameter) for parameter in model.parameters()}

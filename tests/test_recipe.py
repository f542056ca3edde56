"""What a step does to the weights: optimisers, schedules, clipping and weights of heads, by name and by formula."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import TINY, break_off, last, refused, rows, same_runs, train
from torch import Tensor, nn

import unetzoo
from unetzoo.cli import main
from unetzoo.train.optimisers import NAMES, decay_of, made, optimiser_problems
from unetzoo.train.schedules import factor, warmup_of

pytestmark = pytest.mark.usefixtures("no_curves")


class Signs(torch.optim.Optimizer):
    """An optimiser of somebody's own, which takes steps of one size."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad.sign()
        return loss


# Optimisers


def trajectory(name: str, options: dict[str, Any] | None, decay: float, gradients: Sequence[Tensor]) -> Tensor:
    """Return where a parameter at 1, of rate 0.1, is after each gradient."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimiser = made(name, options, [{"params": [weight], "lr": 0.1, "weight_decay": decay}], 0.1, decay)
    found = []
    for gradient in gradients:
        weight.grad = gradient.reshape(1)
        optimiser.step()
        found.append(weight.detach().clone())
    return torch.cat(found)


def test_sgd_is_nesterov_s_and_adamw_decays_apart() -> None:
    """The formulas of Sutskever et al. 2013 in torch's form, and of Loshchilov and Hutter 2019, written out."""
    gradients = torch.tensor([1.0, -0.5, 2.0, 0.25], dtype=torch.float64)
    weight, velocity, expected = 1.0, 0.0, []
    for gradient in gradients.tolist():
        decayed = gradient + 0.2 * weight
        velocity = 0.99 * velocity + decayed
        weight -= 0.1 * (decayed + 0.99 * velocity)
        expected.append(weight)
    assert trajectory("sgd", None, 0.2, gradients).tolist() == pytest.approx(expected, rel=1e-12)

    weight, first, second, expected = 1.0, 0.0, 0.0, []
    for step, gradient in enumerate(gradients.tolist(), 1):
        first = 0.8 * first + 0.2 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weight -= 0.1 * 0.2 * weight
        weight -= 0.1 * (first / (1 - 0.8**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
        expected.append(weight)
    assert trajectory("adamw", {"betas": [0.8, 0.999]}, 0.2, gradients).tolist() == pytest.approx(expected, rel=1e-9)


def test_names_are_torch_s_classes_with_their_own_decay() -> None:
    usable = [name for name in NAMES if not optimiser_problems(name, None, None)]
    assert {"adamw", "adam", "sgd", "nadam", "radam", "adafactor", "rmsprop"} <= set(usable)
    assert not {"lbfgs", "sparseadam"} & set(usable)
    decays = {name: decay_of(name, None) for name in ("adamw", "sgd", "adam", "rprop", "torch.optim.SGD")}
    assert decays == {"adamw": 0.01, "sgd": 3e-5, "adam": 0.0, "rprop": 0.0, "torch.optim.SGD": 0.0}
    assert decay_of("sgd", 0.5) == 0.5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["sdg"], r"--model\.optimiser sdg: .*'adamw'.*did you mean 'sgd'"),
        (["lbfgs"], r"--model\.optimiser lbfgs\b.*parameter groups"),
        (["torch.optim.Sgd"], r"--model\.optimiser torch\.optim\.Sgd: .*did you mean 'SGD'"),
        (["torch.nn.Conv2d"], r"subclass of torch\.optim\.Optimizer.*Conv2d"),
        (["nowhere.Lion"], r"nowhere cannot be imported"),
        (["sgd", "--model.optimiser_options.momentun", "0.9"], r"'momentun'; did you mean 'momentum'.*takes: .*nest"),
        (["sgd", "--model.optimiser_options.lr", "0.9"], r"lr is no option; give it as --lr"),
        (["adamw", "--model.optimiser_options", "{betas: [2, 3]}"], r"adamw\b.*beta.*: 2"),
        (["rprop", "--model.weight_decay", "0.1"], r"--model\.weight_decay 0\.1: rprop knows none"),
    ],
)
def test_optimisers_that_cannot_be_taken_are_refused_before_the_data(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, "--data", str(tmp_path / "no-such"), *TINY, "--model.optimiser", *given)
    assert re.search(said, text), text
    assert "no-such" not in text


def test_options_and_decay_reach_the_groups(nuclei: Path, tmp_path: Path) -> None:
    train(nuclei, tmp_path / "a", "--epochs", "1", "--model.optimiser", "sgd", "--model.optimiser_options.momentum",
          "0.9", "--trainer.limit_val_batches", "0")  # fmt: skip
    groups = {group["name"]: group for group in last(tmp_path / "a")["optimizer_states"][0]["param_groups"]}
    assert {(group["momentum"], group["nesterov"]) for group in groups.values()} == {(0.9, True)}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "encoder": 3e-5,
        "encoder, no decay": 0.0,
        "decoder": 3e-5,
        "decoder, no decay": 0.0,
    }


def test_an_optimiser_of_one_s_own_trains(nuclei: Path, tmp_path: Path) -> None:
    """Steps of one size: each weight of the head is off by a sum of ± the rates."""
    own = ("--model.optimiser", f"{__name__}.Signs", "--model.schedule", "constant", "--model.warmup", "0")
    train(nuclei, tmp_path / "a", "--epochs", "1", "--lr", "0.5", *own, "--trainer.limit_train_batches", "1",
          "--trainer.limit_val_batches", "0")  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = unetzoo.create("unet", base_channels=4).state_dict()
    after = last(tmp_path / "a")["state_dict"]
    step = after["network.head.conv.weight"] - before["head.conv.weight"]
    torch.testing.assert_close(step.abs(), torch.full_like(step, 0.5))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_moments_are_kept_and_a_run_goes_on_bit_for_bit(name: str, nuclei: Path, tmp_path: Path) -> None:
    settings = ["--epochs", "2", "--keep_steps", "1", "--model.optimiser", name, "--lr", "0.01", "--model.schedule",
                "poly", "--images_every", "99"]  # fmt: skip
    train(nuclei, tmp_path / "whole", *settings)
    break_off(nuclei, tmp_path / "cut", *settings, batch=4)
    (states,) = last(tmp_path / "cut")["optimizer_states"]
    moments = {"sgd": {"momentum_buffer"}, "adam": {"step", "exp_avg", "exp_avg_sq"}}[name]
    assert all(state.keys() == moments for state in states["state"].values())
    assert main(["train", "--resume", str(tmp_path / "cut"), "--quiet", "--trainer.callbacks", "null", "--trust"]) == 0
    same_runs(tmp_path / "whole", tmp_path / "cut")


# Schedules


def test_schedules_are_their_formulas() -> None:
    assert [factor("cosine", step, 110, 1 / 11) for step in (0, 4, 9, 10, 35, 60, 110)] == pytest.approx(
        [0.1, 0.5, 1, 1, 0.5 + math.sqrt(2) / 4, 0.5, 0]
    )
    assert [factor("poly", step, 100, 0) for step in (0, 50, 90)] == pytest.approx([1, 0.5**0.9, 0.1**0.9])
    assert factor("constant", 70, 100, 0.05) == 1


@pytest.mark.parametrize(("steps", "share"), [(100, None), (57, None), (20, 0.1), (20, 0.0), (2, 0.9), (1, None)])
def test_one_cycle_is_torch_s(steps: int, share: float | None) -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], momentum=0.9)
    given = {} if share is None else {"pct_start": share}
    torch_s = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2.0, total_steps=steps, **given)
    expected = []
    for _ in range(steps):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if len(expected) < steps:
            torch_s.step()
    found = [2.0 * factor("one_cycle", step, steps, warmup_of("one_cycle", share)) for step in range(steps)]
    assert found == pytest.approx(expected, rel=1e-9)
    assert (
        factor("one_cycle", steps, steps, warmup_of("one_cycle", share)) < 1e-5
    )  # after the last step, where torch ends


def halved(done: float) -> float:
    return 1 - done / 2


def wordy(done: float) -> str:
    return "low"


def test_rates_follow_a_function_of_one_s_own(nuclei: Path, tmp_path: Path) -> None:
    train(nuclei, tmp_path / "a", "--epochs", "2", "--lr", "0.01", "--model.schedule", f"{__name__}.halved",
          "--model.warmup", "0", "--trainer.limit_val_batches", "0")  # fmt: skip
    assert [float(row["lr"]) for row in rows(tmp_path / "a")] == pytest.approx([0.0075, 0.005])


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("cosin", "--model.schedule cosin: .*'one_cycle'.*did you mean 'cosine'.*dotted path"),
        ("nowhere.falling", "nowhere cannot be imported"),
        (f"{__name__}.halve", "did you mean 'halved'"),
        (f"{__name__}.wordy", "gives 'low' for the share 0.0: .*number"),
        ("math.log", r"cannot be called .*ValueError"),
        ("math.isqrt", r"cannot be called .*TypeError"),
    ],
)
def test_schedules_that_cannot_be_followed_are_refused_before_the_data(
    schedule: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, "--data", str(tmp_path / "no-such"), *TINY, "--model.schedule", schedule)
    assert re.search(said, text), text
    assert "no-such" not in text

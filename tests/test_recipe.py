"""What a step does to the weights: optimisers, schedules, clipping and weights of heads, by name and by formula."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins import FSDPPrecision, MixedPrecision
from torch import Tensor, nn
from trainings import TINY, break_off, last, refused, rows, same_runs, train

import unetzoo
from unetzoo import losses
from unetzoo.cli import main
from unetzoo.train import FolderData, Recipe
from unetzoo.train.clipping import clipping_problems, is_clipped
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


class Outlier(nn.Module):
    """Dice, but for a training batch whose loss is far too large."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.seen, self.dice = batch, 0, losses.build("dice", "binary")

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.seen += logits.requires_grad
        return self.dice(logits, target) * (1e6 if logits.requires_grad and self.seen == self.batch else 1)


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


def stepped(optimiser: torch.optim.Optimizer, weight: nn.Parameter, steps: range) -> None:
    for step in steps:
        weight.grad = torch.cos(weight.detach() + step)
        optimiser.step()


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_steps_on_the_cpu_are_torch_s_in_one_pass(name: str) -> None:
    """Unless the options say how. A state that was saved elsewhere goes on in the way that is right here."""
    weights, optimisers = {}, {}
    for way, options in (("one pass", None), ("torch's own", {"foreach": False})):
        weights[way] = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
        optimisers[way] = made(name, options, [{"params": [weights[way]]}], 0.1, 0.01)
        stepped(optimisers[way], weights[way], range(4))
    ours, own = optimisers.values()
    assert [optimiser.param_groups[0]["fused"] for optimiser in (ours, own)] == [True, None]
    torch.testing.assert_close(*weights.values(), rtol=1e-6, atol=1e-6)
    ours.load_state_dict(own.state_dict())
    own.load_state_dict(ours.state_dict())
    assert [optimiser.param_groups[0]["fused"] for optimiser in (ours, own)] == [True, None]
    with pytest.raises(ValueError, match="different number of parameter groups"):
        ours.load_state_dict({"state": {}, "param_groups": []})


@pytest.mark.parametrize("options", [None, {"fused": True}], ids=["by default", "asked for"])
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adagrad"])
def test_steps_do_not_depend_on_how_tensors_lie_in_memory(name: str, options: dict[str, Any] | None) -> None:
    """A state that was saved by a GPU has its channels last, or weights have and what is set by hand has not."""
    found = []
    for weights_last, others_last in ((False, False), (False, True), (True, False)):
        weight = nn.Parameter(torch.linspace(-1, 1, 3 * 4 * 9).view(3, 4, 3, 3))
        if weights_last:
            weight = nn.Parameter(weight.detach().contiguous(memory_format=torch.channels_last))
        optimiser = made(name, options, [{"params": [weight]}], 0.1, 0.01)
        stepped(optimiser, weight, range(2))
        layout = torch.channels_last if others_last else torch.contiguous_format
        saved = copy.deepcopy(optimiser.state_dict())
        for key, value in saved["state"][0].items():
            if value.ndim == 4:
                saved["state"][0][key] = value.contiguous(memory_format=layout)
        optimiser.load_state_dict(saved)
        for step in (2, 3):
            weight.grad = torch.cos(weight.detach() + step).contiguous(memory_format=layout)
            optimiser.step()
        found.append(weight.detach())
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_a_weight_may_have_its_first_gradient_later() -> None:
    for name in ("sgd", "adamw"):
        early, late = (nn.Parameter(torch.ones(3)) for _ in range(2))
        optimiser = made(name, None, [{"params": [early, late]}], 0.1, 0.0)
        early.grad = torch.ones(3)
        optimiser.step()
        early.grad, late.grad = torch.ones(3), torch.ones(3)
        optimiser.step()
        assert bool((late < 1).all())
        assert bool((early < late).all())


def test_fused_steps_are_clipped_in_bfloat16(nuclei: Path, tmp_path: Path) -> None:
    """Lightning refuses to clip them with scaled gradients, and did so where nothing is scaled."""
    given = ("--model.optimiser_options.fused", "true", "--trainer.precision", "bf16-mixed")
    train(nuclei, tmp_path / "a", "--epochs", "1", *given, "--trainer.gradient_clip_val", "1e-3")
    assert [row["clipped"] for row in rows(tmp_path / "a")] == ["1.0"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["sdg"], r"--model\.optimiser sdg: .*'adamw'.*did you mean 'sgd'"),
        (["lbfgs"], r"--model\.optimiser lbfgs\b.*parameter groups"),
        (["torch.optim.Sgd"], r"--model\.optimiser torch\.optim\.Sgd: .*did you mean 'SGD'"),
        (["torch.nn.Conv2d"], r"subclass of torch\.optim\.Optimizer.*Conv2d"),
        (["nowhere.Lion"], r"nowhere cannot be imported"),
        (["sgd", "--model.optimiser_options.momentun", "0.9"], r"'momentun'; did you mean 'momentum'.*takes: .*nest"),
        (["sgd", "--model.optimiser_options.lr", "0.9"], r"lr is not an option; give it as --lr"),
        (["adamw", "--model.optimiser_options", "{betas: [2, 3]}"], r"adamw\b.*beta.*: 2"),
        (["rprop", "--model.weight_decay", "0.1"], r"--model\.weight_decay 0\.1: rprop has no weight decay"),
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
    """Within an epoch, some of whose steps are clipped; how many were is a figure of the run, too."""
    settings = ["--epochs", "2", "--keep_steps", "1", "--model.optimiser", name, "--lr", "0.01", "--model.schedule",
                "poly", "--images_every", "99", "--trainer.gradient_clip_val", "1.4",
                "--data.foreground_crops", "0", "--data.normalisation", "fixed"]  # fmt: skip
    train(nuclei, tmp_path / "whole", *settings)
    assert 0 < float(rows(tmp_path / "whole")[0]["clipped"]) < 1
    break_off(nuclei, tmp_path / "cut", *settings, batch=3)
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


# Clipping


def weights(out: Path) -> Tensor:
    state = last(out)["state_dict"]
    return torch.cat([value.flatten() for name, value in state.items() if name.endswith("weight")])


def test_clipping_changes_no_bit_of_a_healthy_run_and_bounds_an_outlier(nuclei: Path, tmp_path: Path) -> None:
    common = ("--epochs", "2", "--model.optimiser", "sgd", "--trainer.limit_val_batches", "0", "--images_every", "99")
    off = ("--trainer.gradient_clip_val", "0")
    found = {}
    for batch in (99, 3):
        for name, settings in (("clipped", ()), ("as it is", off)):
            out = tmp_path / f"{name} {batch}"
            train(nuclei, out, *common, *settings, "--loss", f"{__name__}.Outlier(batch={batch})")
            found[name, batch] = weights(out)
            shares = [row["clipped"] for row in rows(out)]
            assert shares == (["", ""] if settings else [str(1 / 3 if batch == 3 else 0.0), "0.0"])
    assert torch.equal(found["clipped", 99], found["as it is", 99])
    pull = {name: (found[name, 3] - found[name, 99]).norm() for name in ("clipped", "as it is")}
    # A step of norm 12 at 0.001, of which 1 + 0.99 + 0.99² + … come in time.
    assert 0 < pull["clipped"] < 0.001 * 12 * 5
    assert pull["as it is"] > 100


def test_half_precision_is_clipped_by_its_true_gradients(nuclei: Path) -> None:
    """Of a step of SGD at the rate 1 the norm is the limit, whatever the loss was scaled by."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    trainer = lightning.Trainer(
        max_steps=1,
        gradient_clip_val=0.05,
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        limit_val_batches=0,
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    recipe = Recipe("unet", options={"base_channels": 4, "norm": "group"}, lr=1.0, optimiser="torch.optim.SGD",
                    schedule="constant", warmup=0)  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer.fit(recipe, datamodule=FolderData(str(nuclei), crop_size=32, batch_size=4, workers=0, repeats=1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = unetzoo.create("unet", base_channels=4, norm="group")
    moved = [now.detach() - then for now, then in zip(recipe.network.parameters(), before.parameters(), strict=True)]
    assert torch.cat([step.flatten() for step in moved]).norm().item() == pytest.approx(0.05, rel=1e-3)


def test_a_step_is_clipped_where_its_norm_is_beyond() -> None:
    weight, bias = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([{"params": [weight]}, {"params": [bias]}, {"params": [nn.Parameter(torch.zeros(1))]}])
    for gradients, norm, value in (((2.0, 3.0, 6.0), 7.0, 6.0), ((math.inf, 0.0, 0.0), None, None)):
        weight.grad, bias.grad = torch.tensor(gradients[:2]), torch.tensor(gradients[2:])
        for by_value, size in ((False, norm), (True, value)):
            found = [
                float(is_clipped(optimiser, limit, by_value)) for limit in (0.999 * (size or 1), 1.001 * (size or 1))
            ]
            assert found == ([0.0, 0.0] if size is None else [1.0, 0.0])


def test_clipping_that_is_the_rule_is_said(nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--trainer.gradient_clip_val", "1e-3", "--trainer.limit_val_batches", "0")
    arguments = ["train", "--data", str(nuclei), "--out", str(tmp_path / "a"), *TINY, "--epochs", "1", *limits]
    assert main(arguments) == 0
    assert re.search(r"epoch 1/1 .*clipped in 100 % of the steps", capsys.readouterr().out)
    assert [row["clipped"] for row in rows(tmp_path / "a")] == ["1.0"]


@pytest.mark.parametrize(
    ("options", "trainer", "said"),
    [
        ({"fused": True}, {"precision": "16-mixed"}, "fused"),
        ({"fused": True}, {"precision": "16-mixed", "gradient_clip_val": 0}, None),
        ({"fused": True}, {"precision": "bf16-mixed"}, None),
        (None, {"precision": "16-mixed"}, None),
        (None, {"precision_plugin": FSDPPrecision("32-true")}, "sharded"),
        (None, {"precision_plugin": FSDPPrecision("32-true"), "gradient_clip_algorithm": "value"}, None),
    ],
)
def test_what_cannot_be_clipped_is_refused(
    options: dict[str, Any] | None, trainer: dict[str, Any], said: str | None
) -> None:
    usual = {
        "gradient_clip_val": 12.0,
        "gradient_clip_algorithm": None,
        "precision": "32-true",
        "precision_plugin": None,
    }
    problems = clipping_problems(options, SimpleNamespace(**{**usual, **trainer}))
    assert bool(problems) == bool(said)
    assert all(said in problem and "gradient_clip_val=0" in problem for problem in problems)


# Heads


def test_geometric_weights_of_heads_reach_the_loss(nuclei: Path, tmp_path: Path) -> None:
    """The last head stays as it was, and the others do not."""
    train(nuclei, tmp_path / "a", "--epochs", "1", "--model.options.deep_supervision", "true", "--model.head_weights",
          "geometric", "--model.weight_decay", "0", "--trainer.limit_val_batches", "0")  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = unetzoo.create("unet", base_channels=4, deep_supervision=True).state_dict()
    after = last(tmp_path / "a")["state_dict"]
    heads = ["head.conv.weight", *(f"deep_heads.{k}.conv.weight" for k in range(3))]
    assert [torch.equal(after[f"network.{name}"], before[name]) for name in heads] == [False, False, False, True]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["geometrc"], "--model.head_weights geometrc: .*did you mean 'geometric'"),
        (["geometric", "--model", "unetpp", "--model.options.deep_supervision=true", "--model.options.output=average"],
         r"--model.head_weights geometric: .*average.*4 numbers"),
        (["[1, 2]"], "head_weights: 2 numbers for 1 heads"),
    ],
)  # fmt: skip
def test_weights_that_no_heads_have_are_refused(
    given: list[str], said: str, nuclei: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--data", str(nuclei), "--out", str(tmp_path / "a"), *TINY, "--epochs", "1")
    text = refused(capsys, *common, "--model.head_weights", *given)
    assert re.search(said, text), text

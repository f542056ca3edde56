"""The recipe: the training step, the validation, and the learning rates. Lightning does everything else."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau

from unetzoo import __version__, losses
from unetzoo.config import CONFIG_KEY
from unetzoo.data import IGNORED
from unetzoo.data.edges import joined
from unetzoo.devices import Transfer, reuse_memory, warn_of_threads
from unetzoo.errors import ConfigError, TrainingError
from unetzoo.metrics import Scores, SegmentationMetrics
from unetzoo.model import SegmentationModel, TrainingOutputs
from unetzoo.objects.separating import check_separable
from unetzoo.parameter_groups import param_groups
from unetzoo.saving.records import PREFIX_KEY, RUN_KEY, VERSION_KEY
from unetzoo.train import clipping, optimisers
from unetzoo.train.averaging import AveragedModel
from unetzoo.train.building import DEFAULT_LOSSES, built, is_saved, logits_of
from unetzoo.train.checking import fit_problems, setting_problems
from unetzoo.train.data import FolderData
from unetzoo.train.judging import Score, score_of
from unetzoo.train.object_metrics import ObjectMetrics
from unetzoo.train.own_metrics import OwnMetrics
from unetzoo.train.schedules import factor, moved, warmup_of
from unetzoo.train.validating import validated


class Recipe(lightning.LightningModule):
    """Trains a network of the zoo on the data of a :class:`FolderData`.

    The network is built when training begins, because its channels and classes depend on the data. All randomness of a
    step comes from ``seed`` and the step's number, so that a run can continue exactly where it was interrupted.

    Args:
        name: of a network of the zoo; or a trained model to start from, as ``from_pretrained`` takes it.
        options: of the network, as ``unetzoo.create`` takes them, such as ``deep_supervision``.
        pretrained: ImageNet weights for the encoder, as ``unetzoo.create`` takes them.
        loss: see ``unetzoo.losses.build``. None: "bce + dice"; for multiclass "cross_entropy + dice".
        head_weights: of the loss at each head, main one first; "geometric": ``losses.geometric_weights``; None: equal.
        class_weights: "auto" (from how often each class occurs), or one number per class; None: all equal.
        lr: the highest learning rate of decoder and heads.
        encoder_lr: that of the encoder; None: ``lr``, or a tenth of it if the weights are pretrained.
        optimiser: "adamw", "sgd" (with nnU-Net v2's Nesterov momentum of 0.99), any other of ``torch.optim`` in small
            letters, or the dotted path of a subclass of ``torch.optim.Optimizer``.
        optimiser_options: arguments of its class, such as ``{"betas": [0.9, 0.99]}``.
        weight_decay: of everything except norms and biases; None: the optimiser's own, which is 0.01 for "adamw",
            nnU-Net v2's 3e-5 for "sgd", and torch's for others.
        schedule: "cosine", "poly", "one_cycle", "constant", "plateau" (a tenth after ten validations without a better
            score, see ``unetzoo.train.judging``), or the dotted path of a function: share of the steps → factor.
        warmup: share of the steps during which the learning rates rise; None: 0.05, and 0.3 for "one_cycle".
        frozen_epochs: number of first epochs during which the encoder is frozen.
        ema: decay of an exponential moving average of the weights, such as 0.999; the average is then validated and
            kept. None: no average.
        monitor: the figure of ``metrics.csv`` by which the best epoch is kept: "iou", "boundary_f", "dice/rim",
            "object_pq", "val_loss" …; None: see ``unetzoo.train.judging``.
        metrics: dotted paths of functions that give further figures of an epoch: see ``unetzoo.train.own_metrics``.
        gradient_checkpointing: takes less memory and a third more time.
        compile: run the network with ``torch.compile``.
        seed: random seed for new weights and for training.

    Attributes:
        network: the model; set when training begins.
        scores: of the epoch's validation; None before it.
    """

    network: SegmentationModel

    def __init__(
        self,
        name: str,
        *,
        options: dict[str, Any] | None = None,
        pretrained: bool | str = False,
        loss: str | None = None,
        head_weights: str | list[float] | None = None,
        class_weights: str | list[float] | None = None,
        lr: float = 1e-3,
        encoder_lr: float | None = None,
        optimiser: str = "adamw",
        optimiser_options: dict[str, Any] | None = None,
        weight_decay: float | None = None,
        schedule: str = "cosine",
        warmup: float | None = None,
        frozen_epochs: int = 0,
        ema: float | None = None,
        monitor: str | None = None,
        metrics: list[str] | None = None,
        gradient_checkpointing: bool = False,
        compile: bool = False,  # noqa: A002
        seed: int = 0,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.settings: Any = SimpleNamespace(**given)
        problems = setting_problems(self.settings)
        if problems:
            raise ConfigError("cannot train", problems)
        self.lr = lr
        self.average: AveragedModel | None = None
        self.scores: Scores | None = None
        self._further: dict[str, float | None] = {}
        self.validation_loss: float | None = None
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None
        self._steps = self._steps_before = 0
        self._warmup = warmup_of(schedule, warmup)
        self._built = self._tried = self._ignoring = False
        self._transfer = Transfer(torch.device("cpu"))
        self._unread: deque[tuple[Callable[[], tuple[Tensor, ...]], str]] = deque()

    @property
    def judged(self) -> SegmentationModel:
        """The network that is validated and kept: the average of the weights where there is one."""
        return self.network if self.average is None else self.average.model

    @property
    def prefix_of_judged(self) -> str:
        """The prefix of that network's tensor names in a checkpoint."""
        return "network." if self.average is None else "average.model."

    @property
    def score(self) -> Score | None:
        """How good the epoch is; None before it is validated."""
        if self.scores is None:
            return None
        return score_of({**self.figures, "val_loss": self.validation_loss}, self.settings.monitor)

    @property
    def figures(self) -> dict[str, float | None]:
        """The results of the epoch's validation, by name; empty before it."""
        return {} if self.scores is None else {**self.scores.to_dict(), **self._further}

    @property
    def data(self) -> FolderData:
        """The data that it is trained on.

        Raises:
            ConfigError: they are not a :class:`FolderData`.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, FolderData):
            raise ConfigError("a Recipe needs a FolderData: trainer.fit(recipe, datamodule=FolderData(folder))")
        return data

    @property
    def training_loss(self) -> float:
        """The mean loss of the epoch's batches so far, over all processes."""
        return self._mean(self._losses)

    @property
    def clipped(self) -> float | None:
        """The share of the epoch's steps so far whose gradients were clipped; None if clipping is off."""
        share = self._mean(self._clipped)
        return None if math.isnan(share) else share

    @property
    def rescheduled(self) -> str | None:
        """How the learning rate changes if a resumed run now has another length; None if it does not change."""
        if not self._steps_before:
            return None
        ends = self._steps_before, self._steps
        return moved(self.settings.schedule, self._warmup, self.lr, self.trainer.global_step, ends)

    def configure_model(self) -> None:
        """Build the network for the data."""
        if self._built:
            return
        data = self.data
        if data.labels.task == "instances":
            check_separable()  # or an error, before any work
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            self.network = built(self.settings, data)
        problems = fit_problems(self.settings, self.network, data, self.trainer)
        if problems:
            raise ConfigError("cannot train", problems)
        if self.settings.gradient_checkpointing:
            self.network.gradient_checkpointing()
        if self.trainer.strategy.root_device.type == "cuda":  # else its convolutions convert them at each step
            self.network.to(memory_format=torch.channels_last)
        if self.settings.ema is not None:
            self.average = AveragedModel(self.network, self.settings.ema)
        weights, heads, task = self.settings.class_weights, self.settings.head_weights, data.labels.task
        truths, logits = data.training_set().loss_targets(), logits_of(task)
        self.loss = losses.DeepSupervision(
            losses.build(
                self.settings.loss or DEFAULT_LOSSES[logits],
                logits,
                class_weights=weights if weights != "auto" else losses.class_weights_from(truths),
            ),
            weights=losses.geometric_weights(self.network) if heads == "geometric" else heads,
        )
        self.metrics = SegmentationMetrics(
            data.labels.pixel_task, data.labels.num_classes, class_names=data.labels.class_names
        )
        self._counters: list[ObjectMetrics | OwnMetrics] = [ObjectMetrics(data.labels)] if task == "instances" else []
        self._counters += [OwnMetrics(self.settings.metrics, data.labels)] if self.settings.metrics else []
        self._losses, self._clipped = (torch.zeros(2, dtype=torch.float64) for _ in range(2))
        self._outputs = self.network.training_outputs
        if self.settings.compile:
            self._outputs = torch.compile(self._outputs)
        self._built = True

    def configure_optimizers(self) -> Any:
        """Return the optimiser, with separate learning rates for the encoder and the rest, and their schedule."""
        self.network.freeze_encoder(0)
        settings = self.settings
        decay = optimisers.decay_of(settings.optimiser, settings.weight_decay)
        groups = param_groups(self.network, self.lr, encoder_lr=self._encoder_lr(), weight_decay=decay)
        scaled = self.trainer.precision == "16-mixed"
        optimiser = optimisers.made(settings.optimiser, settings.optimiser_options, groups, self.lr, decay, scaled)
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ConfigError("trainer.max_epochs=-1: schedules need an end; give a number of epochs or of steps")
        self._steps = int(steps)
        if settings.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(optimiser, mode="max", factor=0.1, patience=10)
            if self._plateau_state is not None:
                self._plateau.load_state_dict(self._plateau_state)
            rising = max(1, round(self._warmup * steps))
            rates: Any = LinearLR(optimiser, 1 / rising, total_iters=rising)
        else:
            rates = LambdaLR(optimiser, lambda step: factor(settings.schedule, step, self._steps, self._warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Move tensors outside of modules to the device; on a CPU, reuse the memory of a step for the next one."""
        if self.device.type == "cpu":
            reuse_memory(all_of_it=True)
            warn_of_threads()
        self._losses, self._clipped = self._losses.to(self.device), self._clipped.to(self.device)
        self._transfer = Transfer(self.device)
        self._unread.clear()

    def on_train_start(self) -> None:
        """Freeze the encoder: Lightning does not announce the epoch within which a run is resumed."""
        self._freeze()

    def on_train_epoch_start(self) -> None:
        """Freeze or unfreeze the encoder; forget the results of the epoch before."""
        self._freeze()
        self._losses.zero_()
        self._clipped.zero_()
        self.scores = self.validation_loss = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make the random numbers of the step depend on its number alone."""
        step = self.trainer.fit_loop.total_batch_idx * self.trainer.world_size + self.trainer.global_rank
        torch.manual_seed((self.settings.seed * 1_000_003 + step) % 2**63)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Look for ignored pixels while they are on the CPU: on a GPU, each look would wait for all steps."""
        self._ignoring = self.trainer.training and not self._tried and bool((batch["target"] == IGNORED).any())
        return batch

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        outputs: TrainingOutputs = self._outputs(batch["image"])
        if self._ignoring:
            self._tried, self._ignoring = True, False
            self.loss.try_ignored(outputs, _truth(batch))
        loss: Tensor = self.loss(outputs, _truth(batch))
        where = f"epoch {self.current_epoch + 1}, batch {batch_idx + 1}, of these images: {', '.join(batch['name'])}"
        self._unread.append((self._transfer.down(loss.detach()), where))
        self.check_losses(self._transfer.ahead)
        self._losses += torch.stack((loss.detach().double(), torch.ones((), dtype=torch.float64, device=loss.device)))
        self.log("loss", loss.detach(), prog_bar=True, logger=True)
        self.log("step", float(self.trainer.global_step + 1), logger=True)  # Lightning would count one less
        return loss

    def check_losses(self, unread: int = 0) -> None:
        """Read the losses of the steps so far, except the last ones; on a GPU, each is read one step late.

        Args:
            unread: how many of the last ones may wait; 0 before anything is saved.

        Raises:
            TrainingError: one is not finite.
        """
        while len(self._unread) > unread:
            fetch, where = self._unread.popleft()
            value = fetch()[0].item()
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} in {where}. What was saved before is intact. Look at the images (unetzoo "
                    "data preview), and try a lower lr=…, trainer.gradient_clip_val=1, or trainer.precision=32"
                )

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as the trainer is set to, and count the steps that were clipped."""
        if gradient_clip_val:
            clipped = clipping.is_clipped(optimizer, gradient_clip_val, by_value=gradient_clip_algorithm == "value")
            self._clipped += torch.stack((clipped, torch.ones_like(clipped)))
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, and update the average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.network)

    def on_validation_epoch_start(self) -> None:
        """Reset all counts, after a check that the losses so far are finite."""
        self.check_losses()
        self.metrics.reset()
        for counter in self._counters:
            counter.reset()
        self._validation = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Count the confusions of a batch of complete images."""
        images, target = batch["image"], batch["target"]
        outputs, logits = validated(self.judged, images)
        loss = self.loss(outputs, _truth(batch))
        self._validation += torch.stack((loss.double() * len(images), torch.ones_like(loss).double() * len(images)))
        self.metrics.update(logits[:, : self.metrics.num_classes], target)
        for counter in self._counters:
            counter.update(logits, batch)

    def on_validation_epoch_end(self) -> None:
        """Compute the scores from all processes' counts; on a plateau, lower the learning rates."""
        self.metrics.sync()
        self.scores = self.metrics.compute()
        self._further = {name: value for counter in self._counters for name, value in counter.row().items()}
        self.validation_loss = self._mean(self._validation)
        found = {key: value for key, value in self.figures.items() if "/" not in key and value is not None}
        shown = {f"val/{key}": torch.tensor(value, dtype=torch.float32) for key, value in found.items()}
        ends = {"val/loss": torch.tensor(self.validation_loss), "step": torch.tensor(float(self.trainer.global_step))}
        self.log_dict(shown | ends, logger=True)
        self.log("dice", shown.get("val/dice", torch.tensor(math.nan)), prog_bar=True, logger=False)
        if self._plateau is not None and not self.trainer.sanity_checking:
            assert self.score is not None
            # The plateau expects a relative rise; of exp(-loss), that is a fall of the loss by a fixed number.
            self._plateau.step(self.score.value if self.score.by_score else math.exp(min(self.score.value, 700.0)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep more than weights: the state of the run, to resume it, and of the network, for ``unetzoo.load``."""
        checkpoint |= {
            VERSION_KEY: __version__,
            CONFIG_KEY: self.network.config.to_json(),
            PREFIX_KEY: self.prefix_of_judged,
        }
        checkpoint[RUN_KEY] = {
            "losses": self._all_summed(self._losses).cpu(),
            "clipped": self._all_summed(self._clipped).cpu(),
            "plateau": None if self._plateau is None else self._plateau.state_dict(),
            "steps": self._steps,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read what :meth:`on_save_checkpoint` kept; the sum of all processes goes to the first."""
        self._losses, self._clipped = (checkpoint[RUN_KEY][name].clone() for name in ("losses", "clipped"))
        if self.trainer.global_rank:
            self._losses.zero_()
            self._clipped.zero_()
        self._plateau_state = checkpoint[RUN_KEY]["plateau"]
        self._steps_before = checkpoint[RUN_KEY]["steps"]

    def _encoder_lr(self) -> float:
        if self.settings.encoder_lr is not None:
            return float(self.settings.encoder_lr)
        return self.lr * (0.1 if self.settings.pretrained or is_saved(self.settings.name) else 1.0)

    def _freeze(self) -> None:
        frozen = self.settings.frozen_epochs
        if frozen:
            self.network.freeze_encoder(None if self.current_epoch < frozen else 0)

    def _mean(self, sums: Tensor) -> float:
        """Return the mean over all processes, from the sum and the count of each; nan if there is nothing."""
        total, count = self._all_summed(sums).tolist()
        return total / count if count else math.nan

    def _all_summed(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.trainer.world_size == 1:
            return values
        total: Tensor = self.trainer.strategy.reduce(values.clone().to(self.device), reduce_op="sum")
        return total


def _truth(batch: Mapping[str, Any]) -> Tensor:
    """Return the target of the logits; for instances, the edges follow the classes."""
    return joined(batch["target"], batch["edges"]) if "edges" in batch else batch["target"]

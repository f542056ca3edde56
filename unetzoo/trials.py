"""Results of networks trained on the same data with the same settings: the results file, and its curves."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unetzoo.config import ModelConfig
from unetzoo.errors import ConfigError, InputError
from unetzoo.files import strict_json
from unetzoo.files.writing import write_file

FORMAT = "unetzoo trials 1"


@dataclass(frozen=True)
class Epoch:
    """One epoch of a trial.

    Attributes:
        epoch: its number, from 1 up.
        minutes: wall-clock time from the first step to the end of this epoch's validation, without interruptions.
        dice, iou: of its validation, from 0 to 1; None if they are undefined or nothing was validated.
    """

    epoch: int
    minutes: float
    dice: float | None
    iou: float | None


@dataclass(frozen=True)
class TrainingTrial:
    """The results of one network.

    Attributes:
        name: in the zoo.
        settings: the arguments of ``unetzoo train``, without the network and the folder.
        curve: one entry per epoch.
        peak_mib: peak memory in MiB that training and validation took, beyond what the process held before; on a GPU,
            the peak of its memory. None where it cannot be measured, on systems other than Linux.
        seconds_per_megapixel: of prediction with the optimized network on this machine's CPU.
        times_resunet18: that time relative to ``resunet18``'s, measured alternately in the same process.
        versions: of the relevant packages, by name.
        machine: processor and number of threads.
        config: how the network was built.
    """

    name: str
    settings: tuple[str, ...]
    curve: tuple[Epoch, ...]
    peak_mib: float | None
    seconds_per_megapixel: float
    times_resunet18: float
    versions: Mapping[str, str]
    machine: str
    config: ModelConfig

    @property
    def best(self) -> Epoch:
        """The epoch with the best validation Dice, whose network is kept; the first of several."""
        return max(self.curve, key=lambda epoch: -1.0 if epoch.dice is None else epoch.dice)

    @property
    def minutes(self) -> float:
        """Duration of the training in minutes."""
        return self.curve[-1].minutes

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able record, which includes "epochs", "dice" and "iou" (of the best epoch) and "minutes"."""
        return {
            "name": self.name,
            "epochs": len(self.curve),
            "dice": self.best.dice,
            "iou": self.best.iou,
            "minutes": self.minutes,
            "peak_mib": self.peak_mib,
            "seconds_per_megapixel": self.seconds_per_megapixel,
            "times_resunet18": self.times_resunet18,
            "settings": list(self.settings),
            "versions": dict(self.versions),
            "machine": self.machine,
            "config": self.config.to_dict(),
            "curve": [asdict(epoch) for epoch in self.curve],
        }


def write_trials(trials: Sequence[TrainingTrial], path: str | os.PathLike[str]) -> None:
    """Write a results file, all or nothing.

    Raises:
        ConfigError: there are no trials, a network is there twice, or settings differ between networks.
        WriteError: the file cannot be written.
    """
    problems = _problems(trials)
    if problems:
        raise ConfigError("these trials cannot be compared", problems)
    record = {"format": FORMAT, "trials": [trial.to_dict() for trial in trials]}
    write_file(path, json.dumps(record, indent=1) + "\n")


def read_trials(path: str | os.PathLike[str]) -> tuple[TrainingTrial, ...]:
    """Read what ``write_trials`` wrote; nothing may be missing, unknown or contradictory.

    Raises:
        InputError: there is no such file, or it is not a results file; lists all that is wrong.
    """
    try:
        record = strict_json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} cannot be read as results ({said}); {_FIX}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path} is not a results file: 'format' is not {FORMAT!r}; {_FIX}")
    records = record.get("trials")
    if not isinstance(records, list):
        raise InputError(f"{path} is damaged: 'trials' is not a list; {_FIX}")
    problems = [problem for number, entry in enumerate(records, 1) for problem in _wrong(entry, _TRIAL, f"{number}")]
    trials: list[TrainingTrial] = []
    if not problems:
        trials = [_trial(entry) for entry in records]
        problems = [
            f"{trial.name}: {key}={entry[key]!r:.80} does not agree with its curve, which gives {value!r:.80}"
            for trial, entry in zip(trials, records, strict=True)
            for key, value in trial.to_dict().items()
            if key != "config" and value != entry[key]  # config is migrated, and may be of an earlier version
        ] + _problems(trials)
    if problems:
        raise InputError(f"{path} is damaged: {'; '.join(problems)}; {_FIX}")
    return tuple(trials)


def draw(figure: Any, trials: Sequence[TrainingTrial]) -> None:
    """Draw on a matplotlib figure: Dice over minutes of training, and best Dice over peak memory.

    If no memory was measured, the second plot is left out.
    """
    weighed = [trial for trial in trials if trial.peak_mib is not None]
    curves, *rest = figure.subplots(1, 2 if weighed else 1, squeeze=False)[0]
    styles = {
        trial.name: {"color": f"C{k}", "marker": marker}
        for k, (trial, marker) in enumerate(zip(trials, itertools.cycle("os^vDPX*<>"), strict=False))
    }
    for trial in trials:
        points = [(epoch.minutes, epoch.dice) for epoch in trial.curve if epoch.dice is not None]
        curves.plot(*zip(*points, strict=True) if points else ((), ()), label=trial.name, **styles[trial.name])
    curves.set(xlabel="minutes of training", ylabel="validation Dice")
    curves.set_xlim(left=0)
    for axes in rest:
        for trial in weighed:
            axes.plot([trial.peak_mib], [trial.best.dice], linestyle="", markersize=9, **styles[trial.name])
        axes.set(xlabel="peak memory of the training (MiB)", ylabel="best validation Dice")
    for axes in (curves, *rest):
        axes.grid(lw=0.3)
    figure.legend(loc="outside lower center", ncols=3)


def _problems(trials: Sequence[TrainingTrial]) -> list[str]:
    """Return what prevents a comparison of these trials."""
    names = [trial.name for trial in trials]
    found = [] if trials else ["there are no trials"]
    found += [f"{name} is there {names.count(name)} times" for name in dict.fromkeys(names) if names.count(name) > 1]
    found += [
        f"{trial.name} was trained with other settings ({' '.join(trial.settings)}) than {trials[0].name} "
        f"({' '.join(trials[0].settings)})"
        for trial in trials
        if trial.settings != trials[0].settings
    ]
    return found


def _trial(entry: Mapping[str, Any]) -> TrainingTrial:
    names = ("name", "peak_mib", "seconds_per_megapixel", "times_resunet18", "versions", "machine")
    return TrainingTrial(
        **{name: entry[name] for name in names},
        settings=tuple(entry["settings"]),
        curve=tuple(Epoch(**epoch) for epoch in entry["curve"]),
        config=ModelConfig.from_dict(entry["config"]),
    )


def _wrong(entry: Any, kinds: Mapping[str, _Kind], where: str) -> list[str]:
    """Return what is wrong with a JSON object that should have these names and kinds of values."""
    if not isinstance(entry, dict):
        return [f"trial {where}: not an object"]
    found = [f"trial {where}: {name}: missing" for name in kinds if name not in entry]
    found += [f"trial {where}: {name!r:.80}: unknown" for name in entry if name not in kinds]
    for name, (fits, needed) in kinds.items():
        if name in entry and not fits(entry[name]):
            found.append(f"trial {where}: {name}={entry[name]!r:.80}: {needed} is needed")
    if not found and kinds is _TRIAL:
        found = [problem for epoch in entry["curve"] for problem in _wrong(epoch, _EPOCH, f"{where}, curve")]
        found = found or _out_of_order(entry, where)
    return found


def _out_of_order(entry: Mapping[str, Any], where: str) -> list[str]:
    found = []
    if [epoch["epoch"] for epoch in entry["curve"]] != list(range(1, len(entry["curve"]) + 1)):
        found.append(f"trial {where}: the epochs of its curve are not 1, 2, 3, …")
    if any(later["minutes"] < earlier["minutes"] for earlier, later in itertools.pairwise(entry["curve"])):
        found.append(f"trial {where}: the minutes of its curve decrease")
    try:
        ModelConfig.from_dict(entry["config"])
    except ConfigError as error:
        found.append(f"trial {where}: config: {error}")
    return found


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_share(value: Any) -> bool:
    return value is None or (_is_amount(value) and value <= 1)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_named_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_Kind = tuple[Callable[[Any], bool], str]
_FIX = "examples/choose_architecture.py writes one"
_AMOUNT: _Kind = (_is_amount, "a number from 0 up")
_SHARE: _Kind = (_is_share, "a number from 0 to 1, or null,")
_COUNT: _Kind = (_is_count, "a whole number from 1 up")
_TEXT: _Kind = (_is_text, "text")
_EPOCH: dict[str, _Kind] = {"epoch": _COUNT, "minutes": _AMOUNT, "dice": _SHARE, "iou": _SHARE}
_TRIAL: dict[str, _Kind] = {
    "name": _TEXT,
    "epochs": _COUNT,
    "dice": _SHARE,
    "iou": _SHARE,
    "minutes": _AMOUNT,
    "peak_mib": (lambda value: value is None or _is_amount(value), "a number from 0 up, or null,"),
    "seconds_per_megapixel": _AMOUNT,
    "times_resunet18": _AMOUNT,
    "settings": (_are_texts, "a list of strings"),
    "versions": (_are_named_texts, "an object of strings"),
    "machine": _TEXT,
    "config": (lambda value: isinstance(value, dict), "an object"),
    "curve": (lambda value: isinstance(value, list) and bool(value), "a list that is not empty"),
}

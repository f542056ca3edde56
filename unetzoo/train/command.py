"""``unetzoo train``: flags and YAML through Lightning's command line, a folder for each run, errors before any work."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import pytorch_lightning as lightning
import yaml
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from unetzoo.checks import one_of
from unetzoo.errors import ConfigError
from unetzoo.printing import printable
from unetzoo.saving.folds import fold_folder, folds_in
from unetzoo.saving.records import BEST_FILE
from unetzoo.saving.repositories import PREFIX
from unetzoo.train import budgets, clipping, folds, loggers, memory, places, report_page, reporting, suggesting
from unetzoo.train.callbacks import run_callbacks
from unetzoo.train.data import FolderData
from unetzoo.train.flags import FLAGS
from unetzoo.train.going_on import check_longer, check_same
from unetzoo.train.keeping import LAST, KeepLast, KeepSettings, WholeFiles
from unetzoo.train.measuring import forecast
from unetzoo.train.mistakes import name_problems, other_problems, trainer_problems
from unetzoo.train.recipe import Recipe
from unetzoo.train.refusals import MODE, explained, makeable, refusal, repeated
from unetzoo.train.runs import CONFIG, Run
from unetzoo.train.stopping import LimitReachedError, Limits, how_it_ended, is_first, resumable
from unetzoo.train.trust import check_settings
from unetzoo.train.words import missing_problems

DEFAULTS = {
    "gradient_clip_val": clipping.NORM,
    "logger": False,
    # Our own replace these and do what they cannot: see keeping.py, reporting.py and sampling.py.
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
}
TOLD = ("max_epochs", "gradient_clip_val")
"""Trainer settings that are also written at their usual values: the latter's is not Lightning's default."""
Place = Callable[[str, int | None], Path]
"""Gives the folder of a run, from the name of its model and the number of a fold."""
COUNTS_OR_SHARES = ("trainer.limit_train_batches", "trainer.limit_val_batches")
"""Whole numbers count batches; other numbers are shares of all batches."""


class RunCLI(LightningCLI):
    """Lightning's command line for a :class:`Recipe` on a :class:`FolderData`, which also writes the run's files."""

    def __init__(
        self, arguments: Sequence[str], place: Place, style: str, settle: Callable[[Any], list[str]], looks: bool
    ) -> None:
        self._place, self.style, self._settle, self._looks = place, style, settle, looks
        super().__init__(
            Recipe,
            FolderData,
            save_config_callback=None,
            trainer_defaults=DEFAULTS,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "prog": "unetzoo train", "allow_abbrev": False, "parser_mode": MODE},
            args=list(arguments),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the settings that belong to neither the model, the data nor the trainer."""
        parser.add_argument("--steps", type=int | None, default=None, help="optimiser steps")
        parser.add_argument("--minutes", type=float | None, default=None, help="train as many steps as fit")
        parser.add_argument("--patience", type=int | None, default=None, help="stop after this many epochs without a "
                            "better one")  # fmt: skip
        parser.add_argument("--keep_minutes", type=float, default=5.0, help="between checkpoints within an epoch")
        parser.add_argument("--keep_steps", type=int | None, default=None, help="optimiser steps instead of minutes")
        parser.add_argument("--images_every", type=int, default=5, help="epochs between sheets of predictions")
        parser.add_argument("--logger", type=str | list[str] | None, default=None, help="names of loggers")
        for action in parser._actions:
            if action.dest in COUNTS_OR_SHARES:
                # Lightning names float first, which would turn 1 (one batch) into 1.0 (all of them).
                action._typehint = int | float | None  # type: ignore[attr-defined]
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse ``args``; ``sys.argv`` is ignored."""
        try:
            self.config = parser.parse_args(args)  # type: ignore[arg-type]
        except jsonargparse.ArgumentError as error:
            raise ConfigError(f"cannot train: {refusal(error, parser)}") from error
        self._problems = self._settle(self.config)

    @functools.cached_property
    def folder(self) -> Path:
        """Where the run goes."""
        return self._place(Path(self.config.model.name.removeprefix(PREFIX)).stem, self.config.data.fold)

    @property
    def loggers(self) -> list[str]:
        """Names of loggers."""
        given = self.config.logger or []
        return [given] if isinstance(given, str) else list(given)

    @property
    def folds(self) -> int | None:
        """The number of folds, where all of them are to be trained; None for a single run."""
        return None if self.config.data.fold is not None else self.config.data.folds

    def settings(self) -> dict[str, Any]:
        """Return all settings, nested: everything except the folder of the run and the minutes."""
        return self._nested(self.config)

    def written(self) -> dict[str, Any]:
        """Return the settings as ``config.yaml`` holds them; of the trainer's, only those that are not as usual."""
        settings, usual = self.settings(), self.defaults()["trainer"]
        own = {name: value for name, value in settings["trainer"].items() if name in TOLD or value != usual.get(name)}
        return settings | {"trainer": own}

    def defaults(self) -> dict[str, Any]:
        """Return the default settings, in the same form."""
        return self._nested(self.parser.get_defaults(skip_validation=True), skip_validation=True)

    def _nested(self, config: jsonargparse.Namespace, **how: bool) -> dict[str, Any]:
        text = self.parser.dump(config, format="yaml", skip_unset=False, skip_link_targets=True, **how)
        aside = ("config", "steps", "minutes")  # the number of epochs and their length replace these
        return {key: value for key, value in yaml.safe_load(text).items() if key not in aside}

    def instantiate_classes(self) -> None:
        """Make the trainer, the model and the data; if all folds are trained, each run does this for itself.

        Raises:
            ConfigError: lists everything that is wrong with the settings, and with the layout of the data if used.
        """
        config, names = self.config, name_problems(self.config.model) if self._looks else []
        problems = [*self._problems, *trainer_problems(config.trainer, config.patience), *names]
        problems += loggers.logger_problems(self.loggers)
        try:
            if not problems and self.folds is not None:
                return None
            if not problems:
                with makeable():
                    return super().instantiate_classes()
        except ConfigError as error:
            problems = [*error.problems]
            others = self._other_problems()
            if {*others} <= {*problems}:
                raise
        else:
            others = self._other_problems()
        raise ConfigError("cannot train", [*dict.fromkeys([*problems, *others])])

    def _other_problems(self) -> list[str]:
        first = {} if self.folds is None else {"fold": 1}
        return other_problems(self.config.model.as_dict(), {**self.config.data.as_dict(), **first}, self._looks)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> lightning.Trainer:
        keeping = run_callbacks(
            self.folder,
            style=self.style,
            **{name: self.config[name] for name in ("patience", "images_every", "keep_minutes", "keep_steps")},
        )
        (last,) = (callback for callback in keeping if isinstance(callback, KeepLast))
        own = [
            *callbacks,
            KeepSettings(self.folder, self.written),
            *keeping,
            *([loggers.LogOften()] if config["log_every_n_steps"] is None else []),
            Limits(last, config["max_time"]),
        ]
        plugins = config["plugins"] or []
        settings = {
            **config,
            "max_time": None,
            "plugins": [*(plugins if isinstance(plugins, list) else [plugins]), WholeFiles()],
            "default_root_dir": tempfile.gettempdir(),  # where Lightning's tuner writes a file
        }
        self.bare = functools.partial(lightning.Trainer, **{**settings, "logger": False})
        settings["logger"] = loggers.opened(self.loggers, self.folder) or False
        try:
            return lightning.Trainer(**{**settings, "callbacks": [*(config["callbacks"] or []), *own]})
        except (ValueError, TypeError) as error:
            raise ConfigError(f"the trainer cannot be set up: {' '.join(str(error).split())}") from error


def train(
    given: Mapping[str, str],
    rest: Sequence[str] = (),
    *,
    config: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    style: str | None = None,
    suggest: bool = False,
    print_config: bool = False,
    trust: bool = False,
    problems: Sequence[str] = (),
    ends: list[str] | None = None,
) -> Path:
    """Train, as ``unetzoo train`` and ``unetzoo.fit`` do.

    Args:
        given: short name of a setting, as in ``flags``, → its value as text.
        rest: other settings by their full names, for Lightning's command line, such as ``["--model.ema=0.999"]``.
        config: a file of settings.
        out: folder of the run, new or empty; None: ``runs/<name of the model>``, numbered if that exists.
        resume: folder of a run to continue instead.
        style: see ``reporting.Progress``; None: a bar on a terminal, else lines.
        suggest: print a learning rate to try, and train nothing.
        print_config: print the settings as YAML, and train nothing.
        trust: whether ``config``, or the settings of ``resume``, may name any class: see ``trust.py``.
        problems: what the caller already found wrong with its arguments.
        ends: gets the text that says how to continue the run, which is then not printed: for one of several runs.

    Returns:
        The folder of the run.

    Raises:
        ConfigError: the request cannot be carried out; nothing was done.
        TrainingError: the loss or the weights became NaN, or memory ran out.
        WeightsError: a checkpoint is damaged.
        WriteError: the folder cannot be written, or the disk is full.
    """
    style = style or ("bar" if sys.stderr.isatty() else "lines")
    problems = [*problems, *one_of("style", style, reporting.STYLES), *repeated(given, rest)]
    if print_config and not (config or resume):
        given = {"model": "NAME", "data": "FOLDER", **given}
    if not (config or resume):
        problems += missing_problems(given)
    if resume and out is not None:
        problems.append(f"out={out}: leave it out; a resumed run stays in its folder")
    if problems:
        raise ConfigError("cannot train", problems)
    if resume and folds_in(resume):
        folds.go_on(train, Path(resume), given, rest, style=style, trust=trust)
        return Path(resume)
    files = [os.fspath(path) for path in (Path(resume) / CONFIG if resume else None, config) if path]
    for file in () if trust else files:
        check_settings(Path(file))
    short = [f"--{flag.setting}={given[flag.name]}" for flag in FLAGS if flag.name in given]
    words = [*(f"--config={file}" for file in files), *short, *rest]
    with contextlib.ExitStack() as stack, _quiet(), explained():
        place = _place(stack, out, resume, begins=is_first() and not (print_config or suggest))
        asked = {*given, *(["epochs"] if _names(rest, "trainer.max_epochs") else [])}
        settle = functools.partial(budgets.settle, given=asked, resumed=bool(resume))
        cli = RunCLI(words, place, style, settle, looks=not print_config)
        if print_config:
            print(yaml.safe_dump(cli.settings(), sort_keys=False), end="")
        elif cli.folds is not None:
            folds.check_whole(cli.config, suggest)
            folds.begin(train, cli.folder, cli.folds, given, rest, config=config, style=style, trust=trust)
        elif suggest:
            _suggest(cli)
        else:
            _fit(cli, resumed=bool(resume), by_steps="epochs" not in asked, ends=ends)
    return cli.folder


def _fit(cli: RunCLI, resumed: bool, by_steps: bool, ends: list[str] | None) -> None:
    """Train or resume, and print what the run produced; ``by_steps``: epochs were not given; ``ends``: see train.

    The files of a run that had nothing left to do stay as they are.
    """
    folder, last, begun = cli.folder, cli.folder / LAST, time.monotonic()
    history = Run(folder).history if resumed else []
    if resumed:
        check_same(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")), cli.settings())
        length = cli.config.data.steps_per_epoch if by_steps else None
        check_longer(len(history), cli.config.trainer.max_epochs, length)
    with resumable(folder, cli.trainer), contextlib.suppress(LimitReachedError):
        if not resumed:
            memory.settle(cli)
            forecast(cli)
        with loggers.begun(cli.trainer):
            cli.trainer.fit(
                cli.model,
                datamodule=cli.datamodule,
                ckpt_path=last if resumed and last.exists() else None,
                weights_only=True,
            )
    if not cli.trainer.is_global_zero:
        return
    ended = _how_it_ended(cli, by_steps)
    stood = [row["step"] for row in history[-1:]] == [cli.trainer.global_step]
    if not (stood and (folder / report_page.FILE).is_file()):
        reporting.write_leftovers(folder, cli.trainer, cli.defaults(), ended, time.monotonic() - begun)
    if ends is not None:
        ended, _, going_on = ended.partition("; ")
        ends.append(going_on)
    if cli.style in ("bar", "lines"):
        print(f"{printable(folder)}: {ended}")
        if (folder / BEST_FILE).is_file():
            said = f"{BEST_FILE} is the best epoch's network; {report_page.FILE} shows how good it is"
        else:
            said = f"there is no {BEST_FILE}, because no epoch has been validated yet"
        print(f"{printable(folder)}: {said}")


def _how_it_ended(cli: RunCLI, by_steps: bool) -> str:
    by_steps = by_steps and cli.config.data.steps_per_epoch is not None  # it is set once minutes are measured
    return how_it_ended(cli.trainer, cli.folder, by_steps=by_steps)


def _names(rest: Sequence[str], setting: str) -> bool:
    """Return whether words of a command line name a setting."""
    return any(word.partition("=")[0] == f"--{setting}" for word in rest)


def _place(
    stack: contextlib.ExitStack, out: str | os.PathLike[str] | None, resume: str | os.PathLike[str] | None, begins: bool
) -> Place:
    """Return a function that gives the folder of a run; if the run ``begins`` here, this process locks the folder."""
    if resume:
        places.check_run(Path(resume))
        return lambda _, __: stack.enter_context(places.resumed(Path(resume))) if begins else Path(resume)

    def place(name: str, fold: int | None) -> Path:
        if fold is not None and out is None:
            raise ConfigError(f"fold={fold}: give out=…, the folder for all folds of this training")
        folder = Path("runs", name) if out is None else Path(out)
        folder = folder if fold is None else fold_folder(folder, fold)
        if not begins:  # the first process tells the others the folder
            return folder
        return stack.enter_context(places.numbered(name) if out is None else places.named(folder))

    return place


def _suggest(cli: RunCLI) -> None:
    """Print the suggested learning rate, and on stderr the result of each that was tried."""
    memory.settle(cli)

    def say(text: str) -> None:
        if cli.style != "quiet":
            print(text, file=sys.stderr, flush=True)

    rate = suggesting.found(cli.bare, cli.model, cli.datamodule, say, progress=cli.style == "bar")
    print(f"--lr {rate:g}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide Lightning's notes on hardware and its tips, which do not concern the user."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning_utilities")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|lightning_utilities")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

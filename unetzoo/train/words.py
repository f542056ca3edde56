"""Words given to ``unetzoo train`` that are not its flags: what is missing, and what unknown options may mean.

Imports nothing that is slow, so that such words are refused immediately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from unetzoo.train.flags import FLAGS

ALSO_CALLED: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("--lr",),
    **dict.fromkeys(
        ("image_size", "img_size", "imgsz", "input_size", "patch_size"), ("--crop-size", "--size", "--tile")
    ),
    **dict.fromkeys(("max_epochs", "num_epochs", "n_epochs"), ("--epochs",)),
    **dict.fromkeys(("iterations", "iters", "max_iters", "num_steps"), ("--steps",)),
    **dict.fromkeys(("n_classes", "nclasses", "classes"), ("--num-classes",)),
    **dict.fromkeys(("encoder", "encoder_name", "backbone"), ("--model",)),
    **dict.fromkeys(("arch", "architecture", "network"), ("--model",)),
    **dict.fromkeys(("output", "output_dir", "outdir", "save_dir"), ("--out",)),
    **dict.fromkeys(("dataset", "data_dir", "input", "source"), ("--data",)),
    **dict.fromkeys(("val_split", "split_ratio"), ("--ratios",)),
    **dict.fromkeys(("kfold", "k_folds", "cross_validation"), ("--folds",)),
    "criterion": ("--loss",),
    "encoder_weights": ("--pretrained",),
    "early_stopping": ("--patience",),
    "format": ("--write",),
}
"""Name of an option in other programs → its names here; the first that a command has is meant."""
IN_THE_NAME = {"encoder", "encoder_name", "backbone"}
BESIDE = ("keep_minutes", "keep_steps", "images_every", "seed_everything", "trainer")
"""Settings of a training that have no flag, and no dot in their names."""
_OTHERS = (
    *("out", "config", "resume", "trust", "quiet", "json", "suggest", "print-config", "help", "import"),
    "print_config",
)


def other_word(word: str, options: Sequence[str]) -> str:
    """Return ``"; did you mean …?"`` if another program has this name for one of the options, or an empty text.

    Args:
        word: with its dashes.
        options: of the command, with their dashes.
    """
    name = word.lstrip("-").replace("-", "_").lower()
    meant = next((option for option in ALSO_CALLED.get(name, ()) if option in options), None)
    if meant is None:
        return "; the encoder is part of a model's name, such as resunet34" if name in IN_THE_NAME else ""
    told = f" The encoder is part of the name, as in {meant} resunet34" if name in IN_THE_NAME else ""
    return f"; did you mean '{meant}'?{told}"


def missing_problems(given: Mapping[str, str]) -> list[str]:
    """Return what is missing if neither a settings file nor a run gives the model and the data."""
    examples = {"model": "model='resunet18'", "data": "data='cells'"}
    missing = [name for name in examples if name not in given]
    if not missing:
        return []
    said = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} needed"
    model = given.get("model", "")
    if model and Path(model).is_dir() and not _has_model(Path(model)):
        return [
            f"{said}: model={model!r} is a folder without a model; if it is a data set, give data={model!r} and a model"
        ]
    shown = ", ".join(examples[name] for name in missing)
    return [f"{said}, as in {shown}; or config=…, a settings file; or resume=…, the folder of a run"]


def _has_model(folder: Path) -> bool:
    from unetzoo.saving.records import model_in  # it imports torch

    return model_in(folder) is not None


def unknown_words(words: Sequence[str]) -> list[str]:
    """Return what is wrong with unknown options whose meaning can be guessed without the list of settings.

    Args:
        words: of the command line, all that are not flags. Full names of settings have a dot.
    """
    known = {flag.name: flag.option for flag in FLAGS} | {name: f"--{name}" for name in (*BESIDE, *_OTHERS)}
    found = []
    for word in words:
        option = word.partition("=")[0].removesuffix("+")
        if not option.startswith("--") or "." in option or option in known.values():
            continue
        name = option[2:].replace("-", "_").lower()
        near = get_close_matches(name, known, n=1, cutoff=0.8)
        hint = other_word(option, [*known.values()]) or (f"; did you mean '{known[near[0]]}'?" if near else "")
        found += [f"unknown: {option}{hint}"] if hint else []
    return found

"""Model cards: the README.md of a model, generated from facts, which keeps the text of its owner."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from unetzoo import information, naming, trained
from unetzoo.checks import is_number
from unetzoo.config import ModelConfig
from unetzoo.costs.counting import costs_of
from unetzoo.costs.tables import cells, header, markdown
from unetzoo.decoders import DECODERS
from unetzoo.encoders import ENCODERS, options_of
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.files import strict_json, strict_yaml
from unetzoo.files.plain import plain
from unetzoo.model import build_on_meta
from unetzoo.printing import printable
from unetzoo.saving.records import SavedModel

SIZE = 512
"""Side of the image for which the costs in the card are counted, in pixels."""
ROWS = 10
"""Most rows of a table or a list; a card folds or shortens longer ones."""
SHORT = 100
"""Most characters of a fact on a line; longer facts get a section."""
_INSTALL = "pip install .  # in a clone of unetzoo, which is not on PyPI yet"
_BEGIN = "<!-- unetzoo card: written anew at each save, so write below its end. "
_END = "<!-- end of the unetzoo card -->"
_TEXT_BEGIN = "<!-- text of the ModelCard: replaced where another is given -->"
_TEXT_END = "<!-- end of the text -->"
_MARKS = (_BEGIN, _END, _TEXT_BEGIN, _TEXT_END)


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The contents of a model card that are not known from the model itself. All are optional.

    Attributes:
        license: as the Hub writes it: "mit", "apache-2.0", "cc-by-4.0", … or "other".
        base_model: the model that it was fine-tuned from: a repository of the Hub, such as "me/cells", or another name.
        training_data: what the model was trained on, in a sentence or two.
        metrics: name → value, such as ``{"Dice": 0.91}``.
        evaluation_data: what the metrics were measured on; required with metrics.
        text: Markdown, placed below the generated part. A new text replaces it, but not what its owner wrote below it.

    Raises:
        ConfigError: lists all that is wrong.
    """

    license: str | None = None
    base_model: str | None = None
    training_data: str | None = None
    metrics: Mapping[str, float] | None = None
    evaluation_data: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.metrics, Mapping):
            object.__setattr__(self, "metrics", {name: plain(value) for name, value in self.metrics.items()})
        problems = [
            f"{name}={value!r:.50}: text is needed"
            for name, value in asdict(self).items()
            if name != "metrics" and value is not None and not isinstance(value, str)
        ]
        if isinstance(self.license, str) and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            problems.append(f"license={self.license!r:.50}: write it as the Hub does: 'mit', 'cc-by-4.0', … or 'other'")
        if self.metrics is not None:
            problems += _metric_problems(self.metrics)
            if not self.evaluation_data:
                problems.append("metrics without evaluation_data: state what they were measured on")
        problems += [
            f"{name} contains a mark of the generated part: give only the text between the marks"
            for name, value in asdict(self).items()
            if isinstance(value, str) and any(mark in value for mark in _MARKS)
        ]
        if problems:
            raise ConfigError("cannot make a model card", problems)

    def over(self, other: ModelCard) -> ModelCard:
        """Return this card, completed from ``other`` where it has no value."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.metrics is None:
            said["evaluation_data"] = None  # it belongs to the metrics
        return replace(other, **{name: value for name, value in said.items() if value is not None})


@dataclass(frozen=True)
class EarlierCard:
    """The contents of a README.md that is to be replaced.

    Attributes:
        front: its front matter.
        card: its facts.
        words: the text that its owner wrote.
        weights: sha256 of the tensors for which its metrics were measured.
    """

    front: Mapping[str, Any]
    card: ModelCard
    words: str = ""
    weights: str | None = None

    def about(self, sha256: str) -> EarlierCard:
        """Return the card for these weights, without its metrics if they are for other weights."""
        card = self.card
        if self.weights != sha256:
            card = replace(card, metrics=None, evaluation_data=None)
        return replace(self, card=card, weights=sha256)

    def over(self, other: EarlierCard) -> EarlierCard:
        """Return this card, completed from ``other`` where it has no value; both are about the same weights."""
        return EarlierCard(
            {**other.front, **self.front}, self.card.over(other.card), self.words or other.words, self.weights
        )


def read_card(readme: str | None, where: object = "README.md") -> EarlierCard:
    """Return the parts of a README.md that are kept; None is treated as an empty file.

    Args:
        readme: its text.
        where: its path, for messages.

    Raises:
        WeightsError: its front matter is not YAML, or one of the marks around the generated part is missing.
    """
    front_matter, body = _split(readme or "")
    front = _read_front_matter(front_matter, where)
    generated, body = _cut(body, _BEGIN, _END)
    given, words = _cut(body, _TEXT_BEGIN, _TEXT_END)
    broken = [mark for mark in _MARKS if mark in words]
    if broken:
        raise WeightsError(
            f"{where} contains the mark {broken[0].strip()!r} without its counterpart, so your text cannot be told "
            "from the generated text: restore the missing mark, or delete this one and the text that it marked"
        )
    licence = front.get("license")
    try:
        card = ModelCard(license=licence if isinstance(licence, str) else None)
    except ConfigError:
        card = ModelCard()  # a license of the owner's own; it stays in the front matter
    card = replace(card, text=given.strip() or None)
    try:
        facts = strict_json.loads(generated.partition(" -->")[0]) if generated else {}
        weights = facts.pop("weights", None)
        return EarlierCard(front, replace(card, **facts), words.strip(), weights)
    except (ValueError, TypeError, AttributeError):
        # Somebody edited the mark: the facts are lost, the owner's text is not.
        return EarlierCard(front, card, words.strip())


def _split(readme: str) -> tuple[str, str]:
    """Return the front matter of a README.md, and what follows it."""
    lines = readme.splitlines(keepends=True)
    marks = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    if len(marks) < 2 or marks[0] != 0:
        return "", readme
    return "".join(lines[1 : marks[1]]), "".join(lines[marks[1] + 1 :])


def _cut(text: str, begin: str, end: str) -> tuple[str, str]:
    """Return the text between two marks, and the text without it and the marks; if a mark is missing, "" and all."""
    before, _, rest = text.partition(begin)
    inside, mark, after = rest.partition(end)
    return (inside, before + after.lstrip("\n")) if mark else ("", text)


def _read_front_matter(text: str, where: object) -> dict[str, Any]:
    try:
        return strict_yaml.loads(text)
    except ValueError as error:
        raise WeightsError(f"the YAML at the top of {where} cannot be read; fix it or delete it: {error}") from error


def write_card(saved: SavedModel, name: str, card: ModelCard | None, earlier: EarlierCard) -> str:
    """Return the text of a README.md.

    Args:
        saved: the model in its file.
        name: the argument for ``from_pretrained``: "me/nuclei".
        card: what else is known.
        earlier: contents of the README.md that this one replaces. The owner's text is kept, and so are front matter
            and facts for which ``card`` has no value; metrics are kept only if they are for the same weights.
    """
    if name in naming.names() or name in trained.names():
        name = f"./{name}"  # the folder: the name alone would mean the network or the trained model
    card = (card or ModelCard()).over(earlier.about(saved.sha256).card)
    text = f"{_TEXT_BEGIN}\n\n{card.text.strip()}\n\n{_TEXT_END}\n\n" if card.text else ""
    facts = {
        "weights": saved.sha256,
        "base_model": card.base_model,
        "training_data": card.training_data,
        "metrics": None if card.metrics is None else dict(card.metrics),
        "evaluation_data": card.evaluation_data,
    }
    mark = json.dumps(facts).replace("--", "\\u002d\\u002d")  # a comment ends with two of them
    return (
        f"---\n{_front_matter(earlier.front, saved.config, card, name)}\n---\n\n"
        f"{_BEGIN}{mark} -->\n\n{_body(saved, name, card)}\n{_END}\n\n{text}{earlier.words}".rstrip()
        + "\n"
    )


def _front_matter(front: Mapping[str, Any], config: ModelConfig, card: ModelCard, name: str) -> str:
    import yaml
    from huggingface_hub import EvalResult, ModelCardData

    base = _repository_of(card.base_model)
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type="custom",
            dataset_name=card.evaluation_data or "",
            metric_type=re.sub(r"\W+", "_", metric.lower()),
            metric_name=metric,
            metric_value=value,
        )
        for metric, value in (card.metrics or {}).items()
    ]
    title = name.rpartition("/")[2] or config.name
    data = ModelCardData(model_name=title, eval_results=results) if results else ModelCardData()
    index: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    known = {*DECODERS, *ENCODERS, *naming.names()}  # tags that an earlier model may have left
    theirs = front.get("tags")
    theirs = theirs if isinstance(theirs, list) else []
    tags = [*_own_tags(config), *(tag for tag in theirs if isinstance(tag, str) and tag not in known)]
    text: str = yaml.safe_dump(
        {
            **{key: value for key, value in front.items() if key != "model-index"},
            "library_name": "unetzoo",
            "pipeline_tag": "image-segmentation",
            "tags": list(dict.fromkeys(tags)),
            **({"license": card.license} if card.license else {}),
            **({"base_model": base, "base_model_relation": "finetune"} if base else {}),
            **index,
        },
        sort_keys=False,
        allow_unicode=True,
    )
    return text.strip()


def _own_tags(config: ModelConfig) -> list[str]:
    return ["unetzoo", "semantic-segmentation", "pytorch", config.decoder, config.encoder, config.name]


def _body(saved: SavedModel, name: str, card: ModelCard) -> str:
    config = saved.config
    info = information.model_info(config.name)
    parts = [
        f"# {html.escape(name.strip('/').rpartition('/')[2] or config.name, quote=False)}",
        f"{info.architecture} on the {info.encoder} encoder, {_task(config)}.",
        _listed(_facts(saved, card)),
        f"## Use\n\n```sh\n{_INSTALL}\nunetzoo predict {name} image.png --out masks --overlay\n```",
        f"```python\n{_example(saved, name)}\n```",
    ]
    if card.training_data and len(card.training_data) > SHORT:
        parts.append(f"## Training data\n\n{card.training_data.strip()}")
    if card.metrics:
        parts.append(f"## Metrics\n\nMeasured on: {card.evaluation_data}\n\n{_metrics(card.metrics)}")
    parts.append(_folded("Architecture and cost", f"{_cost(config, info)}\n\n{_listed(_details(saved, info))}"))
    return "\n\n".join(parts) + "\n"


def _folded(title: str, text: str) -> str:
    """Return text that unfolds at a click."""
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"


def _metrics(metrics: Mapping[str, float]) -> str:
    """Return a table of the first metrics, and the others folded."""
    rows = [f"| {metric} | {value:g} |" for metric, value in metrics.items()]
    tables = ["\n".join(["| metric | value |\n|:--|--:|", *some]) for some in (rows[:ROWS], rows[ROWS:])]
    return tables[0] + ("\n\n" + _folded("All other metrics", tables[1]) if rows[ROWS:] else "")


def _cost(config: ModelConfig, info: information.ModelInfo) -> str:
    costs = costs_of(build_on_meta(config), info, SIZE)
    agreement = " ✓: the published number." if costs.agrees else ""
    row = markdown([header(SIZE), cells(costs)]).strip()
    return f"{row}\n\nCounted for one float32 image; memory is what autograd keeps in training.{agreement}"


def _task(config: ModelConfig) -> str:
    if config.task == "binary":
        return "one class against the background"
    if config.task == "instances":
        return f"objects of {config.num_classes} class{'es' * (config.num_classes > 1)}, separated where they touch"
    kind = "exclusive" if config.task == "multiclass" else "independent"
    return f"{config.num_classes} {kind} classes"


def _example(saved: SavedModel, name: str) -> str:
    """Return example code that segments an image."""
    config = saved.config
    drawn = config.in_channels not in (1, 3)  # common image formats do not have so many channels
    image = f"torch.rand({config.in_channels}, 256, 256)" if drawn else '"image.png"'
    shape = f"  # ({config.in_channels}, H, W) in [0, 1]" if drawn else "  # or a list of them, an array, a tensor"
    return (
        f"import {'torch, ' if drawn else ''}unetzoo\n"
        f'predictor = unetzoo.Predictor("{name}")  # images of any size\n'
        f"result = predictor({image}){shape}\n"
        'result.save("mask.png")  # result.mask, result.probabilities, result.overlay("overlay.png")'
    )


def _facts(saved: SavedModel, card: ModelCard) -> dict[str, str]:
    """Return the facts that a user of the model needs, at most ten lines."""
    config = saved.config
    classes = [f"{k}: {html.escape(label, quote=False)}" for k, label in enumerate(config.class_names or ())]
    if len(classes) > ROWS:
        classes = [*classes[:ROWS], f"and {len(classes) - ROWS} more, in `config.json`"]
    short = card.training_data if card.training_data and len(card.training_data) <= SHORT else ""
    return {
        "input": f"{config.in_channels} channel{'s' * (config.in_channels > 1)}, any height and width"
        + _normalisation(config)
        + (f"; trained on {config.pixels}" if config.pixels else "")
        + (f"; resized by a factor of {config.resize:g}" if config.resize != 1 else ""),
        "output": f"logits of {config.num_classes} class{'es' * (config.num_classes > 1)}"
        + (", and of the edges between objects" if config.task == "instances" else "")
        + f", task `{config.task}`",
        "classes": ", ".join(classes),
        "fine-tuned from": card.base_model or "",
        "training data": short,
        "parameters": f"{saved.parameters:,}, {', '.join(saved.dtypes)}",
        "licence of these weights": card.license or "",
        "saved by": f"unetzoo {saved.unetzoo_version}",
    }


def _details(saved: SavedModel, info: information.ModelInfo) -> dict[str, str]:
    """Return the papers, and the options that are not the defaults."""
    config = saved.config
    shown = {**options_of(config), **options_of(config.decoder_options), **options_of(config.encoder_options)}
    differing = [f"`{key}={shown[key]!r}`" for key, default in info.options.items() if _differs(key, default, shown)]
    return {"architecture": info.paper, "encoder": info.encoder_paper, "options": ", ".join(differing)}


def _listed(lines: Mapping[str, str]) -> str:
    return "\n".join(f"- {title}: {printable(' '.join(text.split()))}" for title, text in lines.items() if text)


def _repository_of(model: str | None) -> str | None:
    """Return the repository of the Hub that a model's name means, without its revision; None if it means none."""
    found = re.fullmatch(r"(?:hf-hub:)?([\w.-]+/[\w.-]+)(?:@[\w./-]+)?", model or "")
    return found[1] if found else None


def _normalisation(config: ModelConfig) -> str:
    if config.normalisation == "image":
        return "; each image minus its own mean, divided by its own standard deviation, channel by channel"
    if config.mean and config.std:
        return f"; values from 0 to 1, then minus the mean {_numbers(config.mean)}, divided by {_numbers(config.std)}"
    return ""


def _differs(key: str, default: Any, shown: Mapping[str, Any]) -> bool:
    told = ("in_channels", "num_classes", "task", "class_names", "mean", "std", "normalisation", "resize", "pixels")
    settled = default is None or (key == "conv_bias")
    return key in shown and key not in told and shown[key] != default and not settled


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _metric_problems(metrics: object) -> list[str]:
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
        return [f"metrics={metrics!r:.50}: a dictionary of name and value is needed"]
    return [
        f"metrics[{name!r}]={value!r:.50}: a finite number is needed"
        for name, value in metrics.items()
        if not is_number(value) or not abs(value) <= sys.float_info.max
    ]

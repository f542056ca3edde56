"""Loading other programs' networks as models of this zoo."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unetzoo import naming, zoo
from unetzoo.config import CONFIG_KEY
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.files.checkpoints import MOST_LISTED, check_finite, complete, listed, misfits, read_contents
from unetzoo.files.finding import Contents, Place, taken_and_left, usual
from unetzoo.files.notes import Note
from unetzoo.foreign import smp, unets
from unetzoo.foreign.layouts import Layout, Network, State, UnfitError
from unetzoo.foreign.statistics import Statistics, statistics_in
from unetzoo.model import SegmentationModel
from unetzoo.nn.meta import on_meta

LAYOUTS: tuple[Layout, ...] = (*unets.LAYOUTS, *smp.LAYOUTS)
"""All known layouts: the first that fits a state dict is used."""
SHOWN = 3
"""Number of left-out tensors that the log names."""


@dataclass(frozen=True)
class Located:
    """The location of a network of a known layout in a file.

    Attributes:
        contents: of the file.
        layout: of the network.
        place: the place that was taken.
        passed: other places that hold such a network.
    """

    contents: Contents
    layout: Layout
    place: Place
    passed: Sequence[Place]

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.contents.path


def load_foreign(path: str | os.PathLike[str], name: str | None = None, **options: Any) -> SegmentationModel:
    """Return another program's U-Net as a model of this zoo, in evaluation mode. No code in the file is run.

    The network is recognised by the names and shapes of its tensors: ``docs/coming_from_others.md`` lists the known
    ones, and where results differ. The log says what it became here. The logits equal those of the other program up to
    rounding, at image sizes that the remark in the log names; ``model.origin`` repeats it, and is saved in files.

    Args:
        path: of the file, or ``FILE::place``, which selects the other network if it holds two; or a folder that smp's
            ``save_pretrained`` wrote.
        name: of the network in the zoo. Needed only if no tensor tells two networks apart and it is not the usual one.
        **options: as ``create`` takes them, for what no tensor shows: ``task``, ``class_names``, ``mean``, ``std``,
            ``normalisation``, ``dropout``. Mean and std are taken from buffers ``mean`` and
            ``std`` next to the network, as modules of Lightning have them; most files have none.

    Raises:
        WeightsError: the file cannot be read, its network is unknown or not in the zoo, or its weights are not finite;
            the message says which.
        ConfigError: lists all that is wrong with the name and the options.
    """
    contents = read_contents(file_of(path))
    if CONFIG_KEY in contents.text:
        raise WeightsError(f"{path} is a saved model of this package: unetzoo.load takes it")
    found = located(contents)
    if found is None:
        raise WeightsError(f"{path} {unknown()}")
    return built(found, name, options)


def file_of(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the file with the tensors in a folder that ``save_pretrained`` wrote; any other path is returned."""
    file = Path(path) / smp.MODEL_FILE
    return file if file.is_file() else path


def located(contents: Contents) -> Located | None:
    """Return where in a file a network of a known layout is, None if there is none.

    Raises:
        WeightsError: there are several, and :func:`unetzoo.files.finding.usual` cannot tell which is meant.
    """
    found = {prefix: layout for prefix, state in contents.states() if (layout := layout_of(state)) is not None}
    if not found:
        return None
    place, passed = usual(contents.path, [Place(prefix, contents.under(prefix)) for prefix in found])
    return Located(contents, found[place.prefix], place, passed)


def layout_of(state: State) -> Layout | None:
    """Return the layout of a state dict, None if it is unknown."""
    return next((layout for layout in LAYOUTS if layout.is_that_of(state)), None)


def known() -> str:
    """Return the titles of the known layouts."""
    return ", ".join(layout.title for layout in LAYOUTS)


def unknown() -> str:
    """Return the message about a file whose names fit no known layout."""
    return (
        f"does not state which network it holds, and its names fit no known network ({known()}): if they are this "
        "package's, 'unetzoo convert FILE NEW.safetensors --model NAME' takes it; an encoder alone goes to "
        "create(..., pretrained=path)"
    )


def built(found: Located, name: str | None, options: Mapping[str, Any]) -> SegmentationModel:
    """Return the model for a state dict of a known layout; see :func:`load_foreign`."""
    if "pretrained" in options:
        raise ConfigError("pretrained is not for a network of another program: all weights come from the file")
    network = network_of(found.path, found.layout, found.place.state, name)
    told = {*options} if name is None else {"name", *options}
    model, renamed, note = fitted(found, network, options, told)
    check_finite(found.path, renamed)
    model.load_state_dict(renamed, assign=True)
    note.log()
    return model.eval()


def fitted(
    found: Located, network: Network, options: Mapping[str, Any], told: Collection[str]
) -> tuple[SegmentationModel, dict[str, Tensor], Note]:
    """Return the network without weights, the tensors of the file under its names, and the line for the log.

    Args:
        found: in the file.
        network: which it is.
        options: further options of ``create``.
        told: names of options that the caller gives for the model, which the log does not report as assumed.
    """
    path, layout = found.path, found.layout
    stored = None
    if not {"mean", "std", "normalisation"} & {*told, *options}:
        stored = statistics_in(found.contents, found.place, network.options.get("in_channels", 3))
    if stored is not None and stored.mean is not None:
        assumed = tuple(item for item in network.assumed if not {"mean", "std"} & {*item.options})
        given = {**network.options, "mean": stored.mean, "std": stored.std}
        network = replace(network, options=given, assumed=assumed)
    if options.get("normalisation") == "image":  # drop the other program's mean and std
        known = {key: value for key, value in network.options.items() if key not in ("mean", "std")}
        network, told = replace(network, options=known), {*told, "mean", "std"}
    for key in ("num_classes", "in_channels"):
        if options.get(key) is not None and options[key] != network.options.get(key, options[key]):
            raise WeightsError(
                f"{path} holds a network of {key}={network.options[key]}: leave out {key}, convert it, then load(…, "
                f"{key}={options[key]!r:.50}) of the file made"
            )
    with on_meta():
        model = zoo.create(network.name, **{**network.options, **options})
    wanted = model.state_dict()
    renamed, left = layout.renamed(found.place.state, network.idle)
    renamed = complete(layout.with_zeros(renamed, wanted), wanted)
    problems = misfits(wanted, renamed)
    if problems:
        raise WeightsError(
            f"{path} holds {layout.title} by its names, which is {network.name} here, but does not fit it:"
            f"{listed(problems, MOST_LISTED)}\n{_advice(options)}"
        )
    shown = {**{key: value for key, value in network.options.items() if key not in told}, **options}
    model.origin = f"{layout.title} ({layout.home}): {network.remark}"
    return model, renamed, _note(found, network, left, shown, told, stored)


def network_of(path: str | os.PathLike[str], layout: Layout, state: State, name: str | None = None) -> Network:
    """Return the network of a state dict; if several are possible, the one called ``name``."""
    try:
        said = layout.beside(Path(path)) if layout.beside is not None else None
        networks = layout.networks(state) if said is None else [said]
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
    except UnfitError as error:
        raise WeightsError(
            f"{path} holds {error.what}, which is not a network of this zoo: {error.why}; use it in the program that "
            "made it, or train a network of this zoo"
        ) from error
    except KeyError as error:
        raise WeightsError(f"{path} holds {layout.title} by its names, but lacks {error.args[0]}") from error
    if name is None:
        return networks[0]
    usual = naming.resolve(name)
    found = next((network for network in networks if network.name == usual), None)
    if found is None:
        raise WeightsError(
            f"{path} holds {layout.title}, which is {' or '.join(n.name for n in networks)} here, not {usual}"
        )
    return found


def _advice(options: Mapping[str, Any]) -> str:
    if options:
        return f"leave out {', '.join(options)}; if this does not help, the file was changed and holds another network"
    return "the file was changed and holds another network"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _note(
    found: Located,
    network: Network,
    left: Sequence[str],
    options: Mapping[str, Any],
    told: Collection[str],
    stored: Statistics | None,
) -> Note:
    """Return one line about what a file became, what was assumed, and what was left of it."""
    assumed = [item for item in network.assumed if not set(item.options) & set(told)]
    unsaid = {name for item in assumed for name in item.options}
    listed = "".join(f", {key}={value!r}" for key, value in options.items() if key not in unsaid)
    parts = [f"{found.path}: {found.layout.title}, here {network.name}{listed}", network.remark]
    idle = [name for name in left if re.fullmatch(network.idle, name)]
    others = [name for name in left if name not in idle]
    if others:
        parts.append(f"left out: {_some(others)}")
    if idle:
        parts.append(f"left out, as no logit depends on it: {_some(idle)}")
    doubts = [item.said for item in assumed]
    if options.get("num_classes", 1) > 1 and "task" not in {*options, *told}:
        doubts.append("one class per pixel, task='multiclass' (give task='multilabel' if classes overlap)")
    if doubts:
        parts.append(f"assumed: {'; '.join(doubts)}")
    if "mean" not in {*options, *told}:
        doubts.append("mean and std")
        parts.append("it states no mean and std: give those of its training")
    parts += [] if stored is None else [stored.said]
    used = () if stored is None or stored.mean is None else stored.names
    rest = {name: tensor for name, tensor in found.contents.tensors.items() if name not in used}
    contents = replace(found.contents, tensors=rest)
    parts.append(taken_and_left(contents, found.place, found.passed, found.place.state))
    return Note("; ".join(parts), doubtful=bool(found.passed or doubts), describes=True)

"""Files of other programs' networks to models of this zoo."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from unetzoo import zoo
from unetzoo.errors import ConfigError, WeightsError
from unetzoo.files.checkpoints import MOST_LISTED, check_finite, complete, listed, misfits, read_contents
from unetzoo.files.finding import Contents, Place, usual
from unetzoo.foreign import smp, unets
from unetzoo.foreign.layouts import Layout, Network, State, UnfitError
from unetzoo.model import SegmentationModel
from unetzoo.nn.meta import on_meta
from unetzoo.printing import DESCRIPTION

LAYOUTS: tuple[Layout, ...] = (*unets.LAYOUTS, *smp.LAYOUTS)
"""All that are known: the first that a state dict is of counts."""
SHOWN = 8
"""Names of tensors left out that the log lists."""

_logger = logging.getLogger("unetzoo")


def load_foreign(path: str | os.PathLike[str], name: str | None = None, **options: Any) -> SegmentationModel:
    """Return somebody else's U-Net as a model of this zoo, in evaluation mode. Nothing in the file is run.

    Whose it is, is seen by the names and shapes of its tensors: ``docs/coming_from_others.md`` lists those that are
    known, and where results differ. The log says what it became. The logits are those of the other program to
    rounding, wherever that takes an image; ``model.origin`` says so too, and is kept in files.

    Args:
        path: of the file, or ``FILE::place`` for the other of two networks in it.
        name: of the network in the zoo. Needed only where no tensor tells two apart and it is not the usual one.
        **options: as ``create`` takes them, of what no tensor shows: ``task``, ``class_names``, ``mean``, ``std``,
            ``dropout``. Mean and std are in none of these files.

    Raises:
        WeightsError: the file cannot be read, its network is not known, or not in the zoo, or its weights are not
            finite; says what it is.
        ConfigError: lists all that is wrong with the name and the options.
    """
    contents = read_contents(path)
    found = located(contents)
    if found is None:
        raise WeightsError(f"{path} {unknown()}")
    place, layout = found
    return built(contents.path, layout, place.state, name, options)


def located(contents: Contents) -> tuple[Place, Layout] | None:
    """Return where in a file a network of a known layout stands, None where there is none.

    Raises:
        WeightsError: there are several, and :func:`unetzoo.files.finding.usual` does not say which is meant.
    """
    found = {prefix: layout for prefix, state in contents.states() if (layout := layout_of(state)) is not None}
    if not found:
        return None
    place, _ = usual(contents.path, [Place(prefix, contents.under(prefix)) for prefix in found])
    return place, found[place.prefix]


def layout_of(state: State) -> Layout | None:
    """Return the layout of a state dict, None where it is none that is known."""
    return next((layout for layout in LAYOUTS if layout.is_that_of(state)), None)


def known() -> str:
    """Return whose networks are known by their names."""
    return ", ".join(layout.title for layout in LAYOUTS)


def unknown() -> str:
    """Return what is said of a file whose names are of no layout that is known."""
    return (
        f"does not say which network it holds, and its names are none of those known ({known()}): if they are this "
        "package's, 'unetzoo convert' takes it with --model NAME; an encoder alone goes to create(..., pretrained=path)"
    )


def built(
    path: str | os.PathLike[str], layout: Layout, state: State, name: str | None, options: Mapping[str, Any]
) -> SegmentationModel:
    """Return the model that a state dict of a layout is; see :func:`load_foreign`."""
    if "pretrained" in options:
        raise ConfigError("pretrained is not for a network of another program: all weights come from the file")
    network = network_of(path, layout, state, name)
    model, renamed, line = fitted(path, layout, state, network, options)
    check_finite(path, renamed)
    model.load_state_dict(renamed, assign=True)
    _logger.warning("%s", line, extra=DESCRIPTION)
    return model.eval()


def fitted(
    path: str | os.PathLike[str], layout: Layout, state: State, network: Network, options: Mapping[str, Any]
) -> tuple[SegmentationModel, dict[str, Tensor], str]:
    """Return the network of shapes alone, a state dict of a layout under its names, and a line about both."""
    with on_meta():
        model = zoo.create(network.name, **{**network.options, **options})
    wanted = model.state_dict()
    renamed, left = layout.renamed(state, network.idle)
    renamed = complete(layout.with_zeros(renamed, wanted), wanted)
    problems = misfits(wanted, renamed)
    if problems:
        raise WeightsError(
            f"{path} holds {layout.title} by its names, which is {network.name} here, and does not fit it:"
            f"{listed(problems, MOST_LISTED)}\n{_advice(options)}"
        )
    model.origin = f"{layout.title} ({layout.home}): {network.remark}"
    return model, renamed, _line(path, layout, network, left, model)


def network_of(path: str | os.PathLike[str], layout: Layout, state: State, name: str | None = None) -> Network:
    """Return the network that a state dict is, the one called ``name`` where several are possible."""
    try:
        said = layout.beside(Path(path)) if layout.beside is not None else None
        networks = layout.networks(state) if said is None else [said]
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
    except UnfitError as error:
        raise WeightsError(
            f"{path} holds {error.what}, which is no network of this zoo: {error.why}; use it in the program that made "
            "it, or train one of ours"
        ) from error
    except KeyError as error:
        raise WeightsError(f"{path} holds {layout.title} by its names, and lacks {error.args[0]}") from error
    if name is None:
        return networks[0]
    usual = zoo.resolve(name)
    found = next((network for network in networks if network.name == usual), None)
    if found is None:
        raise WeightsError(
            f"{path} holds {layout.title}, which is {' or '.join(n.name for n in networks)} here, not {usual}"
        )
    return found


def _advice(options: Mapping[str, Any]) -> str:
    if options:
        return f"leave out {', '.join(options)}, or the file was changed: what is in it is another network"
    return "it was changed: what is in it is another network"


def _line(
    path: str | os.PathLike[str], layout: Layout, network: Network, left: Sequence[str], model: SegmentationModel
) -> str:
    """Return in one line what the file became, and what could not be seen or was left."""
    options = "".join(f", {key}={value!r}" for key, value in network.options.items())
    line = f"{path}: {layout.title}, here {network.name}{options}; {network.remark}"
    if network.created:
        line += f"; taken as created with {network.created}, which no tensor shows"
    if model.config.task == "multiclass" and "task" not in network.options:
        line += "; taken as of one class a pixel, task='multiclass'"
    if left:
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        line += f"; left out: {', '.join(left[:SHOWN])}{more}"
    if model.config.mean is None:
        line += "; it names no mean and std: give those of its training"
    return line

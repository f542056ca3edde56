"""The images that represent a data set on its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unetzoo.data.examining import Findings
from unetzoo.data.labels import Labels
from unetzoo.data.listing import Sample

MOST = 24
_PROBLEMS = 8


@dataclass(frozen=True)
class Example:
    """An image that is shown.

    Attributes:
        sample: the image and its mask.
        split: of the image.
        why: it was chosen.
        problems: of the image or its mask.
    """

    sample: Sample
    split: str
    why: str
    problems: tuple[str, ...]


def chosen(found: Sequence[Findings], labels: Labels) -> tuple[Example, ...]:
    """Return at most :data:`MOST` images: some with problems, some of each class and split, and others between them.

    Args:
        found: what was found in all images, split by split.
        labels: what their masks mean.
    """
    examples: dict[int, Example] = {}
    for place, why in _wishes(found, labels):
        if len(examples) == MOST:
            break
        one = found[place]
        examples.setdefault(place, Example(one.sample, one.split, why, tuple(one.problems)))
    return tuple(examples[place] for place in sorted(examples))


def _wishes(found: Sequence[Findings], labels: Labels) -> Iterator[tuple[int, str]]:
    """Yield the places of images that should be shown, the most wanted first, and why."""
    readable = [place for place, one in enumerate(found) if one.size is not None]
    bad = [place for place in readable if found[place].problems]
    yield from ((place, "has a problem") for place in _evenly(bad, _PROBLEMS))
    good = [place for place in readable if not found[place].problems and found[place].pixels is not None]
    shares = {place: [n / max(1, found[place].area) for n in found[place].pixels or ()] for place in good}
    totals = [sum(shares[place][k] for place in good) for k in range(len(labels.counted))]
    splits = list(dict.fromkeys(found[place].split for place in good))
    first = 0 if labels.pixel_task == "multilabel" else 1
    # The rarest class first, since there may be more classes than places.
    for k in sorted(range(first, len(labels.counted)), key=totals.__getitem__):
        for split in splits:
            best = max((p for p in good if found[p].split == split), key=lambda p: shares[p][k])
            if shares[best][k] > 0:
                yield best, f"the largest share of {labels.counted[k]!r} in {split}"
    for split in splits:
        yield from ((place, "") for place in _evenly([p for p in good if found[p].split == split], MOST // len(splits)))
    yield from ((place, "") for place in _evenly(good, MOST))


def _evenly(places: Sequence[int], most: int) -> list[int]:
    count = min(most, len(places))
    return [places[k * len(places) // count] for k in range(count)]

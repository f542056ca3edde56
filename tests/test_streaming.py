"""Objects of planes that come by rows: those of the whole plane."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from unetzoo.data.edges import edges_of
from unetzoo.objects import cleaned, instances
from unetzoo.objects.streaming import LargeRows, NumberedRows


def streamed(plane: np.ndarray, rows: int, split: float, limit: int, edges: np.ndarray | None = None) -> np.ndarray:
    """Return the numbers of a plane that is given by so many rows at a time."""
    known = NumberedRows(plane.shape[1], split, limit)
    parts = []
    for a in range(0, len(plane), rows):
        here = slice(a, a + rows)
        parts.append(known.add(plane[here], a + rows >= len(plane), None if edges is None else edges[here]))
    return known.order()[np.concatenate(parts)]


def whole(plane: np.ndarray, split: float) -> np.ndarray:
    return instances(torch.from_numpy(plane), "multiclass", 3, split=split).labels.numpy()


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 12)).flatmap(
        lambda size: arrays(np.uint8, size, elements=st.sampled_from([0, 0, 1, 1, 2]))
    ),
    st.integers(1, 7),
    st.sampled_from([0, 3, 100]),
)
def test_components_are_those_of_the_whole_whatever_the_limit(plane: np.ndarray, rows: int, limit: int) -> None:
    assert (streamed(plane, rows, 0, limit) == whole(plane, 0)).all()


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 24), st.integers(1, 14)).flatmap(
        lambda size: arrays(np.uint8, size, elements=st.sampled_from([0, 1, 1, 1, 1, 2]))
    ),
    st.integers(1, 7),
    st.sampled_from([0.25, 0.5, 1.0]),
)
def test_objects_that_are_split_are_those_of_the_whole(plane: np.ndarray, rows: int, split: float) -> None:
    assert (streamed(plane, rows, split, 100) == whole(plane, split)).all()


def with_edges(mask: np.ndarray, edges: np.ndarray, split: float) -> np.ndarray:
    """Return the numbers of a mask's objects as they are in memory, of networks that are sure of all."""
    sure, ends = torch.from_numpy(mask).float()[None], torch.from_numpy(edges).float()
    return instances(torch.from_numpy(mask), "binary", 1, probabilities=sure, edges=ends, split=split).labels.numpy()


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 14)).flatmap(
        lambda size: st.tuples(
            arrays(np.uint8, size, elements=st.sampled_from([0, 1, 1, 1, 1, 1, 1])),
            arrays(bool, size, elements=st.sampled_from([False, False, False, True])),
        )
    ),
    st.integers(1, 9),
    st.sampled_from([0.25, 0.5, 1.0]),
)
def test_objects_with_edges_are_those_of_the_whole(
    both: tuple[np.ndarray, np.ndarray], rows: int, split: float
) -> None:
    """Heights are blurred over pixels that lie in other strips."""
    mask, edges = both
    assert (streamed(mask, rows, split, 100, edges) == with_edges(mask, edges, split)).all()


def wall(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of bricks side by side, which only their edges tell apart, and these."""
    y, x = np.mgrid[:height, :width]
    ids = torch.from_numpy(1 + y // 23 * 100 + (x + y // 23 % 2 * 6) // 12)
    ids[torch.from_numpy((y < 4) | (x < 3) | (x >= width - 5))] = 0
    return (ids > 0).numpy().astype(np.uint8), edges_of(ids).numpy()


@pytest.mark.parametrize("rows", [1, 5, 16, 64])
def test_a_wall_is_the_bricks_of_the_whole(rows: int) -> None:
    mask, edges = wall(140, 90)
    found = streamed(mask, rows, 1.0, 200, edges)
    assert found.max() > 40
    assert (found == with_edges(mask, edges, 1.0)).all()


def test_a_wall_taller_than_the_limit_has_each_brick_once() -> None:
    """It is one component of all rows, of which those of three bricks are held back."""
    mask, edges = wall(440, 90)
    found, expected = streamed(mask, 10, 1.0, 70, edges), with_edges(mask, edges, 1.0)
    assert ((found > 0) == (mask > 0)).all()
    assert found.max() == expected.max() > 100
    both, counts = np.unique(np.stack([found, expected]).reshape(2, -1), axis=1, return_counts=True)
    assert sum(sorted(counts)[-expected.max() - 1 :]) > 0.98 * mask.size
    assert len(np.unique(both[0][np.argsort(counts)[-expected.max() - 1 :]])) == expected.max() + 1


def test_memory_is_that_of_the_rows_that_are_open() -> None:
    """Of walls of 46 rows, one below the other: of many it is no more than of a few."""
    mask, edges = wall(56, 200)
    mask[50:] = 0

    def peak(walls: int) -> int:
        known = NumberedRows(200, 1.0, 2048)
        tracemalloc.start()
        for k in range(walls):
            for a in range(0, 56, 8):
                known.add(mask[a : a + 8], k == walls - 1 and a == 48, edges[a : a + 8])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)  # imports are none of it
    assert peak(12) < 1.1 * peak(3)


def discs(size: tuple[int, int], *places: tuple[float, float, float]) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    return np.any([(y - v) ** 2 + (x - u) ** 2 <= r * r for v, u, r in places], 0).astype(np.uint8)


@pytest.mark.parametrize("rows", [5, 16, 64])
def test_objects_of_many_strips_are_one_each(rows: int) -> None:
    """Two discs that touch, 64 rows high together, over four strips of 16 and over many of 5."""
    plane = discs((90, 60), (25, 30, 18), (57, 30, 18))
    found = streamed(plane, rows, 1.5, 90)
    assert found.max() == 2
    assert (found == whole(plane, 1.5)).all()


@pytest.mark.parametrize("rows", [5, 16])
def test_a_part_taller_than_the_limit_is_divided_as_it_comes(rows: int) -> None:
    """A tower of 20 discs, each of which touches the next, with room for three."""
    plane = discs((340, 40), *((10 + 16 * k, 20, 9) for k in range(20)))
    found = streamed(plane, rows, 1.0, 48)
    assert ((found > 0) == (plane > 0)).all()
    assert found.max() == 20 == whole(plane, 1.0).max()
    for k in range(20):
        (number,) = np.unique(found[8 + 16 * k : 13 + 16 * k, 20])
        assert number == k + 1


def test_one_object_taller_than_the_limit_has_one_number() -> None:
    plane = np.zeros((300, 30), np.uint8)
    plane[3:290, 8:20] = 1
    plane[5:280, 23:29] = 2
    assert (streamed(plane, 10, 1.0, 40) == whole(plane, 1.0)).all()


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 24), st.integers(1, 10)).flatmap(
        lambda size: arrays(np.uint8, size, elements=st.sampled_from([0, 0, 0, 1, 1, 2]))
    ),
    st.integers(1, 7),
    st.integers(1, 12),
)
def test_what_is_small_is_left_out_as_in_the_whole(plane: np.ndarray, rows: int, smallest: int) -> None:
    known = LargeRows(plane.shape[1], smallest)
    parts = [known.add(plane[a : a + rows], a + rows >= len(plane)) for a in range(0, len(plane), rows)]
    expected = cleaned(torch.from_numpy(plane), "multiclass", 3, smallest=smallest).numpy()
    assert (np.concatenate(parts) == expected).all()

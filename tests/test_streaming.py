"""Objects of planes that come by rows: those of the whole plane."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from unetzoo.objects import cleaned, instances
from unetzoo.objects.streaming import LargeRows, NumberedRows


def streamed(plane: np.ndarray, rows: int, split: float, limit: int) -> np.ndarray:
    """Return the numbers of a plane that is given by so many rows at a time."""
    known = NumberedRows(plane.shape[1], split, limit)
    parts = [known.add(plane[a : a + rows], a + rows >= len(plane)) for a in range(0, len(plane), rows)]
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

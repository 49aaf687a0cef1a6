"""The parts of the compiled sweep by themselves."""

from __future__ import annotations

import numba as nb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from interactrank.features.prefetch import prefetch
from interactrank.model.sweep import log1p_f32
from interactrank.model.top_k import best


@nb.njit()
def logs(values: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.empty_like(values)
    for i in range(values.size):
        out[i] = log1p_f32(values[i])
    return out


def test_the_logarithm_is_as_exact_as_its_type() -> None:
    days = np.concatenate(
        (
            [0.0, 1e-12, 2**0.5 - 1, 1.0, 30.0],
            np.geomspace(1e-9, 1e6, 20_000),
            np.nextafter(np.exp2(np.arange(0, 20)), np.inf) - 1,
        )
    ).astype(np.float32)
    expected = np.log1p(days.astype(np.float64))
    assert np.abs(logs(days) - expected).max() < 2e-6
    small = expected < 1
    assert np.abs(logs(days) - expected)[small].max() < 2e-7


@nb.njit()
def asked_for(values: NDArray[np.int64], places: NDArray[np.int64]) -> int:
    total = 0
    for at in places:
        prefetch(values, at)
        if 0 <= at < values.size:
            total += values[at]
    return total


def test_asking_for_memory_changes_nothing_wherever_it_is() -> None:
    values = np.arange(10)
    assert asked_for(values, np.array([3, -(2**40), 2**40, 9, 10])) == 12
    assert values.tolist() == list(range(10))


@given(
    st.lists(
        st.floats(width=32, allow_nan=True) | st.sampled_from([0.0, -0.0, 1.0, -1.0]), max_size=40
    ),
    st.integers(0, 45),
)
def test_the_best_are_those_of_a_sort(scores: list[float], k: int) -> None:
    values = np.array(scores, np.float32)
    ids = np.random.default_rng(0).permutation(len(values))
    finite = np.isfinite(values)
    order = sorted(
        range(len(values)), key=lambda i: (not finite[i], -values[i] if finite[i] else 0, ids[i])
    )
    assert best(values, ids, k).tolist() == order[:k]


@pytest.mark.parametrize("k", [1, 1000, 4999, 5000])
def test_the_best_of_scores_that_are_close_together(k: int) -> None:
    rng = np.random.default_rng(k)
    values = (1.0 + 1e-6 * rng.integers(0, 50, 5000)).astype(np.float32)
    ids = rng.permutation(5000)
    assert best(values, ids, k).tolist() == np.lexsort((ids, -values))[:k].tolist()


@pytest.mark.parametrize("k", [0, 10, 2_000, 12_000, 39_990])
@pytest.mark.parametrize("shape", ["random", "every fourth", "rising", "few finite"])
def test_the_best_of_many_however_they_lie(shape: str, k: int) -> None:
    """Where the best begin is guessed from every so many-th score, which may be the best ones."""
    n = 40_000
    rng = np.random.default_rng(k)
    values = rng.standard_normal(n).astype(np.float32)
    if shape == "every fourth":
        values[::4] += 100.0
    elif shape == "rising":
        values.sort()
    elif shape == "few finite":
        values[rng.random(n) < 0.9] = np.nan
        values[rng.random(n) < 0.05] = np.inf
    ids, finite = rng.permutation(n), np.isfinite(values)
    order = np.lexsort((ids, np.where(finite, -values, np.inf)))
    assert best(values, ids, k).tolist() == order[:k].tolist()

"""Tasks and results of Ray are dataclasses of anything that pickles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from prerank.core.errors import DataError
from prerank.core.ray_tasks import ray_map


@dataclass(frozen=True)
class Task:
    """What Arrow would not take as it is."""

    number: int
    path: Path
    table: NDArray[np.float32]


@dataclass(frozen=True)
class Result:
    """Likewise."""

    number: int
    folder: Path
    sums: dict[tuple[str, str], NDArray[np.float32]]


def _sums(task: Task) -> Result:
    if task.number < 0:
        raise DataError("a number below zero")
    sums = {("row", str(i)): row.sum(keepdims=True) for i, row in enumerate(task.table)}
    return Result(task.number, task.path.parent, sums)


def tasks(*numbers: int) -> list[Task]:
    return [Task(n, Path("/a") / str(n), np.full((abs(n), 2), n, np.float32)) for n in numbers]


@pytest.mark.usefixtures("ray_local")
def test_dataclasses_come_back_as_they_were() -> None:
    found = sorted(ray_map(_sums, tasks(1, 2, 3), "sums"), key=lambda result: result.number)
    assert [result.number for result in found] == [1, 2, 3]
    for result in found:
        assert result.folder == Path("/a")
        assert len(result.sums) == result.number
        for of_row in result.sums.values():
            np.testing.assert_array_equal(of_row, np.array([2 * result.number], np.float32))
    assert ray_map(_sums, [], "sums") == []


@pytest.mark.usefixtures("ray_local")
def test_the_user_s_error_comes_back_as_itself() -> None:
    with pytest.raises(DataError, match="a number below zero"):
        ray_map(_sums, tasks(-1), "sums")

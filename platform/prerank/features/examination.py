"""How likely positions are looked at, as was known when an impression became known.

Propensities (``prerank.core.propensities``) are learned from the log and used as a feature, so they
are snapshots like any other: every ESTIMATE_DAYS days since 1970 there is a cutoff, and an estimate
from what was known before it. An impression takes the latest one whose cutoff is not after it.
Before there is one, and where an impression says no position, it counts whole.

The cutoffs are those of the calendar, and an estimate depends on nothing that becomes known later,
so a build that goes on has those of one build of everything. They are kept in the tables' manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prerank.core.files import remove
from prerank.core.manifest import LogManifest
from prerank.core.propensities import ROWS, Propensities, learned
from prerank.core.times import DAY_US
from prerank.features.states import UNIT

ESTIMATE_DAYS = 30
LOOK_BACK_DAYS = 90
"""Days of requests that an estimate looks at: what it reads does not grow with the log."""
MEMORY = "1GB"
NO_POSITION = -1


@dataclass(frozen=True)
class Estimate:
    """Propensities ``of`` what was known before ``cutoff_us``, microseconds since 1970."""

    cutoff_us: int
    of: Propensities


@dataclass(frozen=True)
class Examination:
    """Estimates, the earliest first."""

    estimates: tuple[Estimate, ...] = ()

    @classmethod
    def restored(cls, told: Iterable[Mapping[str, Any]]) -> Examination:
        """From the form of ``told``."""
        return cls(
            tuple(
                Estimate(
                    one["cutoff_us"],
                    Propensities(
                        tuple(one["first"]), tuple(one["value"]), one["engagements"], one["strata"]
                    ),
                )
                for one in told
            )
        )

    def told(self) -> list[dict[str, Any]]:
        """As JSON."""
        return [{"cutoff_us": one.cutoff_us, **asdict(one.of)} for one in self.estimates]

    def weights(
        self, known_us: NDArray[np.int64], position: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Propensities of impressions [n] in parts of UNIT.

        ``known_us`` int64 [n], when each became known; ``position`` int64 [n], or NO_POSITION.
        """
        found = np.full(len(known_us), UNIT, np.int64)
        cutoffs = np.array([one.cutoff_us for one in self.estimates], np.int64)
        latest = np.searchsorted(cutoffs, known_us, side="right") - 1
        for number, one in enumerate(self.estimates):
            own = (latest == number) & (position != NO_POSITION)
            found[own] = np.rint(UNIT * one.of.at(position[own]))
        return found


@dataclass(frozen=True)
class EstimateTask:
    """An estimate to make: from the events ``files`` of the log of ``manifest``."""

    cutoff_us: int
    files: tuple[Path, ...]
    manifest: LogManifest
    spill: Path

    def reads(self) -> list[Path]:
        """The event files."""
        return [*self.files]


def estimates_due(
    manifest: LogManifest, files: Sequence[Path], since_us: int, until_us: int, scratch: Path
) -> list[EstimateTask]:
    """Estimates with cutoffs in [since_us, until_us), of a log with the event ``files``."""
    step = ESTIMATE_DAYS * DAY_US
    first = int(np.datetime64(manifest.first_time.rstrip("Z"), "us").astype(np.int64))
    found = []
    for cutoff in range(-(-max(since_us, first) // step) * step, until_us, step):
        low, high = cutoff - LOOK_BACK_DAYS * DAY_US, cutoff
        own = tuple(file for file in files if low <= _day_us(file) < high)
        if own:
            found.append(EstimateTask(cutoff, own, manifest, scratch / f"spill-{cutoff}"))
    return found


def _day_us(file: Path) -> int:
    day = file.parent.name.removeprefix("day=")
    return int(np.datetime64(day, "us").astype(np.int64))


def make_estimate(task: EstimateTask) -> Estimate | None:
    """The estimate of a task; None where the log does not tell."""
    files: list[str] = []
    rows = 0
    days = sorted({file.parent for file in task.files}, reverse=True)
    for day in days:
        own = [file for file in task.files if file.parent == day]
        files += [str(file) for file in own]
        # Not the rows of the files: what becomes known later must not change what is read.
        rows += sum(_known_before(file, task.cutoff_us) for file in own)
        if rows >= ROWS:
            break
    task.spill.mkdir(parents=True, exist_ok=True)
    found = learned(files, task.manifest, task.cutoff_us, "known_time", MEMORY, task.spill)
    remove(task.spill)
    return None if isinstance(found, str) else Estimate(task.cutoff_us, found)


def _known_before(file: Path, cutoff_us: int) -> int:
    known = pq.read_table(file, columns=["known_time"], partitioning=None)["known_time"]
    return pc.sum(pc.less(known.cast(pa.int64()), cutoff_us)).as_py() or 0

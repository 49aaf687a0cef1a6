"""The pass of a build that counts what was shown: estimates first, then days."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prerank.core.manifest import LogManifest
from prerank.core.travel import Carried
from prerank.features.event_files import divided_days
from prerank.features.examination import (
    Estimate,
    EstimateTask,
    Examination,
    estimates_due,
    make_estimate,
)
from prerank.features.exposure import DaysTask, ExposureCounts, expose_days

Spread = Callable[..., list[Any]]
"""``ray_map``, or the same in this process."""


@dataclass(frozen=True)
class ExposurePass:
    """Exposure of a build.

    Attributes:
        manifest: of the log.
        files: all its event files.
        before: what the manifest of the tables that it goes on from says of exposure; empty for
            none.
        kept: the same of the tables whose estimates stand: those, or the ones that it writes again;
            ``kept_us`` is their last cutoff, microseconds since 1970, 0 for none.
        task: of no file.
    """

    manifest: LogManifest
    files: Sequence[Path]
    before: Mapping[str, Any]
    kept: Mapping[str, Any]
    kept_us: int
    task: DaysTask

    def run(self, new: Sequence[Path], spread: Spread) -> dict[str, Any]:
        """Write what was shown by shard; ``new`` are the files that hold something new.

        Returns:
            What the manifest of the tables says of exposure.
        """
        examination = self._examination(spread)
        task = replace(self.task, examination=examination)
        days = {file.parent for file in new}
        found = self._counted(task, [f for f in self.files if f.parent in days], spread)
        if len(task.changed):
            past = [file for file in self.files if file.parent not in days]
            self._counted(replace(task, past=True), past, spread)
        counts = {name: n + self.before.get(name, 0) for name, n in asdict(found).items()}
        return counts | {"propensities": examination.told()}

    def _examination(self, spread: Spread) -> Examination:
        """What positions weigh, with the estimates that this build is the first to need."""
        kept = Examination.restored(self.kept.get("propensities", ()))
        until = self.task.span.last * self.task.span.cadence_us
        due = estimates_due(self.manifest, self.files, self.kept_us, until, self.task.scratch)
        made: list[Estimate | None] = spread(
            Carried(make_estimate, EstimateTask.reads), due, "propensities"
        )
        new = sorted((one for one in made if one), key=lambda one: one.cutoff_us)
        return Examination((*kept.estimates, *new))

    @staticmethod
    def _counted(task: DaysTask, files: Sequence[Path], spread: Spread) -> ExposureCounts:
        tasks = [replace(task, number=n, files=own) for n, own in enumerate(divided_days(files))]
        done: list[ExposureCounts] = spread(
            Carried(expose_days, DaysTask.reads, DaysTask.writes), tasks, "exposure"
        )
        return sum(done, ExposureCounts())

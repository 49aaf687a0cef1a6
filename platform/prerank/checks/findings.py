"""What a check found: as text, as JSON, as a page, and as an exit code."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from prerank.checks.drift import Drift
from prerank.checks.leaks import Leaks
from prerank.checks.log import Busy, Clock
from prerank.checks.schema import Change
from prerank.core.errors import ConfigError, DataError
from prerank.core.files import publish, write_json
from prerank.core.pages import templates

MAX_ROWS = 20
SCORE = "score"


@dataclass(frozen=True)
class Limits:
    """Beyond which a check fails.

    Attributes:
        psi: population stability index of a feature or of the score.
        per_minute, per_day: engagements of one user.
        missing: how far the share of missing values of a column may move from day to day.
        backwards: share of rows whose event is before their request.
        auc, errors: on shuffled labels, within requests, and by how many standard errors it must
            be above chance.
    """

    psi: float = 0.25
    per_minute: int = 60
    per_day: int = 2_000
    missing: float = 0.2
    backwards: float = 0.001
    auc: float = 0.52
    errors: float = 4.0

    def __post_init__(self) -> None:
        if not self.psi > 0:
            raise ConfigError(f"--psi {self.psi}: give a limit above 0, such as .25.")


@dataclass(frozen=True)
class Findings:
    """What was compared, and what was found.

    Attributes:
        dataset: name of the log.
        version: model version whose scores were compared; "" where none was.
        since, until: ISO times of the window.
        trained, compared: requests of the training sample and of the window's.
        features: drift by feature, the largest first; ``SCORE`` is among them.
        missing, thin: days without a request, and with very few.
        clock, busy: of the window.
        limits: beyond which a check fails.
        schema: changes of columns from day to day, and of raw files where some were given.
        leaks: of the features; None where they were not looked for.
    """

    dataset: str
    version: str
    since: str
    until: str
    trained: int
    compared: int
    features: tuple[Drift, ...]
    missing: tuple[str, ...]
    thin: tuple[str, ...]
    clock: Clock
    busy: tuple[Busy, ...]
    limits: Limits
    schema: tuple[Change, ...] = ()
    leaks: Leaks | None = None

    def problems(self) -> list[str]:
        """Each limit that is passed, in a sentence; leaks first, since they void the rest."""
        found = [
            *self._leaks(),
            *(str(change) for change in self.schema),
            *self._drifts(),
        ]
        if self.missing:
            found.append(f"days without a request: {', '.join(self.missing)}")
        if self.thin:
            found.append(f"days with very few requests: {', '.join(self.thin)}")
        if self.clock.future:
            found.append(f"{self.clock.future:,} events happen later than now")
        if self.clock.backwards > self.limits.backwards * self.clock.read:
            found.append(
                f"{self.clock.backwards:,} of {self.clock.read:,} rows of the last ingest happen "
                "before their request: their two clocks differ"
            )
        found += [
            f"user {b.user_id} has {b.per_minute:,} engagements within a minute, {b.per_day:,} "
            "within a day"
            for b in self.busy
        ]
        return found

    @property
    def holds_labels(self) -> bool:
        """Whether a model learned from labels that mean nothing."""
        if self.leaks is None or self.leaks.auc is None or self.leaks.error is None:
            return False
        above = self.leaks.auc - 0.5 > self.limits.errors * self.leaks.error
        return above and self.leaks.auc > self.limits.auc

    def _drifts(self) -> list[str]:
        return [
            f"{d.name} drifted: PSI {d.psi:.2f}, coverage {d.coverage:.0%} to "
            f"{d.coverage_later:.0%}"
            for d in self.features
            if d.psi > self.limits.psi
        ]

    def _leaks(self) -> list[str]:
        leaks = self.leaks
        if leaks is None:
            return []
        found = []
        if leaks.changed:
            found.append(
                f"features of {leaks.changed:,} of {leaks.compared:,} requests changed when later "
                "events were planted: they know the future"
            )
        if self.holds_labels:
            found.append(
                f"a model fitted on shuffled labels reaches an AUC of {leaks.auc:.3f} (chance is "
                f".5, standard error {leaks.error:.3f}): features hold their request's label"
            )
        stamped = {
            "engagement rows are stamped before their cutoff": leaks.early_rows,
            "histories are stamped before their last engagement": leaks.early_histories,
            "training examples hold an engagement from after their request": leaks.late_examples,
        }
        return found + [f"{number:,} {what}" for what, number in stamped.items() if number]

    def table(self) -> str:
        """For a terminal."""
        clock = self.clock
        lines = [
            f"{self.compared:,} requests from {self.since} to {self.until}, against "
            f"{self.trained:,} training requests",
            f"{'':<28}{'PSI':>8}{'coverage':>10}{'later':>8}{'mean':>10}{'later':>10}",
        ]
        for d in self.features[:MAX_ROWS]:
            lines.append(
                f"{d.name:<28}{d.psi:>8.3f}{d.coverage:>10.1%}{d.coverage_later:>8.1%}"
                f"{d.mean:>10.3g}{d.mean_later:>10.3g}"
            )
        if len(self.features) > MAX_ROWS:
            lines.append(f"{len(self.features) - MAX_ROWS} more, with less drift")
        lines.append(
            f"engagements {clock.events:,}; median delay {clock.delay_median_s:.0f} s, 99% within "
            f"{clock.delay_99_s:.0f} s, {clock.after_label_window:.1%} after the label window"
        )
        lines += self._looked()
        problems = self.problems()
        return "\n".join([*lines, *(f"! {problem}" for problem in problems)] if problems else lines)

    def _looked(self) -> list[str]:
        """Of leaks: what was looked at, whatever was found."""
        if self.leaks is None:
            return []
        auc = "not measured" if self.leaks.auc is None else f"AUC {self.leaks.auc:.3f}"
        return [
            f"leaks: {self.leaks.compared:,} requests compared with later events planted; "
            f"shuffled labels: {auc} ({self.leaks.events:,} events)"
        ]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write check.json and check.html, which stands alone; their paths."""
        data, page = folder / "check.json", folder / "check.html"
        write_json(data, {**asdict(self), "problems": self.problems()})
        environment = templates(Path(__file__).parent)
        text = environment.get_template("check.html.j2").render(found=self)
        page.write_text(text, encoding="utf-8")
        publish(page)
        return data, page

    def check(self) -> None:
        """Raise where a limit is passed.

        Raises:
            DataError: names the first problem and counts the rest.
        """
        problems = self.problems()
        if problems:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise DataError(f"{problems[0]}{more}. check.html has them all.")

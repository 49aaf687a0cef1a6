"""What a retraining has done so far, written down, so that it goes on where it was cut off.

    retraining/current.json    the round that runs, or the last one that ended
    retraining/<number>/       what it reports

A stage that ended is written down with facts that name what it made (``Facts``): the log's
fingerprint, an MLflow run, a model version. It is not done again while what they name is there;
where a stage is done again, those after it are too.
"""

from __future__ import annotations

import glob
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prerank.core.errors import PrerankError, StateError, is_full
from prerank.core.files import publish, read_json_or_nothing, write_json
from prerank.core.home import Home
from prerank.core.places import is_glob
from prerank.summaries import duration

Facts = dict[str, Any]
"""Of a stage that ended, as JSON."""

REGISTERED = "evaluate, register, gate"
STAGES = (
    "update",
    "check",
    "training set",
    "job",
    "baselines",
    "train",
    REGISTERED,
    "promote",
)
"""In their order. "job" is the MLflow run, which begins and takes no time."""
NOTHING_NEW, CHALLENGER, REFUSED, PROMOTED = "nothing new", "challenger", "refused", "promoted"
"""How a round ends."""
FAILURE = "failure.txt"


@dataclass(frozen=True)
class Asked:
    """What a round is asked for. One that was cut off goes on only for the same.

    Attributes:
        source: what is added to the log, in words: a file changes them when it changes.
        items: catalogue of new and changed items, likewise; empty for none.
        config: digest of the job's configuration.
        seeds: trainings.
        warm: whether they begin with the champion's towers.
    """

    source: str
    items: str
    config: str
    seeds: int
    warm: bool


class Round:
    """A retraining, and how far it is. ``Round.of`` makes one; its state is a file.

    Attributes:
        number: from 1 on.
        since: facts of the log that the last model was trained on; ``{}`` where there is none.
        stopped: the share of bad rows (``share``) of a day that stopped a retraining and is not
            read again, what was said of it (``told``) and where they are (``place``); ``{}`` where
            there is none.
        done: stage -> facts.
        seconds: stage -> what it took.
        outcome: empty until it has ended.
    """

    def __init__(self, home: Home, state: Mapping[str, Any]) -> None:
        self._home = home
        self.number: int = state["number"]
        self.asked = Asked(**state["asked"])
        self.began: str = state["began"]
        self.since: Facts = state["since"]
        self.trained_as: dict[str, Any] = state["trained_as"]
        self.stopped: Facts = state.get("stopped", {})
        self.done: dict[str, Facts] = state["done"]
        self.seconds: dict[str, float] = state["seconds"]
        self.outcome: str = state["outcome"]

    @classmethod
    def of(cls, home: Home, asked: Asked) -> Round:
        """The round that was cut off, if it was asked for the same; else a new one."""
        home.look(_folder(home))
        home.fetch(_folder(home) / "current.json")
        last = read_json_or_nothing(_folder(home) / "current.json")
        if last and not last["outcome"] and last["asked"] == asdict(asked):
            found = cls(home, last)
            tqdm.write(
                f"retraining {found.number} of {found.began} goes on, after: "
                f"{', '.join(found.done) or 'nothing'}"
            )
            return found
        trained = last.get("outcome") in (CHALLENGER, REFUSED, PROMOTED)
        state = {
            "number": last.get("number", 0) + 1,
            "asked": asdict(asked),
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "since": last["done"]["update"] if trained else last.get("since", {}),
            "trained_as": last["asked"] if trained else last.get("trained_as", {}),
            "stopped": last.get("stopped", {}),
            "done": {},
            "seconds": {},
            "outcome": "",
        }
        made = cls(home, state)
        made._save()
        return made

    @property
    def folder(self) -> Path:
        """Where the round reports."""
        return _folder(self._home) / str(self.number)

    def stage(
        self, name: str, make: Callable[[], Facts], there: Callable[[Facts], bool] | None = None
    ) -> Facts:
        """Facts of a stage: as they were written down, or of ``make``.

        Args:
            name: of STAGES.
            make: does the stage's work.
            there: whether what the facts name is still there; None for always.

        Raises:
            PrerankError: the stage failed; the message says what stays and how to go on.
        """
        place = f"[{STAGES.index(name) + 1}/{len(STAGES)}] {name}"
        facts = self.done.get(name)
        if facts is not None and (there is None or there(facts)):
            tqdm.write(f"{place}: done before")
            return facts
        tqdm.write(f"{place} …")
        began = time.perf_counter()
        try:
            facts = make()
            self.seconds[name] = time.perf_counter() - began
            tqdm.write(f"      {name}: {duration(self.seconds[name])}")
            self.record(name, facts)
        except Exception as error:
            raise self._failed(name, error) from error
        return facts

    def record(self, name: str, facts: Facts) -> None:
        """Write down that a stage ended; those after it, of an earlier try, count no more."""
        at = STAGES.index(name)
        self.done = {n: f for n, f in self.done.items() if STAGES.index(n) < at} | {name: facts}
        self._save()

    def stop(self, day: Facts) -> None:
        """Write down that a day stops the retraining (``stopped``); ``{}``: that none does."""
        self.stopped = day
        self._save()

    def end(self, outcome: str) -> None:
        """Write down how the round ended."""
        self.outcome = outcome
        self._save()

    def _save(self) -> None:
        state = {
            "number": self.number,
            "asked": asdict(self.asked),
            "began": self.began,
            "since": self.since,
            "trained_as": self.trained_as,
            "stopped": self.stopped,
            "done": self.done,
            "seconds": self.seconds,
            "outcome": self.outcome,
        }
        write_json(_folder(self._home) / "current.json", state)

    def _failed(self, name: str, error: Exception) -> PrerankError:
        """What to raise for a stage that failed."""
        again = (
            f"Retraining {self.number} stopped in the stage `{name}`; what is served stays as it "
            "is. The same command goes on there."
        )
        if isinstance(error, PrerankError):
            told: PrerankError = _like(error, f"{error} {again}")
            return told
        if is_full(error):
            return StateError(
                f"the disk of {self._home.place} is full ({error}). Make room. {again}"
            )
        self._note_failure()
        return PrerankError(
            f"{type(error).__name__}: {error}. {self._home.told(self.folder / FAILURE)} has all of "
            f"it. {again}"
        )

    def _note_failure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / FAILURE
        path.write_text(traceback.format_exc(), encoding="utf-8")
        publish(path)


def _like(error: PrerankError, text: str) -> PrerankError:
    """An error of the same exit code with another text."""
    try:
        return type(error)(text)
    except TypeError:
        made = PrerankError(text)
        made.exit_code = error.exit_code
        return made


def _folder(home: Home) -> Path:
    return home.root / "retraining"


def signature(place: str | Path) -> str:
    """What tells the files of a place of this machine from later ones there: sizes and times."""
    matched = glob.glob(str(place), recursive=True) if is_glob(Path(place)) else [place]
    below = (p.rglob("*") if p.is_dir() else [p] for p in map(Path, matched))
    found = [file for files in below for file in files if file.is_file()]
    stats = [f.stat() for f in found]
    newest = max((s.st_mtime_ns for s in stats), default=0)
    return f"{len(found)} files, {sum(s.st_size for s in stats)} bytes, changed {newest}"

"""`prerank retrain`: a day's work, and a new model at its end.

    update -> check -> training set -> train -> evaluate, register, gate -> promote, if asked to

Each stage is whole or not done, and what was done is written down (``prerank.retraining.rounds``):
a retraining that was cut off goes on where it was. Nothing of it touches what is served, before
its last stage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prerank import preflight
from prerank.checks.run import check
from prerank.config import JobConfig
from prerank.core.errors import ConfigError, DataError, NotReadyError, StateError
from prerank.core.files import read_json_or_nothing
from prerank.core.forgotten import Forgotten
from prerank.core.home import Home
from prerank.core.leases import alone
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import connect
from prerank.dataset.build import build_training_set
from prerank.evaluation.results import LEAD
from prerank.ingest.report import IngestReport
from prerank.pipeline import Stages, fusion_weights, measured
from prerank.promotion.challenger import publish
from prerank.promotion.champion import promote
from prerank.promotion.config import GateConfig
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import Version, read_meta
from prerank.registry.gates import PASSED
from prerank.retraining.changes import report, weights_moved
from prerank.retraining.rounds import (
    CHALLENGER,
    NOTHING_NEW,
    PROMOTED,
    REFUSED,
    REGISTERED,
    Asked,
    Facts,
    Round,
)
from prerank.seeds import FORGOTTEN, Trained, fit_baselines, job
from prerank.training.warm import unlike
from prerank.update import update

JOB_NAME = "retrain"


@dataclass(frozen=True)
class Day:
    """What is new.

    Attributes:
        source: what ``add`` adds, in words; it differs where what is added does.
        add: adds to the log; None where there was nothing to add.
        items: catalogue of new and changed items; None for none.
        items_source: as ``source``, of the items.
        max_bad: share of the rows that may be quarantined before the retraining stops.
        once: whether ``add`` reads no row a second time, as days of the served log. A stop for bad
            rows then holds until ``max_bad`` allows them or other rows were given.
    """

    source: str
    add: Callable[[], IngestReport | None]
    items: str | Path | None = None
    items_source: str = ""
    max_bad: float = 0.1
    once: bool = False


@dataclass(frozen=True)
class Retrained:
    """How a retraining ended.

    Attributes:
        number: of the round.
        outcome: one of ``prerank.retraining.rounds``.
        version: that was trained; None where there was nothing new.
        folder: with ``changes.md`` and ``changes.json``; None likewise.
        text: what changed, for people.
    """

    number: int
    outcome: str
    version: Version | None
    folder: Path | None
    text: str


def retrain(
    home: Home,
    config: JobConfig,
    day: Day,
    *,
    seeds: int = 1,
    warm: bool = False,
    auto_promote: bool = False,
) -> Retrained:
    """Add a day to the log and train on it; goes on with a retraining that was cut off.

    Args:
        home: with a log.
        config: of the features, the model, its training and the gate.
        day: what is new.
        seeds: trainings; the best on validation becomes the version.
        warm: begin with the champion's towers, where they fit.
        auto_promote: make the version the champion, if it passes the gate.

    Raises:
        StateError: another retraining of this home runs; or the disk is full.
        DataError: the day holds nothing that can be used, or more bad rows than it may.
        PrerankError: a stage failed; the message says which, and how to go on.
    """
    with alone(home, home.root / "retraining", "retraining"):
        connect()
        tracking.connect(home)
        asked = Asked(day.source, day.items_source, _digest(config), seeds, warm)
        steps = _Steps(home, config, day, Round.of(home, asked))
        return steps.run(auto_promote)


def _digest(config: JobConfig) -> str:
    # A version is trained alike, whatever it is put to.
    plain = json.dumps(asdict(replace(config, gate=GateConfig())), sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


class _Steps:
    """The stages of a round."""

    def __init__(self, home: Home, config: JobConfig, day: Day, round_: Round) -> None:
        self.home, self.config, self.day, self.round = home, config, day, round_

    def run(self, auto_promote: bool) -> Retrained:
        """Do what is not done."""
        round_ = self.round
        log = round_.stage("update", self._update)
        if self._nothing_new(log):
            round_.end(NOTHING_NEW)
            until = log["last_time"]
            text = f"nothing new to learn from: the last model was trained on this log, to {until}"
            return Retrained(round_.number, NOTHING_NEW, None, None, text)
        round_.stage("check", self._check)
        round_.stage("training set", self._training_set, self._has_training_set)
        version = self._trained()
        passed = round_.done[REGISTERED]["gate"]["result"] == PASSED
        outcome = CHALLENGER if passed else REFUSED
        if auto_promote and passed:
            round_.stage("promote", partial(self._promote, version))
            outcome = PROMOTED
        text = report(self.home, self.round, outcome)
        round_.end(outcome)
        return Retrained(round_.number, outcome, version, round_.folder, text)

    def _nothing_new(self, log: Facts) -> bool:
        same_log = log["fingerprint"] == self.round.since.get("fingerprint")
        asked = self.round.trained_as
        own = asdict(self.round.asked)
        return same_log and all(own[k] == asked.get(k) for k in ("config", "seeds", "warm"))

    def _update(self) -> Facts:
        preflight.check_space(self.home)
        done = update(self.home, self.config, self._add, self.day.items)
        if bad := self.round.stopped:
            # Gone after the next day's ingest but one; a served log has its rows for longer.
            where = f" All are in {bad['place']}." if Path(bad["place"]).exists() else ""
            raise DataError(
                f"{bad['told']}, and --max-bad allows {self.day.max_bad:.0%}.{where} The good rows "
                "are in the log. Give the corrected rows with --events, or a larger --max-bad."
            )
        manifest = LogManifest.load(self.home)
        rows = done.ingested.manifest.rows if done.ingested else {}
        return {
            "fingerprint": manifest.fingerprint,
            "first_time": manifest.first_time,
            "last_time": manifest.last_time,
            "events": manifest.events,
            "items": manifest.items,
            "requests_per_day": manifest.requests_per_day,
            "rows": rows,
        }

    def _add(self) -> IngestReport | None:
        """Add the day, and write down whether bad rows stop the retraining."""
        report = self.day.add()
        kept = {} if report and not self.day.once else self.round.stopped
        worst = max(kept, self._bad(report), key=lambda day: day.get("share", 0.0))
        self.round.stop(worst if worst.get("share", 0.0) > self.day.max_bad else {})
        return report

    def _bad(self, report: IngestReport | None) -> Facts:
        """Share of the bad rows of a day, what is said of them, and where they are."""
        if report is None or not report.reasons:
            return {}
        rows = report.manifest.rows
        share = rows["quarantined"] / rows["in"]
        reasons = "; ".join(f"{n:,} x {why}" for why, n in report.reasons.items())
        return {
            "share": share,
            "told": f"{share:.0%} of {rows['in']:,} new rows were quarantined "
            f"({self.day.source}: {reasons})",
            "place": str(report.quarantine),
        }

    def _check(self) -> Facts:
        """Compare the log's newest requests with what the last model was trained on."""
        path = self.home.training_set / "manifest.json"
        self.home.fetch(path)
        training = read_json_or_nothing(path)
        if training.get("schema_hash") != LogManifest.load(self.home).schema.hash():
            return {"skipped": "there is no training set of these features to compare with"}
        try:
            found = check(self.home)
        except (ConfigError, DataError, StateError) as error:
            # Such as a log so short that its last day was trained on.
            return {"skipped": str(error)}
        self.round.folder.mkdir(parents=True, exist_ok=True)
        found.write(self.round.folder)
        leaks = found.leaks
        if leaks is not None and (leaks.changed or found.holds_labels):
            found.check()
        drifted = [asdict(d) for d in found.features if d.psi > found.limits.psi]
        return {"problems": found.problems(), "drifted": drifted, "since": found.since}

    def _training_set(self) -> Facts:
        preflight.check_space(self.home)
        made = build_training_set(self.home)
        names = ("fingerprint", "schema_hash", "splits", "train_requests", "validation_requests")
        return {name: made[name] for name in names}

    def _has_training_set(self, facts: Facts) -> bool:
        self.home.look()
        self.home.fetch(self.home.training_set / "manifest.json")
        found = read_json_or_nothing(self.home.training_set / "manifest.json")
        return all(found.get(name) == value for name, value in facts.items())

    def _trained(self) -> Version:
        """The version of this round, from its MLflow run."""
        round_ = self.round
        facts = round_.done.get(REGISTERED)
        if facts is None or not _registered(facts):
            run_id = tracking.known(round_.done.get("job", {}).get("run_id"))
            with job(self.home, self.config, JOB_NAME, run_id) as made:
                if run_id is None:
                    round_.record("job", {"run_id": made.run_id})
                seeds = round_.asked.seeds
                round_.stage("baselines", partial(self._baselines, made.run_id))

                def train() -> Facts:
                    bundle, told = self._warm()
                    trained = made.train(seeds, bundle)
                    return {"trained": [self._plain(t) for t in trained], "warm": told}

                kept = round_.stage("train", train, self._has_bundles)
            round_.stage(REGISTERED, partial(self._register, made.run_id, kept), _registered)
        facts = round_.done[REGISTERED]
        return Version(facts["version"], facts["run_id"])

    def _baselines(self, run_id: str) -> Facts:
        fit_baselines(self.home, self.config, self.round.asked.seeds, run_id)
        return {}

    def _warm(self) -> tuple[Path | None, str]:
        """Bundle to begin with, and what is said of it."""
        if not self.round.asked.warm:
            return None, "from nothing"
        champion = registry.alias_version(registry.CHAMPION)
        if champion is None:
            return None, "from nothing: no version is the champion"
        bundle = registry.download(self.home, champion)
        schema = LogManifest.load(self.home).schema
        try:
            meta = read_meta(bundle)[1]
            why = unlike(schema, self.config.model, meta)
            if not why and meta.get(FORGOTTEN) != Forgotten.of(self.home).digest:
                why = "users were forgotten since it was trained"
        except StateError as error:
            why = str(error)
        if why:
            return None, f"from nothing, and not from version {champion}: {why}"
        return bundle, f"from the towers of version {champion}"

    def _plain(self, trained: Trained) -> dict[str, Any]:
        # Another node's cache folder is another one.
        return {
            "seed": trained.seed,
            "bundle": str(trained.bundle.relative_to(self.home.root)),
            "history": [dict(epoch) for epoch in trained.history],
        }

    def _bundle(self, plain: Facts) -> Path:
        return self.home.root / plain["bundle"]

    def _has_bundles(self, facts: Facts) -> bool:
        from prerank.training.checkpoints import fetch_bundle

        return all(fetch_bundle(self.home, self._bundle(t)) for t in facts["trained"])

    def _register(self, run_id: str, facts: Facts) -> Facts:
        preflight.check_space(self.home)
        trained = [Trained(t["seed"], self._bundle(t), t["history"]) for t in facts["trained"]]
        champion = registry.alias_version(registry.CHAMPION)
        stages = Stages(len(self.round.seconds))
        stages.seconds |= self.round.seconds
        with job(self.home, self.config, JOB_NAME, run_id):
            results = measured(self.home, self.config, run_id, trained, stages)
        gate = self.config.gate
        version, verdict = publish(self.home, trained[0].bundle, run_id, results, gate)
        old = registry.download(self.home, champion) if champion else None
        return {
            "version": version.number,
            "run_id": version.run_id,
            "metrics": dict(results.models[LEAD].means),
            "champion": champion.number if champion else None,
            "weights": weights_moved(trained[0].bundle, old, fusion_weights),
            "gate": verdict.to_dict(),
        }

    def _promote(self, version: Version) -> Facts:
        promote(self.home, version, self.config.gate)
        return {"version": version.number}


def _registered(facts: Facts) -> bool:
    try:
        return registry.version_of(facts["version"]).run_id == facts["run_id"]
    except NotReadyError:
        return False

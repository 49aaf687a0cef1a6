"""The whole way, from a log to a registered, evaluated and indexed model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from prerank.config import JobConfig
from prerank.core.files import publish, write_json
from prerank.core.home import Home
from prerank.core.ray_tasks import connect
from prerank.evaluation.baselines import suite
from prerank.evaluation.report.text import metrics_table, seeds_note, versus_table
from prerank.evaluation.results import Ablation, Results
from prerank.features.build import build_features
from prerank.ingest.mapping import LogMapping
from prerank.registry import tracking
from prerank.registry.bundle import Version, read_meta
from prerank.seeds import Trained, fit_baselines, folders, job

JOB = "job.json"
"""What the report says of the last job itself, for an evaluation that comes later."""
REPORTED = ("training", "trainings", "stages", "ingest", "features")
"""What of it is in the report."""


class Stages:
    """Announces each stage and keeps how long it took (seconds)."""

    def __init__(self, names: int) -> None:
        self.seconds: dict[str, float] = {}
        self.total = names

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a stage."""
        tqdm.write(f"[{len(self.seconds) + 1}/{self.total}] {name} …")
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began
        tqdm.write(f"      {name}: {self.seconds[name]:.1f} s")


def prepare(
    home: Home,
    events: str | Path,
    items: str | Path,
    mapping: LogMapping,
    config: JobConfig,
    stages: Stages,
) -> tuple[str, dict[str, Any]]:
    """Ingest, build features and the training set; returns the ingest report and feature facts."""
    from prerank.dataset.build import build_training_set
    from prerank.ingest.run import ingest

    with stages("ingest"):
        report = str(ingest(events, items, home, mapping))
        tqdm.write(report)
    with stages("features"):
        features = build_features(home, config.features)
    with stages("training set"):
        build_training_set(home)
    return report, features


def train_and_evaluate(
    home: Home,
    config: JobConfig,
    stages: Stages,
    name: str,
    oracles: Path | None = None,
    about: dict[str, list[str]] | None = None,
    seeds: int = 1,
) -> tuple[Results, Version]:
    """Fit InteractRank and its baselines, evaluate, register as challenger, index, ask the gate.

    With several ``seeds`` each model is trained as often, and measured as the mean; the training
    that is best on validation is registered.

    Returns:
        The report's results, with the seconds of all stages, and the registered version.
    """
    from prerank.promotion.challenger import publish

    connect()
    with job(home, config, name) as made:
        with stages("train"):
            fit_baselines(home, config, seeds, made.run_id)
            trained = made.train(seeds)
        with stages("evaluate"):
            results = measured(home, config, made.run_id, trained, stages, oracles, about)
    with stages("register and index"):
        version, verdict = publish(home, trained[0].bundle, made.run_id, results, config.gate)
        tqdm.write(verdict.table())
    return replace(results, stages=dict(stages.seconds)), version


def measured(
    home: Home,
    config: JobConfig,
    run_id: str,
    trained: Sequence[Trained],
    stages: Stages,
    oracles: Path | None = None,
    about: dict[str, list[str]] | None = None,
) -> Results:
    """Measure what a job trained, beside its baselines; writes metrics.json and report.html.

    ``trained`` is best first. ``run_id`` is of the job's MLflow run, which is active.
    """
    from prerank.evaluation.over_seeds import labelled
    from prerank.evaluation.run import evaluate

    bundle, seed = trained[0].bundle, config.train.seed
    own = folders(home, config.baselines, bundle, [t.seed for t in trained], seed)
    found = evaluate(home, labelled(own), oracles=oracles)
    others = {name: suite.history(home, name) for name in config.baselines}
    told = {
        "run_id": run_id,
        "baselines": config.baselines,
        "seed": seed,
        "trainings": {t.seed: t.validation_mrr for t in trained},
        "training": {"interactrank": trained[0].history}
        | {n: rows for n, rows in others.items() if n in suite.NEURAL},
        "fits": {n: rows for n, rows in others.items() if n in suite.FITTED},
        "stages": stages.seconds,
        **(about or {}),
    }
    write_json(home.root / JOB, told)
    return _write(home, found, told, bundle)


def evaluate_version(
    home: Home, version: Version, split: str = "test", oracles: Path | None = None
) -> Results:
    """Measure a registered version again, beside the baselines that the home has.

    Writes metrics.json and report.html anew, with what the last `prerank ablate` and `prerank
    curve` found; of the validation split metrics-validation.json and
    report-validation.html. What the report says of the job itself is kept if the version is the
    last job's.
    """
    from prerank.evaluation.over_seeds import labelled
    from prerank.evaluation.run import evaluate
    from prerank.registry import versions as registry

    bundle = registry.download(home, version)
    path, job = home.root / JOB, {}
    if path.exists():
        job = home.read_json(path, "prerank train")
        if job["run_id"] != read_meta(bundle)[1].get("run_id"):
            job = {}
    names = job.get("baselines", tuple(suite.fitted(home)))
    job["trainings"] = {int(s): mrr for s, mrr in job.get("trainings", {}).items()}
    numbers = [*job["trainings"]] or [job.get("seed", 0)]
    models = labelled(folders(home, names, bundle, numbers, job.get("seed", numbers[0])))
    with tracking.job_run(home, "evaluate", {"version": version.number, "split": split}, {}):
        return _write(home, evaluate(home, models, split, oracles), job, bundle)


def tables(home: Home, results: Results) -> str:
    """All tables of an evaluation as text."""
    from prerank.evaluation import learning_curve
    from prerank.evaluation.ablations import load_results, table

    found = [metrics_table(results), seeds_note(results), versus_table(results)]
    if ablations := load_results(home):
        found.append("what each part is worth, " + table(ablations))
    if curve := learning_curve.load_results(home):
        found.append("with fewer requests to learn from, " + learning_curve.table(curve))
    return "\n\n".join(text for text in found if text)


def files(home: Home, split: str) -> tuple[Path, Path]:
    """Where the metrics and the report of an evaluation lie."""
    stem = "" if split == "test" else f"-{split}"
    return home.root / f"metrics{stem}.json", home.root / f"report{stem}.html"


def _write(home: Home, measured: Results, job: dict[str, Any], bundle: Path) -> Results:
    """Add the job and the ablations, write both files and log them to the active MLflow run."""
    from prerank.evaluation import learning_curve
    from prerank.evaluation.ablations import load_results
    from prerank.evaluation.metrics_file import to_json
    from prerank.evaluation.report.page import write_report

    results = replace(
        measured,
        **{part: job[part] for part in REPORTED if part in job},
        ablations={n: Ablation(**v) for n, v in load_results(home).get("ablations", {}).items()},
        curve=learning_curve.points(learning_curve.load_results(home)),
        fusion_weights=fusion_weights(bundle),
    )
    metrics, report = files(home, results.split)
    metrics.write_text(to_json(results), encoding="utf-8")
    write_report(report, results)
    for file in (report, metrics):
        publish(file)
    spread = {
        n: {f"{m}_sd_of_seeds": float(np.std(v, ddof=1)) for m, v in own.items()}
        for n, own in results.seeds.items()
    }
    tracking.log_results(
        {n: {**m.means, **spread.get(n, {})} for n, m in results.models.items()}, [metrics, report]
    )
    return results


def fusion_weights(bundle: Path) -> list[tuple[str, float]]:
    """Weights w_0 of the linear part of g(x), of standardised cross features, heaviest first."""
    from prerank.registry.bundle import load_bundle

    model = load_bundle(bundle).model
    if not model.fusion.crosses:
        return []
    weights = zip(model.schema.cross, model.fusion.fixed_weights().tolist(), strict=True)
    return sorted(((n, float(w)) for n, w in weights), key=lambda nw: -abs(nw[1]))


def run(
    home: Home,
    events: str | Path,
    items: str | Path,
    mapping: LogMapping,
    config: JobConfig,
    oracles: Path | None = None,
    seeds: int = 1,
) -> tuple[Results, Version]:
    """Everything up to the registered, evaluated model; writes metrics.json and report.html.

    Returns:
        The report's results and the registered version.
    """
    connect()
    stages = Stages(7)
    ingested, features = prepare(home, events, items, mapping, config, stages)
    with stages("feature store"):
        from prerank.online.materialise import materialise
        from prerank.online.store import apply

        apply(home)
        materialise(home)
    rows = features["rows"]
    about = {
        "ingest": ingested.splitlines(),
        "features": [
            f"{rows['engagement_rows']:,} packed rows ({rows['engagement_bytes'] / 1e6:.0f} MB), "
            f"snapshots every {features['cadence_hours']} h, "
            f"{rows['history_rows']:,} history states",
        ],
    }
    results, version = train_and_evaluate(home, config, stages, "prerank", oracles, about, seeds)
    tqdm.write(tables(home, results))
    return results, version

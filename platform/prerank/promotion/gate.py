"""The gate: what a version must pass before replicas serve it.

    schema      its features are online, and its index is of its weights
    golden      it scores its golden requests as training did
    latency     one of them takes no longer than allowed
    scores      its scores of the newest labelled requests are numbers that tell candidates apart
    mrr, recall@cut    on these requests, not below the champion's by more than a margin

What cannot be told is "undecided", with the reason; the configuration says what that counts as. It
is never left out. The first two are asked again by each replica, over its own files.
"""

from __future__ import annotations

import json
import math
import time
from datetime import date
from pathlib import Path
from typing import Any

from interactrank.metrics.calibration import calibration_error
from interactrank.metrics.ranking import mean, paired_test
from prerank.core.errors import PrerankError, RegistryAwayError, StateError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.promotion.config import GateConfig
from prerank.promotion.newest import FEWEST, Newest, Scored, newest_requests, scored
from prerank.promotion.verdict import COMPARED, Check, Verdict
from prerank.registry import versions as registry
from prerank.registry.bundle import Bundle, Version, load_bundle, read_meta
from prerank.registry.gates import write_gate
from prerank.registry.golden import load_golden, replay
from prerank.registry.index import ItemIndex, load_index, scorer_of

FOLDER = "gate"
"""Folder of the run's artifacts that gate.json and gate.md are in."""


def put_to_gate(
    home: Home, version: Version, config: GateConfig, day: date | None = None
) -> Verdict:
    """Judge a version, and write the result to MLflow: tags of the version, files of its run.

    Args:
        home: with the log, its features, and the version's index.
        version: that is registered.
        config: of the gate.
        day: whose requests are measured, UTC; None for the newest.

    Raises:
        NotReadyError: MLflow is away, or does not have the version's files.
        StateError: the files cannot be read by this release.
    """
    verdict = judge(home, version, config, day)
    record(verdict, read_meta(registry.download(home, version))[1])
    return verdict


def judge(home: Home, version: Version, config: GateConfig, day: date | None = None) -> Verdict:
    """Judge a version; writes nothing.

    Raises:
        RegistryAwayError: MLflow is away.
    """
    now_us = int(time.time()) * 1_000_000
    champion = _compared_with(home, version)
    checks, bundle = _servable(home, version, config)
    if bundle is not None:
        checks += _measured(home.pin(), version, bundle, champion, config, day)
    return Verdict(version, champion, config, now_us, checks)


def _compared_with(home: Home, version: Version) -> Version | None:
    """The champion; of the champion itself, what replicas of this home served last.

    A version whose alias was moved in the MLflow UI is the champion, though replicas that refuse it
    serve another one.
    """
    champion = registry.alias_version(registry.CHAMPION)
    last = registry.Promoted(home).last() if champion == version else None
    return last.version if last else champion


def record(verdict: Verdict, meta: dict[str, Any]) -> None:
    """Write a verdict to MLflow: first the files, then the tags, which say that there is one.

    Raises:
        RegistryAwayError: the server does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    version, client = verdict.version, MlflowClient()
    try:
        client.log_text(version.run_id, _json(verdict), f"{FOLDER}/gate.json")
        client.log_text(version.run_id, verdict.markdown(), f"{FOLDER}/gate.md")
    except MlflowException as error:
        raise registry.away(f"told the gate of version {version}", error) from None
    write_gate(version, meta, verdict.result, verdict.reason, verdict.at_us, verdict.champion)


def _json(verdict: Verdict) -> str:
    return json.dumps(verdict.to_dict(), indent=2, ensure_ascii=False) + "\n"


def _servable(
    home: Home, version: Version, config: GateConfig
) -> tuple[list[Check], Bundle | None]:
    """Schema, golden requests and latency; and the version's files, where they can be read."""
    try:
        folder = registry.servable(home, version)
        bundle = load_bundle(folder)
        index = load_index(home, version, bundle.digest)
    except RegistryAwayError:
        raise
    except PrerankError as error:
        return [Check("schema", "failed", str(error))], None
    schema = f"features {bundle.schema.hash()} are online; {len(index.ids):,} items are indexed"
    checks = [Check("schema", "passed", schema)]
    return checks + _golden(folder, bundle, index, version, config.golden_ms), bundle


def _golden(
    folder: Path, bundle: Bundle, index: ItemIndex, version: Version, allowed_ms: float
) -> list[Check]:
    """Whether the version scores as at training, and how fast."""
    try:
        golden = load_golden(folder, bundle.schema, bundle.meta)
        if golden is None:
            why = "the version was registered without golden requests, by an earlier release."
            return [Check("golden", "undecided", why)]
        found = replay(golden, scorer_of(bundle, index), version, index.others)
    except PrerankError as error:
        return [Check("golden", "failed", str(error))]
    text = f"{found.median_ms:.2f} ms for a golden request, {allowed_ms:g} allowed"
    return [
        Check("golden", "passed", f"{found.requests} golden requests score as at training"),
        Check(
            "latency",
            "passed" if found.median_ms <= allowed_ms else "failed",
            text,
            {"median_ms": found.median_ms},
        ),
    ]


def _measured(
    home: Home,
    version: Version,
    bundle: Bundle,
    champion: Version | None,
    config: GateConfig,
    day: date | None,
) -> list[Check]:
    """The version's scores of the newest requests, and how they compare with the champion's."""
    rival, why = _rival(home, version, champion)
    bundles = [bundle] if rival is None else [bundle, rival]
    try:
        _same_schema(home, bundle, f"version {version}")
        newest = newest_requests(home, max(map(_unseen_from, bundles)), config.requests, day)
        own, *others = scored(home, bundles, newest)
    except PrerankError as error:
        told = str(error)
        return [Check("scores", "undecided", told), *_alone(why or told, champion, version)]
    checks = [_sound(own, newest)]
    if not others:
        return [*checks, *_alone(why, champion, version)]
    if newest.engaged < FEWEST:
        few = (
            f"{newest.text()}: {FEWEST} are needed. Ingest more of the log (prerank update), or "
            "name a --day with more."
        )
        return [*checks, *(Check(metric, "undecided", few) for metric in COMPARED)]
    return [*checks, *(_compared(m, own, others[0], newest, config.margin) for m in COMPARED)]


def _rival(home: Home, version: Version, champion: Version | None) -> tuple[Bundle | None, str]:
    """The champion's files; or none, and why it cannot be compared with."""
    if champion is None or champion == version:
        return None, ""
    try:
        found = load_bundle(registry.download(home, champion))
        _same_schema(home, found, f"champion {champion}")
    except PrerankError as error:
        return None, f"the champion cannot be measured: {error}"
    return found, ""


def _same_schema(home: Home, bundle: Bundle, who: str) -> None:
    now = LogManifest.load(home).schema.hash()
    if bundle.schema.hash() != now:
        raise StateError(
            f"{who} reads features {bundle.schema.hash()}, and the log's are {now} now: past "
            "requests have none for it."
        )


def _unseen_from(bundle: Bundle) -> int:
    """When the requests begin that a version did not learn from, microseconds since 1970."""
    return int(bundle.meta.get("splits", {}).get("test_from", 0))


def _alone(why: str, champion: Version | None, version: Version) -> list[Check]:
    """What is said of the comparison where there is none."""
    if champion is None:
        return [Check(m, "passed", "there is no champion to compare with") for m in COMPARED]
    if champion == version:
        return [Check(m, "passed", "the version is the champion itself") for m in COMPARED]
    return [Check(metric, "undecided", why) for metric in COMPARED]


def _sound(own: Scored, newest: Newest) -> Check:
    """Whether the scores are numbers, and tell candidates apart."""
    errors = {head: calibration_error(sums) for head, sums in own.reliability.items()}
    numbers = {
        "requests": newest.requests.num_rows,
        "engaged": newest.engaged,
        "non_finite": own.non_finite,
        "flat": own.flat,
        **{f"calibration_error_{head}": error for head, error in errors.items()},
        **{m: mean(values) for m, values in own.metrics.items()},
    }
    if own.non_finite:
        text = f"{own.non_finite:,} scores are no finite numbers, of {newest.text()}"
        return Check("scores", "failed", text, numbers)
    if own.flat > newest.requests.num_rows / 2:
        text = f"{own.flat:,} requests give all candidates one score, of {newest.text()}"
        return Check("scores", "failed", text, numbers)
    text = f"finite and distinct over {newest.text()}"
    for head, error in errors.items():
        text += f"; calibration error of {head} {error:.3f}"
    return Check("scores", "passed", text, numbers)


def _compared(metric: str, own: Scored, rival: Scored, newest: Newest, margin: float) -> Check:
    """Whether a metric is not below the champion's by more than the margin."""
    a, b = own.metrics[metric], rival.metrics[metric]
    test = paired_test(a, b)
    difference, (low, high) = test.mean_difference, test.ci
    text = (
        f"{mean(a):.4f} against {mean(b):.4f}: {difference:+.4f} [{low:+.4f}, "
        f"{high:+.4f}], of {newest.engaged:,} requests; {-margin:+g} is allowed"
    )
    numbers = {
        "own": mean(a),
        "champion": mean(b),
        "difference": difference,
        "ci": [low, high],
        "p": test.p_value,
        "requests": newest.engaged,
    }
    if low >= -margin:
        return Check(metric, "passed", text, numbers)
    if difference < -margin:
        return Check(metric, "failed", text, numbers)
    text += "; the interval is too wide to tell"
    if margin:
        wanted = math.ceil(newest.engaged * ((high - low) / 2 / margin) ** 2)
        text += f", some {wanted:,} would do for two versions that are equally good"
    return Check(metric, "undecided", text, numbers)

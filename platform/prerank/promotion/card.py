"""The card of a model version: what it is of, how good it is, and what to know before it is used.

Everything in it was measured or configured; it is written once, when the version is registered, and
lies among the artifacts of the version's run. The version's description in MLflow is its beginning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prerank.core.times import iso
from prerank.evaluation.report.numbers import interval, number, ordered, share
from prerank.evaluation.report.text import facts, headline, seeds_note
from prerank.evaluation.results import (
    COMPARED,
    LEAD,
    METRICS,
    Calibration,
    Cost,
    NotMeasured,
    Results,
)
from prerank.promotion.verdict import Verdict
from prerank.registry import versions as registry
from prerank.registry.bundle import DIGEST, Version
from prerank.registry.versions import MODEL_NAME

FILE = "model_card.md"
LIMITS = (
    "It orders candidates that a retriever found; it does not find any.",
    "It was measured on past requests of one log, with the candidates that the log has. What was "
    "never shown was never engaged with, so an offline gain is a reason for an online test, and no "
    "proof.",
    "An item that joined after training is scored by its attributes and counts alone, a user "
    "without history by the query alone.",
    "Its scores order the candidates of one request. Scores of two requests, or of two versions, "
    "are not comparable.",
)

Rows = Sequence[Sequence[str]]


def card(version: Version, meta: Mapping[str, Any], results: Results, verdict: Verdict) -> str:
    """The card as Markdown.

    Args:
        version: that is registered.
        meta: of its bundle.
        results: of its evaluation.
        verdict: of its gate.
    """
    parts = [f"# {MODEL_NAME}, version {version}", headline(results)]
    for title, lines in _sections(meta, results, verdict):
        parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def description(results: Results, verdict: Verdict) -> str:
    """The card in a few lines, for the version's page in MLflow."""
    own, metrics = results.models[LEAD], []
    for metric in COMPARED:
        ends = interval(own.ci.get(metric))
        metrics.append(f"{metric} {share(own.mean(metric))}" + (f" ({ends})" if ends else ""))
    span = results.dataset.time_span
    log = results.dataset.name + (f", {span[0][:10]} to {span[1][:10]}" if span else "")
    return (
        f"{headline(results)}\n\nLog: {log}. On {results.split}: {', '.join(metrics)}. Gate when "
        f"it was registered: {verdict.result}. The whole card: artifact {FILE} of its run."
    )


def write_card(
    version: Version, meta: Mapping[str, Any], results: Results, verdict: Verdict
) -> None:
    """Log the card with the version's run, and set the version's description.

    Raises:
        RegistryAwayError: the MLflow server does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        client.log_text(version.run_id, card(version, meta, results, verdict), FILE)
        client.update_model_version(MODEL_NAME, version.number, description(results, verdict))
    except MlflowException as error:
        raise registry.away(f"told the card of version {version}", error) from None


def _sections(
    meta: Mapping[str, Any], results: Results, verdict: Verdict
) -> Iterator[tuple[str, list[str]]]:
    yield "Data", _data(meta, results)
    yield f"Metrics on {results.split}", _metrics(results)
    yield "Kinds of requests", _slices(results)
    yield "Calibration", _calibration(results)
    yield "Costs", _costs(results)
    yield "Features and their weights", _features(results)
    yield "Gate", [verdict.markdown().split("\n", 2)[2].strip()]
    yield "Limits", [f"- {text}" for text in (*LIMITS, *_not_measured(results))]
    number_ = verdict.version.number
    back = f"`prerank rollback --version {verdict.champion}`" if verdict.champion else ""
    yield (
        "Rolling back",
        [
            f"While version {number_} is the champion, `prerank rollback` makes the one before the "
            "champion again; live replicas follow within seconds, and nothing is removed."
            + (f" When this was written, that was: {back}." if back else "")
        ],
    )


def _data(meta: Mapping[str, Any], results: Results) -> list[str]:
    lines = [f"- {name}: {text}" for name, text in facts(results).items()]
    splits = meta.get("splits", {})
    names = {
        "validation_from": "trained on requests before",
        "test_from": "chosen and stacked on requests before",
        "closed_before": "measured on requests before",
    }
    lines += [f"- {text}: {iso(splits[key])}" for key, text in names.items() if key in splits]
    heads = meta.get("heads", {})
    lines += [f"- predicts {head}: {', '.join(actions)}" for head, actions in heads.items()]
    known = {
        "fingerprint of the log": meta.get("fingerprint"),
        "feature schema": meta.get("schema_hash"),
        "weights, SHA-256": meta.get(DIGEST),
        "code": meta.get("code_version"),
        "seed": meta.get("seed"),
    }
    lines += [f"- {name}: {value}" for name, value in known.items() if value is not None]
    return lines + [f"- {sentence.strip()}" for sentence in results.ingest if sentence.strip()]


def _table(head: Sequence[str], rows: Rows) -> list[str]:
    line = "| " + " | ".join(head) + " |"
    return [line, "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def _metrics(results: Results) -> list[str]:
    rows = []
    for name in ordered(results.models):
        own = results.models[name]
        cells = [share(own.mean(m)) + _ends(own.ci.get(m)) for m in METRICS]
        rows.append([f"**{name}**" if name == LEAD else name, *cells])
    note = seeds_note(results)
    return ([note, ""] if note else []) + _table(["ranker (95% interval)", *METRICS], rows)


def _ends(ci: tuple[float, float] | None) -> str:
    ends = interval(ci)
    return f" ({ends})" if ends else ""


def _slices(results: Results) -> list[str]:
    if not results.slices:
        return ["Not measured."]
    names = [*next(iter(results.slices.values())).models[LEAD]]
    rows = [
        [name, f"{own.requests:,}", *(share(own.models[LEAD].get(m)) for m in names)]
        for name, own in results.slices.items()
    ]
    return _table(["requests of a", "how many", *names], rows)


def _calibration(results: Results) -> list[str]:
    if not isinstance(results.calibration, Calibration):
        return [_absent(results.calibration)]
    rows = [
        [head, share(r.predicted), share(r.observed), f"{r.ece:.4f}", f"{r.impressions:,}"]
        for head, r in results.calibration.models.get(LEAD, {}).items()
    ]
    return _table(["head", "predicted", "observed", "calibration error", "impressions"], rows)


def _costs(results: Results) -> list[str]:
    rows = [
        [name, *_cost(own.cost)] for name, own in results.models.items() if own.cost is not None
    ]
    told = _table(["ranker", "operations per candidate", "bytes read", "µs of one thread"], rows)
    if seconds := sum(results.stages.values()):
        told += ["", f"From log to evaluation: {seconds:,.0f} s."]
    return told


def _cost(cost: Cost) -> list[str]:
    return [
        number(cost.flops_per_candidate),
        number(cost.bytes_per_candidate),
        number(cost.us_per_candidate, 0.001),
    ]


def _features(results: Results) -> list[str]:
    if not results.fusion_weights:
        return ["The model reads no cross features."]
    rows = [[f"`{name}`", f"{weight:+.3f}"] for name, weight in results.fusion_weights]
    note = "Weights of the linear part of g, of standardised features, heaviest first."
    return [note, "", *_table(["feature", "weight"], rows)]


def _absent(found: NotMeasured | None) -> str:
    return found.absent if found else "Not measured."


def _not_measured(results: Results) -> list[str]:
    """What this log does not let anybody measure."""
    found = (
        [f"Counterfactual: {results.counterfactual.absent}"]
        if isinstance(results.counterfactual, NotMeasured)
        else []
    )
    reachable = results.dataset.reachable_share
    if reachable is not None and math.isfinite(reachable) and reachable < 1:
        found.append(
            f"{1 - reachable:.1%} of the engaged items were not among the candidates, which no "
            "order of them can mend."
        )
    return found

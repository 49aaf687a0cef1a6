"""What changed since the last model: of the data, the metrics, the features' weights.

retraining/<number>/changes.json, changes.md     and as artefacts of the model's MLflow run
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prerank.core.errors import StateError
from prerank.core.files import publish, write_json
from prerank.core.home import Home
from prerank.retraining.rounds import REGISTERED, Facts, Round
from prerank.summaries import count, duration

SHOWN = 10
METRICS = ("mrr", "hits@3", "recall@cut", "ndcg@10")
Weights = Callable[[Path], list[tuple[str, float]]]


def weights_moved(new: Path, old: Path | None, weights: Weights) -> list[dict[str, Any]]:
    """Weights of cross features in two bundles, those that moved most first.

    Empty where there is no old one, or one of an earlier release.
    """
    if old is None:
        return []
    try:
        before = dict(weights(old))
    except StateError:
        return []
    after = dict(weights(new))
    rows = [
        {"feature": name, "before": before.get(name), "after": after.get(name)}
        for name in {**before, **after}
    ]
    return sorted(rows, key=lambda row: -abs((row["after"] or 0.0) - (row["before"] or 0.0)))


def report(home: Home, round_: Round, outcome: str) -> str:
    """Write what a round changed, and log it to the run of its model.

    Returns:
        The Markdown.
    """
    from mlflow import MlflowClient

    made = changes(round_, outcome)
    text = markdown(made)
    data, page = round_.folder / "changes.json", round_.folder / "changes.md"
    write_json(data, made)
    page.write_text(text, encoding="utf-8")
    publish(page)
    client = MlflowClient()
    for path in (data, page):
        client.log_artifact(made["run_id"], str(path))
    return text


def changes(round_: Round, outcome: str) -> dict[str, Any]:
    """What a round that is done changed, as JSON."""
    done = round_.done
    registered, trained = done[REGISTERED], done["train"]
    best = trained["trained"][0]
    return {
        "retraining": round_.number,
        "began": round_.began,
        "source": round_.asked.source,
        "outcome": outcome,
        "version": registered["version"],
        "run_id": registered["run_id"],
        "champion_before": registered["champion"],
        "data": data_changes(round_.since, done["update"]),
        "check": done["check"],
        "training": {
            "began": trained["warm"],
            "epochs": len(best["history"]),
            "validation_mrr": max(e["validation_mrr"] for e in best["history"]),
            "train_requests": done["training set"]["train_requests"],
        },
        "test_metrics": registered["metrics"],
        "gate": registered["gate"],
        "weights": registered["weights"],
        "seconds": round_.seconds,
    }


def data_changes(before: Facts, now: Facts) -> dict[str, Any]:
    """What the log gained since the last model: days (requests before, and now) and rows."""
    old, new = before.get("requests_per_day", {}), now["requests_per_day"]
    days = sorted({**old, **new})
    return {
        "since": before.get("last_time"),
        "until": now["last_time"],
        "days": {d: [old.get(d, 0), new.get(d, 0)] for d in days if old.get(d, 0) != new.get(d, 0)},
        "events": [before.get("events", 0), now["events"]],
        "items": [before.get("items", 0), now["items"]],
        "rows": now["rows"],
    }


def markdown(made: Mapping[str, Any]) -> str:
    """For people."""
    against = made["champion_before"]
    head = f"# Retraining {made['retraining']}: version {made['version']}, {made['outcome']}"
    parts = [
        head,
        f"Began {made['began']}; {made['source']}. "
        + (f"The champion was version {against}." if against else "There was no champion."),
        *_data(made["data"]),
        *_found(made["check"]),
        *_model(made),
        *_gate(made["gate"]),
        *_weights(made["weights"], against),
        "## Time\n\n" + _table(["stage", "took"], _times(made["seconds"])),
    ]
    return "\n\n".join(parts) + "\n"


def _times(seconds: Mapping[str, float]) -> list[list[str]]:
    return [[name, duration(took)] for name, took in seconds.items()]


def _data(data: Mapping[str, Any]) -> list[str]:
    since = f"Since {_minute(data['since'])}" if data["since"] else "First retraining of this home"
    (old, new), rows = data["events"], data["rows"]
    until = _minute(data["until"])
    said = f"{since}: {count(new - old, 'event')} more, {new:,} in all, to {until}."
    if rows:
        said += (
            f" Of the last rows: {rows['in']:,} in, {rows['out']:,} new, "
            f"{rows['quarantined']:,} quarantined, {rows['duplicates']:,} known before."
        )
    table = [[d, f"{a:,}", f"{b:,}"] for d, (a, b) in data["days"].items()][-SHOWN:]
    found = ["## Data", said]
    if data["since"] and table:
        found.append(_table(["day", "requests before", "requests now"], table))
    return found


def _found(check: Mapping[str, Any]) -> list[str]:
    if "skipped" in check:
        return ["## Drift and faults", f"Not looked at: {check['skipped']}"]
    problems = [f"- {p}" for p in check["problems"][:SHOWN]]
    if more := len(check["problems"]) - len(problems):
        problems.append(f"- and {more:,} more, in check.html")
    nothing = f"None found in the requests from {check['since']} on."
    return ["## Drift and faults", "\n".join(problems) or nothing]


def _model(made: Mapping[str, Any]) -> list[str]:
    training, metrics = made["training"], made["test_metrics"]
    told = (
        f"Trained {training['began']}, on {count(training['train_requests'], 'request')}, for "
        f"{count(training['epochs'], 'epoch')}; validation MRR {training['validation_mrr']:.4f}."
    )
    row = [f"{metrics[m]:.4f}" for m in METRICS if m in metrics]
    return ["## Model", told, _table(["", *(m for m in METRICS if m in metrics)], [["test", *row]])]


def _gate(gate: Mapping[str, Any]) -> list[str]:
    rows = [[c["name"], c["status"], c["text"].replace("|", "&#124;")] for c in gate["checks"]]
    found = ["## Gate", f"{gate['result'].capitalize()}."]
    return [*found, _table(["check", "result", "found"], rows)]


def _weights(weights: Sequence[Mapping[str, Any]], against: str | None) -> list[str]:
    if not weights:
        return []
    rows = [[w["feature"], _weight(w["before"]), _weight(w["after"])] for w in weights[:SHOWN]]
    head = ["cross feature", f"version {against}", "now"]
    return ["## Weights that moved most", _table(head, rows)]


def _weight(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _minute(iso: str) -> str:
    return iso[:16].replace("T", " ") + " UTC"

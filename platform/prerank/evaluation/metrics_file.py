"""metrics.json: the results of a split for other programs to read.

``{"dataset": name, "split": …, "models": {ranker: {metric: mean, …, "ci": {metric: [low, high]}}},
"reachable_ceiling": {metric: value}, "paired": …, "versus": …, "cut": …, "calibration": …,
"counterfactual": …, "ablations": …, "curve": …, "seeds": …, "trainings": …}``; each part has
the keys of its class in ``prerank.evaluation.results``. A metric that a ranker lacks is absent; NaN
is null. Costs, oracles, slices and what is known of the job are for the page and are not in the
file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from prerank.evaluation.results import (
    Ablation,
    Calibration,
    Counterfactual,
    CurvePoint,
    Cut,
    DatasetFacts,
    Examination,
    Measured,
    NotMeasured,
    Reference,
    Reliability,
    Results,
    comparisons_of,
)

S = TypeVar("S")


def to_json(results: Results) -> str:
    """Strict JSON, one key per line; a study that is None is left out."""
    document: dict[str, Any] = {
        "dataset": results.dataset.name,
        "split": results.split,
        "models": results.models,
        "reachable_ceiling": results.reachable_ceiling,
        "paired": results.paired,
        "versus": results.versus,
    }
    studies = {
        "cut": results.cut,
        "calibration": results.calibration,
        "counterfactual": results.counterfactual,
    }
    document |= {name: study for name, study in studies.items() if study is not None}
    document["ablations"] = results.ablations
    if results.curve:
        document["curve"] = results.curve
    if results.seeds:
        document |= {"seeds": results.seeds, "trainings": results.trainings}
    return json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Results:
    """What ``to_json`` wrote.

    Raises:
        KeyError, TypeError: the text is JSON of another form.
    """
    read = _filled(json.loads(text))
    return Results(
        dataset=DatasetFacts(read["dataset"]),
        split=read["split"],
        models=_measured(read["models"]),
        reachable_ceiling=read["reachable_ceiling"],
        paired=comparisons_of(read["paired"]),
        versus=comparisons_of(read["versus"]),
        cut=_cut(read["cut"]) if "cut" in read else None,
        calibration=_study(_calibration, read.get("calibration")),
        counterfactual=_study(_counterfactual, read.get("counterfactual")),
        ablations={name: Ablation(**own) for name, own in read["ablations"].items()},
        curve=[CurvePoint.of(point) for point in read.get("curve", ())],
        seeds=read.get("seeds", {}),
        trainings={int(seed): mrr for seed, mrr in read.get("trainings", {}).items()},
    )


def _plain(value: Any) -> Any:
    """``value`` as strict JSON has it: no classes, numpy scalars or tuples, NaN as null."""
    if isinstance(value, Measured):
        return _plain({**value.means, "ci": value.ci})
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _filled(value: Any) -> Any:
    """``value`` with NaN for each null."""
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner) for inner in value]
    return math.nan if value is None else value


def _measured(read: dict[str, Any]) -> dict[str, Measured]:
    return {name: Measured.from_flat(flat) for name, flat in read.items()}


def _cut(read: dict[str, Any]) -> Cut:
    reference = read["reference"]
    found = Reference(**reference) if isinstance(reference, dict) else None
    return Cut(found, _measured(read["models"]))


def _study(
    kind: Callable[[dict[str, Any]], S], read: dict[str, Any] | None
) -> S | NotMeasured | None:
    if read is None:
        return None
    return NotMeasured(**read) if "absent" in read else kind(read)


def _calibration(read: dict[str, Any]) -> Calibration:
    return Calibration(
        {n: {h: Reliability(**r) for h, r in own.items()} for n, own in read["models"].items()}
    )


def _counterfactual(read: dict[str, Any]) -> Counterfactual:
    own = {"models": _measured(read["models"]), "propensities": Examination(**read["propensities"])}
    return Counterfactual(**(read | own))

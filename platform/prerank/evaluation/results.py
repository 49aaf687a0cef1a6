"""What an evaluation found: the class that the tables, the report and metrics.json read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

METRICS = ("recall@cut", "hits@3", "mrr", "hits@1", "hits@10", "ndcg@10", "auc")
"""Columns of every table, in this order: what the cut keeps is what the stage is for."""
COMPARED = ("recall@cut", "hits@3", "mrr")
"""Metrics of the paired tests."""

LEAD = "interactrank"
"""The ranker that a report is about."""
BASELINE = "two_tower"
"""The ranker that every other one is compared with."""
FULL = "full"
"""The ablation's variant from which nothing was taken."""

Interval = tuple[float, float]
"""Ends of a 95% interval; NaN where it is not defined."""


@dataclass(frozen=True)
class DatasetFacts:
    """What was evaluated on; what is not known is None.

    Attributes:
        name: of the log.
        requests: split -> count.
        users, queries, items: how many the log holds.
        time_span: times of the first and the last request, ISO 8601.
        positives: engaged candidates of the measured split.
        candidates: where the candidates come from, in words.
        reachable_share: share of the engaged items that are among the candidates.
    """

    name: str
    requests: Mapping[str, int] = field(default_factory=dict)
    users: int | None = None
    queries: int | None = None
    items: int | None = None
    time_span: tuple[str, str] | None = None
    positives: int | None = None
    candidates: str | None = None
    reachable_share: float | None = None


@dataclass(frozen=True)
class Cost:
    """What one more candidate costs: operations, bytes read, microseconds of one thread."""

    flops_per_candidate: float
    bytes_per_candidate: float
    us_per_candidate: float


@dataclass(frozen=True)
class Measured:
    """One ranker: metric -> mean over requests, with 95% bootstrap intervals.

    Means are shares in [0, 1]; NaN where a metric is defined for no request.
    """

    means: Mapping[str, float]
    ci: Mapping[str, Interval] = field(default_factory=dict)
    cost: Cost | None = None

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any], cost: Cost | None = None) -> Measured:
        """From ``{metric: mean, …, "ci": {metric: [low, high]}}``."""
        ci = {metric: (low, high) for metric, (low, high) in flat["ci"].items()}
        return cls({metric: mean for metric, mean in flat.items() if metric != "ci"}, ci, cost)

    def mean(self, metric: str) -> float:
        """NaN where it was not measured."""
        return self.means.get(metric, math.nan)


@dataclass(frozen=True)
class Difference:
    """Mean difference of two rankers on the same requests, its 95% interval and p-value."""

    difference: float
    ci: Interval
    p: float


Comparisons = Mapping[str, Mapping[str, Difference]]
"""Ranker -> metric -> difference."""


def comparisons_of(read: Mapping[str, Mapping[str, Any]]) -> Comparisons:
    """Comparisons from their JSON form."""
    return {
        name: {m: Difference(d["difference"], tuple(d["ci"]), d["p"]) for m, d in own.items()}
        for name, own in read.items()
    }


@dataclass(frozen=True)
class Reference:
    """The full ranker whose ``top`` best candidates a cut should keep."""

    name: str
    top: int


@dataclass(frozen=True)
class Cut:
    """What the cut of every ranker keeps.

    Metrics are recall@cut, recall@100, recall@1000 and agreement, as far as they were measured.
    """

    reference: Reference | None
    models: Mapping[str, Measured]


@dataclass(frozen=True)
class Reliability:
    """Predicted against observed engagement of one head.

    Attributes:
        ece: expected calibration error.
        predicted, observed: means over the impressions.
        impressions: how many.
        curve: [count, mean predicted, observed] of each group of similar predictions.
    """

    ece: float
    predicted: float
    observed: float
    impressions: int
    curve: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Calibration:
    """Ranker -> head -> reliability."""

    models: Mapping[str, Mapping[str, Reliability]]


@dataclass(frozen=True)
class Examination:
    """How often each place is looked at, relative to the best place.

    Attributes:
        first_place: first place of each group of places, ascending.
        value: propensity of each group, in (0, 1].
        engagements: how many the estimate rests on.
        strata: "query and item", or "item" where too few pairs moved.
    """

    first_place: Sequence[int]
    value: Sequence[float]
    engagements: int
    strata: str


@dataclass(frozen=True)
class Counterfactual:
    """What every order would have earned (metrics "dcg" and "mrr"), "as shown" among them.

    Attributes:
        models: ranker -> estimates.
        propensities: that the engagements were weighted with.
        requests: with a weighted engagement.
        effective_engagements: how many of equal weight would be worth as much.
    """

    models: Mapping[str, Measured]
    propensities: Examination
    requests: int
    effective_engagements: float


@dataclass(frozen=True)
class NotMeasured:
    """Stands where a log does not support a measurement; ``absent`` says why."""

    absent: str


@dataclass(frozen=True)
class Ablation:
    """A variant: which ``parts`` were taken out; metric -> one value per seed."""

    parts: str
    metrics: Mapping[str, Sequence[float]]

    def seeds(self, metric: str) -> list[float]:
        """The values of a metric, where it is defined."""
        return [value for value in self.metrics.get(metric, ()) if math.isfinite(value)]


@dataclass(frozen=True)
class CurvePoint:
    """Rankers that learned from the newest ``share`` percent of the training requests.

    Attributes:
        share: percent. requests: how many.
        models: ranker -> metric -> one mean for each seed.
        versus: LEAD minus each other ranker, of the means over seeds.
    """

    share: int
    requests: int
    models: Mapping[str, Mapping[str, Sequence[float]]]
    versus: Comparisons = field(default_factory=dict)

    @classmethod
    def of(cls, read: Mapping[str, Any]) -> CurvePoint:
        """A point from its JSON form."""
        versus = comparisons_of(read["versus"])
        return cls(read["share"], read["requests"], read["models"], versus)


@dataclass(frozen=True)
class Slice:
    """Some of the requests: how many; ranker -> metric -> mean."""

    requests: int
    models: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Results:
    """Everything that a report may show. A part that was not measured is empty or None.

    Attributes:
        dataset: facts about the log.
        models: ranker -> metrics.
        split: the split the metrics come from, "validation" or "test".
        oracles: as ``models``; they know what no ranker may know.
        reachable_ceiling: metric -> the best value that any order of the candidates could reach.
        paired: each ranker minus BASELINE.
        versus: LEAD minus each other ranker.
        cut: which items stay in the set that is passed on.
        calibration: whether predicted probabilities are right on average.
        counterfactual: what every order would have earned.
        ablations: variant -> what it lost; FULL is what the others are compared with.
        curve: what is learned from fewer requests, the fewest first.
        slices: kinds of requests.
        training: ranker -> epochs, {"epoch", "train_loss", "validation_loss", "validation_mrr"}.
        seeds: ranker -> metric -> a value for each seed, that of the version's seed first; of
            rankers that were trained with several, whose other metrics are means over seeds.
        trainings: seed -> best validation MRR of LEAD, that of the version first.
        fusion_weights: (feature, weight) pairs.
        ingest: sentences on what was read, quarantined or assumed.
        features: sentences on snapshots, rows and caps.
        stages: stage -> seconds.
    """

    dataset: DatasetFacts
    models: Mapping[str, Measured]
    split: str = "test"
    oracles: Mapping[str, Measured] = field(default_factory=dict)
    reachable_ceiling: Mapping[str, float] = field(default_factory=dict)
    paired: Comparisons = field(default_factory=dict)
    versus: Comparisons = field(default_factory=dict)
    cut: Cut | None = None
    calibration: Calibration | NotMeasured | None = None
    counterfactual: Counterfactual | NotMeasured | None = None
    ablations: Mapping[str, Ablation] = field(default_factory=dict)
    curve: Sequence[CurvePoint] = ()
    slices: Mapping[str, Slice] = field(default_factory=dict)
    training: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    seeds: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    trainings: Mapping[int, float] = field(default_factory=dict)
    fusion_weights: Sequence[tuple[str, float]] = ()
    ingest: Sequence[str] = ()
    features: Sequence[str] = ()
    stages: Mapping[str, float] = field(default_factory=dict)

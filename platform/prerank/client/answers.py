"""What a deployment answers, as typed values: as ``docs/serving.md`` describes it.

A ``from_json`` reads the fields that it knows; a deployment that is newer may answer more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = Mapping[str, Any]


@dataclass(frozen=True)
class MissingShard:
    """A part of the index whose items are not in a ranking.

    Attributes:
        shard: its number.
        share: of the items of the index.
        cause: "late", "failed", or "version": it has yet to load the model version.
    """

    shard: int
    share: float
    cause: str

    @classmethod
    def from_json(cls, data: Json) -> MissingShard:
        """Read one off an answer."""
        return cls(data["shard"], data["share"], data["cause"])


@dataclass(frozen=True, eq=False)
class Explanation:
    """The parts of the scores of a ranking, aligned with its ``ids``.

    Attributes:
        time: as of when the answer was computed.
        dots: float32 [n] dot products of the fused query vector and the item vectors.
        cross_scores: float32 [n] g(x), from the cross features.
        features: of each item, the cross features that are not 0, by name.
        request_features: statistics of the request that are not 0; NaN: not known.
    """

    time: datetime
    dots: NDArray[np.float32]
    cross_scores: NDArray[np.float32]
    features: Sequence[Mapping[str, float]]
    request_features: Mapping[str, float]

    @classmethod
    def from_json(cls, data: Json) -> Explanation:
        """Read it off an answer to a request with ``explain``."""
        items = data["items"]
        return cls(
            datetime.fromisoformat(data["time"]),
            np.array([item["dot"] for item in items], np.float32),
            np.array([item["cross_score"] for item in items], np.float32),
            [_numbers(item["features"]) for item in items],
            _numbers(data["request_features"]),
        )


@dataclass(frozen=True, eq=False)
class Ranking:
    """The best k of the candidates, the best one first.

    Attributes:
        request_id: to be sent with the events that the ranking leads to.
        model_version: in MLflow, that scored the request.
        ids: [n] int64 where the candidates were integers, else object: texts.
        scores: float32 [n], logits; NaN where one is no finite number.
        unknown_ids: candidates that are not in the index, of the dtype of ``ids``; each is scored
            by its counts, as an item of which nothing else is known.
        degraded: features that could not be read; empty when all is well.
        snapshot_cutoff: until when events are counted in the features; None: not known, or not
            said, as in the answers of ``rank_many``.
        non_finite: how many scores of all candidates were no finite numbers; None: not said.
        missing_shards: parts of the index that did not answer; None: not said, as in the answers of
            ``rank_many``, whose ``degraded`` has "shards" then.
        explanation: the parts of each score, where they were asked for.
        experiment, variant: that the request belongs to; None where no experiment runs.
        fallback: the champion answered in place of the variant.
    """

    request_id: str
    model_version: str
    ids: NDArray[Any]
    scores: NDArray[np.float32]
    unknown_ids: NDArray[Any]
    degraded: tuple[str, ...]
    snapshot_cutoff: datetime | None = None
    non_finite: int | None = None
    explanation: Explanation | None = None
    missing_shards: tuple[MissingShard, ...] | None = None
    experiment: str | None = None
    variant: str | None = None
    fallback: bool = False

    @classmethod
    def from_json(cls, data: Json, as_int: bool, explain: bool) -> Ranking:
        """Read an answer; ``as_int``: the candidates were integers."""
        items = data["items"]
        return cls(
            data["request_id"],
            data["model_version"],
            id_array([item["id"] for item in items], as_int),
            np.array([item["score"] for item in items], np.float32),
            id_array(data["unknown_ids"], as_int),
            tuple(data["degraded"]),
            time_of(data["snapshot_cutoff"]),
            data.get("non_finite", 0),
            Explanation.from_json(data) if explain else None,
            tuple(map(MissingShard.from_json, data.get("missing_shards", ()))),
            **trial_of(data),
        )


@dataclass(frozen=True, eq=False)
class Reranking:
    """Documents, the most relevant one first.

    Attributes:
        request_id: to be sent with the events that the ranking leads to.
        indices: int64 [n], places in the request's ``documents``, from 0.
        relevances: float32 [n] in [0, 1], predicted probabilities of the engagement; 0 for items
            without a score, which come last.
        unknown: items that are not in the index: int64, or object: texts.
        model_version, degraded, snapshot_cutoff, experiment, variant, fallback: as in ``Ranking``.
    """

    request_id: str
    model_version: str
    indices: NDArray[np.int64]
    relevances: NDArray[np.float32]
    unknown: NDArray[Any]
    degraded: tuple[str, ...]
    snapshot_cutoff: datetime | None
    experiment: str | None = None
    variant: str | None = None
    fallback: bool = False

    @classmethod
    def from_json(cls, data: Json, as_int: bool) -> Reranking:
        """Read an answer; ``as_int``: the documents were integers."""
        results, meta = data["results"], data["meta"]
        return cls(
            data["id"],
            meta["model_version"],
            np.array([result["index"] for result in results], np.int64),
            np.array([result["relevance_score"] for result in results], np.float32),
            id_array(meta["unknown"], as_int),
            tuple(meta["degraded"]),
            time_of(meta["snapshot_cutoff"]),
            **trial_of(meta),
        )


@dataclass(frozen=True)
class Item:
    """What is known of an item.

    Attributes:
        id: as it was asked for.
        indexed: whether the served index holds it; if not, it is not ranked.
        trained: whether the model was trained with engagements of it.
        created: when it was created; None: not known.
        model_version: that is served.
    """

    id: int | str
    indexed: bool
    trained: bool
    created: datetime | None
    model_version: str

    @classmethod
    def from_json(cls, data: Json, item_id: int | str) -> Item:
        """Read the answer about ``item_id``."""
        created = time_of(data["created"])
        return cls(item_id, data["indexed"], data["trained"], created, data["model_version"])


@dataclass(frozen=True)
class Accepted:
    """What became of events.

    Attributes:
        accepted: are acknowledged: they are in a journal on disk.
        passive: of those, exposure, which enters no history.
        online: whether all histories contain them already.
    """

    accepted: int
    passive: int
    online: bool

    @classmethod
    def from_json(cls, data: Json) -> Accepted:
        """Read an answer."""
        return cls(data["accepted"], data["passive"], data["online"])

    def __add__(self, other: Accepted) -> Accepted:
        """Of both."""
        return Accepted(
            self.accepted + other.accepted,
            self.passive + other.passive,
            self.online and other.online,
        )


@dataclass(frozen=True)
class Health:
    """What runs at the deployment; the fields are those of ``/health``."""

    code_version: str
    model_version: str | None
    run_id: str | None
    alias: str | None
    confirmed: bool | None
    schema_hash: str | None
    items: int
    snapshot_cutoff: datetime | None
    clock: str
    dead_letters: int
    notes: tuple[str, ...]
    waiting: Mapping[str, int]
    experiment: str | None = None
    variants: Mapping[str, str | None] = field(default_factory=dict)
    variants: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Json) -> Health:
        """Read an answer."""
        read = {"snapshot_cutoff": time_of(data["snapshot_cutoff"]), "notes": tuple(data["notes"])}
        # A deployment of before runs no experiments.
        found = {"experiment": None, "variants": {}} | dict(data)
        return cls(**{name: found[name] for name in cls.__dataclass_fields__} | read)


@dataclass(frozen=True)
class Readiness:
    """Whether requests are answered; ``detail`` says what is wrong, also of one that is ready."""

    ready: bool
    detail: str = ""


def id_array(ids: Sequence[int | str], as_int: bool) -> NDArray[Any]:
    """Ids as int64 [n], those among them that are text too; or as texts, object [n]."""
    if as_int:
        return np.array([int(i) for i in ids], np.int64)
    found = np.empty(len(ids), object)
    found[:] = ids
    return found


def time_of(text: str | None) -> datetime | None:
    """A time of an answer."""
    return None if text is None else datetime.fromisoformat(text)


def trial_of(data: Json) -> dict[str, Any]:
    """What an experiment made of a request."""
    return {name: data[name] for name in ("experiment", "variant", "fallback") if name in data}


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float("nan") if v is None else v for name, v in values.items()}

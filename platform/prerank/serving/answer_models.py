"""The bodies of answers and of refusals, declared: what a route gives back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from prerank.serving.request_models import Declared, ItemId

Degraded = Annotated[
    list[str],
    Field(
        description="Features that could not be read: `engagement`, `user_history`, `graph`, "
        "`online_store`; `scores`, where some were no finite numbers; or `shards`, where a part of "
        "the index did not answer."
    ),
]
Cutoff = Annotated[
    str | None, Field(description="Until when events are counted in the features; null if unknown.")
]


OfExperiment = Annotated[
    str | None, Field(description="Of the experiment that runs; left out if none does.")
]
Fallback = Annotated[
    bool | None,
    Field(description="True if the champion answered in place of the variant; else left out."),
]


class RankedItem(Declared):
    """An item of an answer, the best one first. The last three are there with `explain`."""

    id: Annotated[ItemId, Field(description="In the caller's form; as text beyond 2^53.")]
    score: Annotated[float | None, Field(description="A logit; null if it is no finite number.")]
    dot: float | None = None
    cross_score: float | None = None
    features: dict[str, float | None] | None = None


class MissingShard(Declared):
    """A part of the index whose items are not in the answer."""

    shard: int
    cause: Annotated[
        Literal["late", "failed", "version"],
        Field(description="`version`: it has yet to load the model version."),
    ]
    share: Annotated[float, Field(description="Of the index's items.")]


class PrerankAnswer(Declared):
    """The best k."""

    request_id: str
    experiment: OfExperiment = None
    variant: OfExperiment = None
    fallback: Fallback = None
    model_version: str
    items: list[RankedItem]
    k: int
    unknown_ids: Annotated[
        list[ItemId],
        Field(description="Not in the index; scored by their counts alone."),
    ]
    degraded: Degraded
    snapshot_cutoff: Cutoff
    non_finite: Annotated[int | None, Field(description="Scores that were NaN or infinite.")] = None
    missing_shards: Annotated[
        list[MissingShard] | None,
        Field(description="Parts of the index that did not answer; left out if all did."),
    ] = None
    time: Annotated[str | None, Field(description="With `explain`: as of when.")] = None
    request_features: Annotated[
        dict[str, float | None] | None,
        Field(description="With `explain`: statistics of the request that are not 0."),
    ] = None


Points = list[Annotated[list[float], Field(min_length=2, max_length=2)]]


class OtherItems(Declared):
    """Weights of items that are not listed, by age; t = log(1 + age in days)."""

    age_unknown: Annotated[float, Field(description="Of an item of unknown age, or yet to come.")]
    fresh_days: Annotated[float, Field(description="Younger items are fresh.")]
    fresh: Annotated[Points, Field(description="t and weight; linear between two points.")]
    old: Annotated[Points, Field(description="The same of items that are not fresh.")]


class QueryAnswer(Declared):
    """score(item) = <vector, item vector> + weight + constant, of each item of the index."""

    request_id: str
    experiment: OfExperiment = None
    variant: OfExperiment = None
    fallback: Fallback = None
    model_version: str
    vector: Annotated[list[float], Field(description="As wide as the index's item vectors.")]
    items: Annotated[list[ItemId], Field(description="Items with a weight of their own.")]
    weights: Annotated[list[float | None], Field(description="One per item of `items`.")]
    others: OtherItems
    constant: float
    left_out: Annotated[
        list[str],
        Field(description="Features that only rankings have; `others` is without them."),
    ]
    degraded: Degraded
    snapshot_cutoff: Cutoff


class RerankResult(Declared):
    """A document's place in the ranking."""

    index: Annotated[int, Field(ge=0, description="Place in the caller's list, from 0.")]
    relevance_score: Annotated[
        float,
        Field(ge=0, le=1, description="Predicted probability; 0 for an item without a score."),
    ]
    document: Annotated[
        dict[str, Any] | None,
        Field(description="With `return_documents`: the object, or its text."),
    ] = None


class RerankMeta(Declared):
    """What the ranking was made with."""

    model_version: str
    unknown: Annotated[
        list[ItemId],
        Field(description="Not in the index; scored by their counts alone."),
    ]
    degraded: Degraded
    snapshot_cutoff: Cutoff
    experiment: OfExperiment = None
    variant: OfExperiment = None
    fallback: Fallback = None


class RerankAnswer(Declared):
    """Documents, the most relevant one first."""

    id: Annotated[str, Field(description="Request id, to be sent with the events it leads to.")]
    results: list[RerankResult]
    meta: RerankMeta


class Item(Declared):
    """What is known of an item."""

    id: ItemId
    indexed: Annotated[bool, Field(description="Whether the served index holds it.")]
    trained: Annotated[
        bool, Field(description="Whether the model was trained with engagements of it.")
    ]
    created: Annotated[str | None, Field(description="When it was created; null if not known.")]
    model_version: str


class EventsAnswer(Declared):
    """What became of the events."""

    accepted: Annotated[int, Field(description="In the journal.")]
    passive: Annotated[int, Field(description="Of those, exposure, which enters no history.")]
    online: Annotated[bool, Field(description="Whether the histories contain them already.")]


class Health(Declared):
    """What runs here."""

    code_version: str
    model_version: str | None
    run_id: Annotated[str | None, Field(description="MLflow run of the version.")]
    alias: str | None
    confirmed: Annotated[bool | None, Field(description="False while MLflow does not answer.")]
    schema_hash: str | None
    items: Annotated[int, Field(description="Items of the index.")]
    snapshot_cutoff: Cutoff
    clock: Literal["wall", "replay"]
    dead_letters: Annotated[int, Field(description="Events that were set aside.")]
    notes: Annotated[list[str], Field(description="What is wrong, in words.")]
    waiting: Annotated[dict[str, int], Field(description="Requests in each lane.")]
    experiment: Annotated[str | None, Field(description="Name of the one that runs.")]
    variants: Annotated[
        dict[str, str | None], Field(description="Version that each of its variants serves now.")
    ]


class Ready(Declared):
    """Requests are answered."""

    ready: Literal[True]
    degraded: Annotated[str | None, Field(description="What is wrong all the same.")] = None


class Problem(Declared):
    """Problem details (RFC 9457)."""

    type: Literal["about:blank"]
    title: Annotated[str, Field(description="Name of the status.")]
    status: int
    detail: Annotated[str, Field(description="What is wrong, and the remedy.")]
    field: Annotated[str, Field(description="What it is about: a field, a header, a part.")]
    request_id: Annotated[str, Field(description="Of the request; the replica's log names it.")]

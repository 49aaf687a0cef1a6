"""The bodies of requests, declared: what ``/openapi.json`` and ``/docs`` say that a route takes.

Requests are read by the parsers of ``prerank.serving.api`` and its neighbours, which are several
times as fast on large bodies and name the fix; tests hold both to each other. A limit that the
deployment's configuration sets stands here as the name of its key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from prerank.core.ids import JSON_SAFE
from prerank.serving.api import DEFAULT_K, MAX_EVENTS
from prerank.serving.fields import MAX_NAME, MAX_QUERY
from prerank.serving.query import MAX_VERSIONS

FLOAT32_MAX = 3.4028234663852886e38

SafeInteger = Annotated[int, Field(ge=-JSON_SAFE, le=JSON_SAFE)]
ItemText = Annotated[
    str, Field(min_length=1, description="On a log with integer ids, the integer as text.")
]
ItemId = SafeInteger | ItemText
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)] | SafeInteger
Query = Annotated[str, Field(min_length=1, max_length=MAX_QUERY, pattern=r"\S")]
Time = (
    Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    | Annotated[int, Field(ge=31_536_000_000_000, lt=7_258_118_400_000_000)]
)
Weights = Annotated[
    dict[str, Annotated[float, Field(ge=0)]],
    Field(
        min_length=1,
        description="Head of the model to weight; scaled to sum 1, so one must be above 0. "
        "Without it, the first head alone.",
    ),
]
Context = Annotated[
    dict[str, Annotated[str, Field(max_length=MAX_NAME)] | SafeInteger | bool | None],
    Field(description="Value of each segment that the log declared; what is left out is missing."),
]
K = Annotated[
    int,
    Field(
        ge=1,
        description="How many items to return; with `explain`, at most `max_explained`.",
        json_schema_extra={"maximum": "max_k"},
    ),
]
RequestTime = Annotated[
    Time | None,
    Field(
        description="ISO 8601, or microseconds since 1970. Needed where the deployment's `clock` "
        "is `replay`, refused where it is `wall`."
    ),
]
TimeoutMs = Annotated[
    Annotated[float, Field(gt=0)] | None,
    Field(
        description="Milliseconds in which the answer is wanted; by default, and at most, the "
        "deployment's `timeout_ms`. What cannot be read by then is left out, and named."
    ),
]
RequestId = Annotated[
    Name | None, Field(description="Returned in the answer; by default a new one.")
]
User = Annotated[Name, Field(description="May be unknown to the log.")]
Searched = Annotated[Query, Field(description="The text that the user searched for.")]
Ignored = Annotated[Any, Field(description="Ignored: it has no meaning for items.")]
ExcludeEngaged = Annotated[
    bool, Field(description="Returns no item that is in the user's history.")
]
Number = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
_LISTED = Field(json_schema_extra={"maxItems": "max_candidates"})
_JSON: JsonDict = {"contentMediaType": "application/json"}


class Declared(BaseModel):
    """A body of which every field is declared; no other is taken or answered."""

    model_config = ConfigDict(extra="forbid")


def example(value: Any) -> ConfigDict:
    """Configuration of a model with an example of its JSON."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [value]})


class Candidate(Declared):
    """A candidate with what its retriever gave it, and the caller's own features."""

    id: ItemId
    score: Number | None = None
    rank: Annotated[int, Field(ge=0)] | None = None
    features: Annotated[
        dict[str, Number | None] | None,
        Field(description="Candidate features of the model, by name; what is left out is missing."),
    ] = None


class PrerankBody(Declared):
    """A request for the best k of some candidates."""

    model_config = example(
        {
            "user_id": "u7",
            "query": "red shoe",
            "candidates": [{"id": 17, "score": 11.2, "rank": 0}, {"id": 4, "rank": 1}],
            "k": 2,
        }
    )

    user_id: User
    query: Searched
    candidates: Annotated[
        Annotated[list[SafeInteger], _LISTED]
        | Annotated[list[ItemText], _LISTED]
        | Annotated[list[Candidate], _LISTED],
        Field(
            default=None,
            description="Item ids of one kind, or objects. May be empty; repeats count once. Left "
            "out: every item of the index, if it has at most `max_candidates`; not on a log with "
            "text ids, of which the index holds hashes alone.",
        ),
    ]
    exclude: Annotated[list[SafeInteger], _LISTED] | Annotated[list[ItemText], _LISTED] | None = (
        Field(default=None, description="Items that are not to be returned.")
    )
    exclude_engaged: ExcludeEngaged = False
    k: K = DEFAULT_K
    context: Context | None = None
    retriever_scores: Annotated[
        list[Number | None] | None,
        Field(description="One per candidate, where candidates are plain ids."),
    ] = None
    retriever_ranks: Annotated[
        list[Annotated[int, Field(ge=0)] | None] | None,
        Field(description="One per candidate, from 0, where candidates are plain ids."),
    ] = None
    candidate_features: Annotated[
        dict[str, list[Number | None] | None] | None,
        Field(
            description="Candidate features of the model, by name: one value per candidate, where "
            "candidates are plain ids."
        ),
    ] = None
    weights: Weights | None = None
    explain: Annotated[bool, Field(description="Adds the parts of each score.")] = False
    request_id: RequestId = None
    time: RequestTime = None
    timeout_ms: TimeoutMs = None


class RawQuery(Declared):
    """For the binary form, whose body has no other fields."""

    user_id: User
    query: Searched
    k: K = DEFAULT_K
    retriever: Annotated[
        str,
        Field(
            pattern=r"^(score|rank|score,rank|rank,score)?$", description="What follows the ids."
        ),
    ] = ""
    candidate_features: Annotated[
        str,
        Field(
            description="Names of candidate features of the model, separated by commas, each once: "
            "what follows the ids and the columns of `retriever`."
        ),
    ] = ""
    context: Annotated[str, Field(description="A JSON object.", json_schema_extra=_JSON)] = "{}"
    weights: Annotated[
        str,
        Field(
            description="A JSON object; without it, the first head alone.", json_schema_extra=_JSON
        ),
    ] = "null"
    explain: Literal["0", "1", "true", "false"] = "0"
    exclude_engaged: Literal["0", "1", "true", "false"] = "0"
    request_id: RequestId = None
    time: RequestTime = None
    timeout_ms: TimeoutMs = None


class QueryBody(Declared):
    """A request for the parts of its scores; it names no candidates."""

    model_config = example({"user_id": "u7", "query": "red shoe"})

    user_id: User
    query: Searched
    versions: Annotated[
        list[Annotated[str, Field(pattern=r"^[0-9]+$")]] | None,
        Field(
            max_length=MAX_VERSIONS,
            description="Model versions whose item vectors the caller holds. With it the request "
            "takes part in an experiment; a variant's version answers if it is one of these.",
        ),
    ] = None
    context: Context | None = None
    weights: Weights | None = None
    request_id: RequestId = None
    time: RequestTime = None
    timeout_ms: TimeoutMs = None


class Document(BaseModel):
    """An item of a request to rerank; what else it holds is the caller's."""

    id: ItemId


class RerankBody(Declared):
    """A request to rerank, as Cohere and Jina have it; a document is an item."""

    model_config = example(
        {"query": "red shoe", "documents": ["17", "4", "23"], "top_n": 2, "user_id": "u7"}
    )

    query: Searched
    documents: Annotated[
        list[ItemId | Document],
        Field(
            description="Item ids, or objects with an `id`. May be empty, and name an item twice.",
            json_schema_extra={"maxItems": "max_candidates"},
        ),
    ]
    top_n: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(
            description="Results to return, by default one per document; more than there are "
            "documents is as many. At most `max_k` are returned."
        ),
    ] = None
    return_documents: Annotated[bool | None, Field(description="Adds each document.")] = None
    user_id: Annotated[
        Annotated[str, Field(max_length=MAX_NAME)] | SafeInteger | None,
        Field(description="By default the header `X-User-Id`; without both, nobody's history."),
    ] = None
    request_id: RequestId = None
    context: Context | None = None
    weights: Weights | None = None
    time: RequestTime = None
    timeout_ms: TimeoutMs = None
    model: Ignored = None
    max_chunks_per_doc: Ignored = None
    max_tokens_per_doc: Ignored = None
    rank_fields: Ignored = None
    priority: Ignored = None
    truncation: Ignored = None
    input_type: Ignored = None
    return_embeddings: Ignored = None


class RerankHeaders(Declared):
    """Where the body has no `user_id`."""

    x_user_id: Annotated[
        Annotated[str, Field(max_length=MAX_NAME)] | None,
        Field(alias="X-User-Id", description="The user who searched."),
    ] = None


class EventBody(Declared):
    """An engagement, or an exposure."""

    user_id: Name
    item_id: ItemId
    action: Annotated[str, Field(description="One of the log's actions.")]
    event_time: Annotated[
        Time, Field(description="ISO 8601, or microseconds since 1970; not in the future.")
    ]
    query: Annotated[Query | None, Field(description="The search that led to it.")] = None
    position: Annotated[
        Annotated[int, Field(ge=1, lt=2**31)] | None,
        Field(description="The item's place in the list that was shown, from 1."),
    ] = None
    request_id: Name | None = None
    event_id: Annotated[
        Name | None, Field(description="By default derived from request, item, action and time.")
    ] = None


class EventsBody(Declared):
    """Events of a call: all are acknowledged, or none is."""

    model_config = example(
        {
            "events": [
                {
                    "user_id": "u7",
                    "item_id": 17,
                    "action": "click",
                    "event_time": "2024-03-01T12:03:20Z",
                    "query": "red shoe",
                    "request_id": "8f0c",
                }
            ]
        }
    )

    events: Annotated[list[EventBody], Field(max_length=MAX_EVENTS)]

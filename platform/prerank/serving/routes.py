"""A route: its path, who may call it, what it takes and what it answers.

The table ``ROUTES`` is read by ``prerank.serving.http.HttpApi``, which refuses what no route takes,
and by ``prerank.serving.openapi``, which describes what they take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel
from starlette.datastructures import Headers

from prerank.core import tokens
from prerank.serving import answer_models, request_models
from prerank.serving.batch import COLUMNS
from prerank.serving.fields import RequestError, shown
from prerank.serving.stages import Stages

JSON, RAW = "application/json", "application/octet-stream"
ARROW = "application/vnd.apache.arrow.stream"
SCORING, EVENTS = "scoring", "events"
BATCH, OTHER = "batch", "other"
"""Names in place of a route's: of many requests at once, and where no route takes the request."""

Content = Mapping[str, type[BaseModel] | str]
"""Media type -> the model of its JSON, or in words what its bytes are."""


@dataclass(frozen=True)
class Call:
    """What a handler gets of a request that was admitted.

    Attributes:
        headers: of the request.
        named: what stands at the end of the path, in place of ``{id}``.
        kind: media type of ``body``, one that the route takes; both are empty for a GET.
        fields: of the query string that comes with a body.
        arrived: when the body was there, in seconds of ``time.monotonic``.
        ahead: requests that were in the line then, or worked on.
        route: name of the route, "batch" for many requests at once.
        stages: of the request, from when the body was there.
    """

    headers: Headers
    named: str = ""
    kind: str = ""
    body: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)
    arrived: float = 0.0
    ahead: int = 0
    route: str = ""
    stages: Stages = field(default_factory=Stages)


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        method: of HTTP.
        path: ends with ``{id}`` where any text may stand.
        name: in metrics and logs; the method of ``HttpApi`` that answers a call.
        summary: in one line.
        scope: that a caller's token must have; empty: anybody may call the route, by any name.
        takes: bodies; none for a GET.
        answers: bodies of an answer with status 200.
        lane: in which the body waits and the work is done; empty: it waits for nobody.
        query, header: models of the query string and of the headers that are read.
        refuses: statuses of this route beyond those that follow from the above.
    """

    method: str
    path: str
    name: str
    summary: str
    scope: str
    answers: Content
    takes: Content = field(default_factory=dict)
    lane: str = ""
    query: type[BaseModel] | None = None
    header: type[BaseModel] | None = None
    refuses: tuple[int, ...] = ()

    def match(self, path: str) -> str | None:
        """What ``path`` has in place of ``{id}``, empty where there is none; None: no match."""
        fixed, _, named = self.path.partition("{")
        if not named:
            return "" if path.rstrip("/") == fixed else None
        return path.removeprefix(fixed) or None if path.startswith(fixed) else None

    @property
    def statuses(self) -> list[int]:
        """Every status of a refusal, ascending."""
        guard = set() if not self.scope else {401, 403, 421}
        lane = {400, 408, 413, 415, 503} if self.lane else set()
        return sorted({500, *guard, *lane, *self.refuses})


def at(routes: Sequence[Route], path: str) -> list[tuple[Route, str]]:
    """The routes of a path, each with what the path names."""
    return [(r, named) for r in routes if (named := r.match(path)) is not None]


def find(
    routes: Sequence[Route], there: Sequence[tuple[Route, str]], path: str, method: str
) -> tuple[Route, str]:
    """The one of ``there``, the ``routes`` at ``path``, that takes a request; what its path names.

    Raises:
        RequestError: 404 where no route has the path, 405 where none has it with this method.
    """
    if not there:
        known = sorted({r.path for r in routes})
        raise RequestError("path", f"{shown(path)} is unknown; routes: {known}", 404)
    for route, named in there:
        if route.method == method:
            return route, named
    methods = ", ".join(r.method for r, _ in there)
    raise RequestError(
        "method", f"{there[0][0].path} takes {methods}", 405, headers={"Allow": methods}
    )


RANK, REPORT, ADMIN, OPEN = tokens.RANK, tokens.EVENTS, tokens.ADMIN, ""
ROUTES = (
    Route(
        "POST",
        "/v1/prerank",
        "prerank",
        "Score candidates and return the best k.",
        RANK,
        answers={
            JSON: answer_models.PrerankAnswer,
            ARROW: "For a request in Arrow: a row per row, with `request_id`, `items`, `scores`, "
            "`unknown_ids`, `degraded` and `model_version`.",
        },
        takes={
            JSON: request_models.PrerankBody,
            RAW: "The candidates as little-endian int64, one after the other; everything else is "
            "in the query string. With `retriever`, a little-endian float32 per candidate follows "
            "for each name, then one for each name of `candidate_features`.",
            ARROW: f"Many requests, a row each, uncompressed. Columns: {COLUMNS}.",
        },
        lane=SCORING,
        query=request_models.RawQuery,
    ),
    Route(
        "POST",
        "/v1/rerank",
        "rerank",
        "Rerank documents, each of them an item, in the shape of Cohere and Jina.",
        RANK,
        answers={JSON: answer_models.RerankAnswer},
        takes={JSON: request_models.RerankBody},
        lane=SCORING,
        header=request_models.RerankHeaders,
    ),
    Route(
        "POST",
        "/v1/query",
        "query",
        "The parts of a request's scores, for an engine that holds the item vectors.",
        RANK,
        answers={JSON: answer_models.QueryAnswer},
        takes={JSON: request_models.QueryBody},
        lane=SCORING,
    ),
    Route(
        "GET",
        "/v1/items/{id}",
        "item",
        "What is known of an item.",
        RANK,
        answers={JSON: answer_models.Item},
        refuses=(400, 404, 503),
    ),
    Route(
        "POST",
        "/v1/events",
        "events",
        "Add engagement events to users' histories.",
        REPORT,
        answers={JSON: answer_models.EventsAnswer},
        takes={JSON: request_models.EventsBody},
        lane=EVENTS,
    ),
    Route(
        "GET",
        "/openapi.json",
        "openapi",
        "This document.",
        ADMIN,
        answers={JSON: "OpenAPI 3.1."},
    ),
    Route(
        "GET",
        "/docs",
        "docs",
        "This document as a page.",
        ADMIN,
        answers={"text/html": "A page that fetches nothing."},
    ),
    Route(
        "GET",
        "/health",
        "health",
        "What runs here: code, schema, model version, snapshot.",
        ADMIN,
        answers={JSON: answer_models.Health},
    ),
    Route(
        "GET",
        "/ready",
        "ready",
        "Whether requests are answered; open to load balancers.",
        OPEN,
        answers={JSON: answer_models.Ready},
        refuses=(503,),
    ),
)
"""Every route of a deployment."""

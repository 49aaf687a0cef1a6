"""The operations of a client, for both kinds of it: what is sent, and what an answer is read as."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from prerank.client.answers import (
    Accepted,
    Health,
    Item,
    Ranking,
    Readiness,
    Reranking,
)
from prerank.client.encoding import ids_of
from prerank.client.errors import (
    ClientError,
    DegradedError,
    Problem,
    RefusedError,
    ServerError,
)
from prerank.client.exchange import MAX_TEXT, Call, Reply, Steps, Tries, error_of, exchange
from prerank.client.query_parts import QueryParts
from prerank.client.requests import (
    Candidates,
    Event,
    QueryRequest,
    RankRequest,
    RerankRequest,
    event_calls,
    item_call,
)

if TYPE_CHECKING:
    from prerank.client.batches import Batch

T = TypeVar("T")
NOT_READY = 503
_PLACE = re.compile(r"^(events|rows)\[(\d+)\]")


def rank(request: RankRequest, tries: Tries, require: bool) -> Steps[Ranking]:
    """The best k; ``require`` all features."""
    candidates, request_id = Candidates.of(request), str(request.request_id)
    reply = yield from exchange(lambda left: candidates.call(request, left), tries, request_id)
    as_int = not isinstance(candidates.ids, list)
    found = _read(reply, request_id, lambda data: Ranking.from_json(data, as_int, request.explain))
    return _whole(found, found.degraded, require, request_id)


def rank_many(requests: Sequence[RankRequest], tries: Tries, require: bool) -> Steps[list[Ranking]]:
    """The best k of each request."""
    # pyarrow takes longer to import than a ranking: who sends no batch does without.
    from prerank.client.batches import batches

    found: list[Ranking] = []
    for batch in batches(requests):
        found += yield from _batch(batch, tries)
    degraded = tuple(dict.fromkeys(name for each in found for name in each.degraded))
    return _whole(found, degraded, require, None)


def _batch(batch: Batch, tries: Tries) -> Steps[list[Ranking]]:
    call = batch.call()
    try:
        reply = yield from exchange(_always(call), tries)
    except RefusedError as error:
        refused = error
    else:
        return _parsed(reply, None, batch.rankings)
    if refused.problem.status != 413 or len(batch.requests) == 1:
        raise _placed(refused, batch.first)
    found: list[Ranking] = []
    for half in batch.halves():
        found += yield from _batch(half, tries)
    return found


def rerank(request: RerankRequest, tries: Tries, require: bool) -> Steps[Reranking]:
    """Documents, the most relevant one first."""
    request_id = str(request.request_id)
    ids = ids_of(request.documents, "documents", request_id)
    reply = yield from exchange(lambda left: request.call(ids, left), tries, request_id)
    as_int = not isinstance(ids, list)
    found = _read(reply, request_id, lambda data: Reranking.from_json(data, as_int))
    return _whole(found, found.degraded, require, request_id)


def query(request: QueryRequest, tries: Tries, require: bool) -> Steps[QueryParts]:
    """The parts of a request's scores."""
    request_id = str(request.request_id)
    reply = yield from exchange(request.call, tries, request_id)
    found = _read(reply, request_id, QueryParts.from_json)
    return _whole(found, found.degraded, require, request_id)


def item(item_id: int | str, tries: Tries) -> Steps[Item]:
    """What is known of an item."""
    call = item_call(item_id)
    reply = yield from exchange(_always(call), tries)
    return _read(reply, None, lambda data: Item.from_json(data, item_id))


def events(given: Sequence[Event], tries: Tries) -> Steps[Accepted]:
    """Events are acknowledged, a call's worth at a time."""
    found = Accepted(0, 0, True)
    for first, call in event_calls(given):
        try:
            reply = yield from exchange(_always(call), tries)
        except RefusedError as error:
            refused = error
        else:
            found += _read(reply, None, Accepted.from_json)
            continue
        raise _placed(refused, first)
    return found


def health(tries: Tries) -> Steps[Health]:
    """What runs there."""
    reply = yield from exchange(_always(Call("GET", "/health")), tries)
    return _read(reply, None, Health.from_json)


def ready(tries: Tries) -> Steps[Readiness]:
    """Whether requests are answered; that they are not is an answer, too."""
    call = Call("GET", "/ready")
    reply = yield from exchange(_always(call), tries, answers=(200, NOT_READY))
    if reply.status == NOT_READY:
        return Readiness(False, error_of(reply, None).problem.detail)
    return _read(reply, None, lambda data: Readiness(data["ready"], data.get("degraded", "")))


def _always(call: Call) -> Callable[[float], Call]:
    return lambda _: call


def _read(reply: Reply, request_id: str | None, of: Callable[[Any], T]) -> T:
    return _parsed(reply, request_id, lambda body: of(orjson.loads(body)))


def _parsed(reply: Reply, request_id: str | None, of: Callable[[bytes], T]) -> T:
    """What ``of`` reads off an answer.

    Raises:
        ServerError: it is no answer of a deployment.
    """
    try:
        return of(reply.body)
    # pyarrow's errors are ValueErrors.
    except (ValueError, LookupError, TypeError, AttributeError, OSError):
        shown = reply.body[:MAX_TEXT].decode(errors="replace")
    raise ServerError(
        Problem(
            f"this is no answer of a pre-ranking deployment, is it the right URL? {shown!r}",
            reply.status,
            "OK",
            request_id=request_id,
        )
    )


def _whole(found: T, degraded: tuple[str, ...], require: bool, request_id: str | None) -> T:
    """An answer; one that lacks features is an error to who requires them."""
    if not require or not degraded:
        return found
    missing = ", ".join(degraded)
    raise DegradedError(
        Problem(
            f"the answer was made without {missing}; the deployment's /health says why",
            200,
            "OK",
            "degraded",
            request_id,
        ),
        degraded,
        found,
    )


def _placed(error: ClientError, first: int) -> RefusedError:
    """The refusal of one call of several, with the place in the caller's own list."""

    def moved(place: re.Match[str]) -> str:
        return f"{place[1]}[{int(place[2]) + first}]"

    return RefusedError(replace(error.problem, field=_PLACE.sub(moved, error.problem.field)))

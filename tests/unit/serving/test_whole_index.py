"""Candidates that are left out are the whole index; what is excluded is not returned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
from tests import plain_requests
from tests.api_bodies import STRINGS
from tests.http_calls import api_of, client_of
from tests.plain_requests import Request, as_inputs
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.serving.api import Limits

IDS = list(range(1000, 1030))
ENGAGED = [1003, 1017]
BODY = {"user_id": "ann", "query": "red shoe", "k": 5}


class Store:
    """A user who engaged two items."""

    away = False

    def cutoff_us(self) -> None:
        return None

    def read(self, *_: Any) -> OnlineRead:
        past = [(item, 1, plain_requests.NOW - 9, 5) for item in ENGAGED]
        return OnlineRead(as_inputs([Request(history=past)]), 2, 0, None, ())


def client(limits: Limits = SAMPLE) -> httpx.Client:
    engine = SmallEngine(limits, sample_scorer())
    engine.loaded = replace(engine.loaded, features=cast(OnlineFeatures, Store()))
    return client_of(api_of(engine))


@pytest.fixture(scope="module")
def caller() -> Iterator[httpx.Client]:
    with client() as found:
        yield found


def best(caller: httpx.Client, **changes: Any) -> list[tuple[int, float]]:
    answer = caller.post("/v1/prerank", json=BODY | changes).raise_for_status().json()
    return [(item["id"], item["score"]) for item in answer["items"]]


def test_without_candidates_every_item_is_scored(caller: httpx.Client) -> None:
    assert best(caller, k=40) == best(caller, candidates=IDS, k=40)
    assert len(best(caller, k=40)) == len(IDS)
    assert best(caller, explain=True) == best(caller)


@pytest.mark.parametrize("candidates", [{}, {"candidates": IDS}])
def test_what_is_excluded_makes_room_for_the_next_best(
    caller: httpx.Client, candidates: dict[str, Any]
) -> None:
    order = best(caller, k=40)
    ids = [item for item, _ in order]
    unwanted = [ids[0], ids[3], 7]  # the last one is in no index
    expected = [pair for pair in order if pair[0] not in unwanted]
    assert best(caller, exclude=unwanted, **candidates) == expected[:5]
    expected = [pair for pair in order if pair[0] not in ENGAGED]
    assert best(caller, exclude_engaged=True, k=40, **candidates) == expected
    expected = [pair for pair in expected if pair[0] not in unwanted]
    assert best(caller, exclude_engaged=True, exclude=unwanted, k=40, **candidates) == expected
    assert best(caller, exclude=IDS, **candidates) == []


def test_the_binary_form_leaves_out_what_the_user_engaged(caller: httpx.Client) -> None:
    ids = b"".join(i.to_bytes(8, "little") for i in [*ENGAGED, 1001])
    fields = {"user_id": "ann", "query": "red shoe", "exclude_engaged": "true"}
    kind = {"Content-Type": "application/octet-stream"}
    answer = caller.post("/v1/prerank", params=fields, content=ids, headers=kind)
    assert [item["id"] for item in answer.raise_for_status().json()["items"]] == [1001]


@pytest.mark.parametrize(
    ("limits", "changes", "field", "status"),
    [
        (replace(SAMPLE, max_candidates=29), {}, "candidates", 413),
        (STRINGS, {}, "candidates", 400),
        (SAMPLE, {"candidates": None}, "candidates", 400),
        (SAMPLE, {"retriever_scores": [1.0]}, "retriever_scores", 400),
        (SAMPLE, {"exclude": 7}, "exclude", 400),
        (SAMPLE, {"exclude": ["x"]}, "exclude", 400),
        (SAMPLE, {"exclude": [1] * 201}, "exclude", 413),
        (SAMPLE, {"exclude_engaged": 1}, "exclude_engaged", 400),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(
    limits: Limits, changes: dict[str, Any], field: str, status: int
) -> None:
    with client(limits) as caller:
        answer = caller.post("/v1/prerank", json=BODY | changes)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text

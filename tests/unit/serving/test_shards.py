"""A shard that does not answer is left out of the answer, and said to be."""

from __future__ import annotations

from dataclasses import replace

import httpx
import numpy as np
import pytest
from tests.http_calls import api_of, client_of
from tests.local_shards import Ask, parts_of, shards_of
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from prerank.serving.shard import NotLoadedError, Part, Task

SHARDS = 3
IDS = list(range(1000, 1030))
BODY = {"user_id": "ann", "query": "red shoe", "k": 40}


def fails(error: Exception) -> Ask:
    def ask(task: Task) -> Part:
        raise error

    return ask


def client(asks: list[Ask]) -> httpx.Client:
    engine = SmallEngine(SAMPLE, sample_scorer())
    engine.loaded = replace(engine.loaded, shards=shards_of(asks))
    return client_of(api_of(engine))


def asks() -> list[Ask]:
    return parts_of(sample_scorer(), SHARDS)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TimeoutError(), "late"),
        (NotLoadedError("shard 1 has not loaded model version 2"), "version"),
        (ConnectionError("the process died"), "failed"),
    ],
)
@pytest.mark.parametrize("body", [{}, {"candidates": IDS}])
def test_the_answer_names_the_share_that_is_missing_and_why(
    error: Exception, cause: str, body: dict[str, object]
) -> None:
    with client(asks()) as caller:
        whole = caller.post("/v1/prerank", json=BODY | body).raise_for_status().json()
    with client([asks()[0], fails(error), asks()[2]]) as caller:
        found = caller.post("/v1/prerank", json=BODY | body).raise_for_status().json()
    assert "missing_shards" not in whole
    assert (whole["degraded"], found["degraded"]) == ([], ["shards"])
    assert found["missing_shards"] == [
        {"shard": 1, "cause": cause, "share": pytest.approx(1 / SHARDS)}
    ]
    theirs = [item for item in whole["items"] if IDS.index(item["id"]) % SHARDS != 1]
    assert found["items"] == theirs
    assert found["unknown_ids"] == []


def test_a_shard_without_candidates_is_not_asked() -> None:
    with client([asks()[0], fails(ConnectionError()), asks()[2]]) as caller:
        found = caller.post("/v1/prerank", json=BODY | {"candidates": [1000, 1002, 7]}).json()
    assert sorted(item["id"] for item in found["items"]) == [7, 1000, 1002]
    assert (found["degraded"], found["unknown_ids"]) == ([], [7])


def test_where_no_shard_answers_the_request_is_refused() -> None:
    with client([fails(TimeoutError())] * SHARDS) as caller:
        found = caller.post("/v1/prerank", json=BODY)
    assert found.status_code == 503
    assert "no shard of the index answered (late)" in found.json()["detail"]


def test_a_document_of_a_missing_shard_comes_last_behind_one_that_is_unknown() -> None:
    body = {"query": "red shoe", "documents": ["1000", "1001", "1002", "7"]}
    with client([asks()[0], fails(TimeoutError()), asks()[2]]) as caller:
        found = caller.post("/v1/rerank", json=body).raise_for_status().json()
    assert sorted(result["index"] for result in found["results"][:3]) == [0, 2, 3]
    assert min(result["relevance_score"] for result in found["results"][:3]) > 0
    assert found["results"][3] == {"index": 1, "relevance_score": 0.0}
    assert found["meta"]["unknown"] == ["7"]
    assert found["meta"]["degraded"] == ["shards"]


def test_each_shard_holds_its_own_items_alone() -> None:
    scorer = sample_scorer()
    parts = [scorer.part(slice(shard, None, SHARDS)) for shard in range(SHARDS)]
    assert sorted(np.concatenate([part.items.ids for part in parts]).tolist()) == IDS
    for part in parts:
        assert len(part.vectors) == len(part.created) == len(part.items.ids) == len(IDS) / SHARDS
        assert part.vectors.untyped_storage().nbytes() == part.vectors.nbytes

"""Many requests at once are answered as each alone, in batches that a deployment takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.http_servers import Served, kinds

from prerank import Client, RankRequest
from prerank.client.batches import batches
from prerank.client.errors import RefusedError

Ask = Callable[..., Any]
SEARCH: dict[str, Any] = {"user_id": "ann", "query": "red shoe"}


def test_many_requests_are_answered_as_each_alone(
    deployment: Served, client: Client, ask: Ask
) -> None:
    rng = np.random.default_rng(0)
    requests = [
        RankRequest(
            user_id=f"u{at}",
            query=["red shoe", "blue bag"][at % 2],
            candidates=rng.permutation(np.arange(996, 1030))[: at * 3],
            k=at + 1,
            context={"country": "de", "device": None} if at % 3 else None,
            retriever_scores=rng.normal(size=at * 3) if at % 2 else None,
            retriever_ranks=[None, *range(at * 3 - 1)] if at > 3 else None,
            candidate_features={"offer": [None, *range(at * 3 - 1)]} if at % 5 == 4 else None,
        )
        for at in range(12)
    ]
    kinds(deployment)
    found = ask(deployment.url, "rank_many", requests)
    # 198 candidates: as many as the deployment takes.
    assert len(kinds(deployment)) == 1
    for request, ranking in zip(requests, found, strict=True):
        alone = client.rank(request)
        assert ranking.request_id == request.request_id
        assert ranking.ids.tolist() == alone.ids.tolist()
        np.testing.assert_allclose(ranking.scores, alone.scores, rtol=0, atol=1e-6)
        assert ranking.unknown_ids.tolist() == alone.unknown_ids.tolist()
        assert (ranking.ids.dtype, ranking.scores.dtype) == (np.int64, np.float32)


def test_a_batch_that_is_too_large_is_halved_until_it_is_taken(
    deployment: Served, ask: Ask
) -> None:
    requests = [
        RankRequest(user_id="u", query="red", candidates=range(1000, 1030), request_id=f"r{at}")
        for at in range(9)
    ]
    found = ask(deployment.url, "rank_many", requests)
    assert [ranking.request_id for ranking in found] == [f"r{at}" for at in range(9)]
    assert all(len(ranking.ids) == 30 for ranking in found)
    bad = RankRequest(user_id="u", query=" ", candidates=[1000])
    with pytest.raises(RefusedError) as caught:
        ask(deployment.url, "rank_many", [*requests, bad])
    assert caught.value.problem.field == "rows[9].query"
    huge = RankRequest(user_id="u", query="red", candidates=range(300))
    with pytest.raises(RefusedError) as caught:
        ask(deployment.url, "rank_many", [*requests, huge])
    assert caught.value.problem.status == 413


def test_batches_are_as_large_as_a_deployment_takes() -> None:
    def sizes(n: int, candidates: Any) -> list[tuple[int, int]]:
        request = RankRequest(**SEARCH, candidates=candidates)
        return [(batch.first, len(batch.requests)) for batch in batches([request] * n)]

    assert sizes(2001, []) == [(0, 1000), (1000, 1000), (2000, 1)]
    assert sizes(5, np.arange(100_000)) == [(0, 2), (2, 2), (4, 1)]
    assert sizes(2, np.arange(250_000)) == [(0, 1), (1, 1)]
    assert sizes(0, []) == []
    assert sizes(3, ["ü" * 150] * 30_000) == [(0, 2), (2, 1)]


def test_a_batch_of_texts(texts: Served, ask: Ask) -> None:
    requests = [RankRequest(**SEARCH, candidates=ids) for ids in (["b/ü", "a", "x"], [])]
    one, none = ask(texts.url, "rank_many", requests)
    (empty,) = ask(texts.url, "rank_many", requests[1:])
    assert one.ids.tolist() == ["a", "b/ü", "x"]
    assert one.unknown_ids.tolist() == ["x"]
    assert len(none.ids) == len(empty.ids) == 0
    assert ask(texts.url, "rank_many", []) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weights": {"engagement": 1.0}}, "rows[1].weights"),
        ({"explain": True}, "rows[1].explain"),
        ({"timeout_ms": 5.0}, "rows[1].timeout_ms"),
        ({"exclude": [1, 2]}, "rows[1].exclude"),
        ({"exclude_engaged": True}, "rows[1].exclude_engaged"),
        ({"candidates": None}, "rows[1].candidates"),
        ({"candidates": [1, "a"]}, "rows[1].candidates"),
        ({"candidates": ["a"]}, "candidates"),
        ({"retriever_scores": [1.0, 2.0]}, "rows[1].retriever_scores"),
        ({"candidate_features": {"a": [1.0, 2.0]}}, "rows[1].candidate_features.a"),
        ({"query": "\ud800"}, "rows"),
        ({"k": "many"}, "rows"),
    ],
)
def test_what_a_batch_cannot_hold_is_refused_by_its_place(
    scores: Served, change: dict[str, Any], field: str
) -> None:
    good = SEARCH | {"candidates": [1]}
    kinds(scores)
    with Client(scores.url) as client, pytest.raises(RefusedError) as caught:
        client.rank_many([RankRequest(**good), RankRequest(**good | change)])
    assert caught.value.problem.field == field
    assert kinds(scores) == []

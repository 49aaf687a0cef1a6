"""The client's requests, answers and limits are those that a deployment declares."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel

from prerank.client import answers, batches, encoding, query_parts, requests
from prerank.serving import answer_models, request_models, rerank, routes
from prerank.serving import batch as serving_batch
from prerank.serving.api import MAX_EVENTS
from prerank.serving.config import ServeConfig
from prerank.serving.lane import MAX_BODY


def names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


@pytest.mark.parametrize(
    ("kind", "model", "left_out"),
    [
        (requests.RankRequest, request_models.PrerankBody, set()),
        (requests.QueryRequest, request_models.QueryBody, set()),
        # The documents are the caller's own: their places in the list say which is which.
        (
            requests.RerankRequest,
            request_models.RerankBody,
            {*rerank.IGNORED, "return_documents"},
        ),
        (requests.Event, request_models.EventBody, set()),
        (answers.Item, answer_models.Item, set()),
        (answers.Accepted, answer_models.EventsAnswer, set()),
        (answers.Health, answer_models.Health, set()),
        (query_parts.QueryParts, answer_models.QueryAnswer, set()),
        (query_parts.AgeWeights, answer_models.OtherItems, set()),
        (answers.MissingShard, answer_models.MissingShard, set()),
    ],
)
def test_every_declared_field_has_its_place(
    kind: Any, model: type[BaseModel], left_out: set[str]
) -> None:
    assert names(kind) == set(model.model_fields) - left_out


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        (requests.RankRequest, request_models.PrerankBody),
        (requests.QueryRequest, request_models.QueryBody),
        (requests.RerankRequest, request_models.RerankBody),
        (requests.Event, request_models.EventBody),
    ],
)
def test_what_is_needed_and_what_is_assumed_is_the_same(kind: Any, model: type[BaseModel]) -> None:
    for field in fields(kind):
        declared = model.model_fields[field.name]
        needed = field.default is MISSING and field.default_factory is MISSING
        assert needed == declared.is_required(), field.name
        if field.default is not MISSING:
            assert field.default == declared.default, field.name


def test_every_column_of_a_batch_is_known_to_the_deployment() -> None:
    one = requests.RankRequest(
        user_id="u",
        query="q",
        candidates=[1],
        retriever_scores=[1.0],
        retriever_ranks=[0],
        candidate_features={"price": [2.5]},
    )
    (batch,) = batches.batches([one])
    columns = pa.ipc.open_stream(batch.call().content).schema.names
    assert set(columns) == set(serving_batch.TYPES)


def test_limits_and_media_types_are_the_deployments() -> None:
    assert (encoding.JSON, encoding.RAW, encoding.ARROW) == (routes.JSON, routes.RAW, routes.ARROW)
    assert requests.MAX_EVENTS == MAX_EVENTS
    assert requests.MAX_EVENT_BYTES < MAX_BODY
    assert batches.MAX_REQUESTS == serving_batch.MAX_REQUESTS
    assert ServeConfig().max_candidates == batches.MAX_CANDIDATES

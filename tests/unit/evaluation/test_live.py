"""Asking a deployment: what it refuses is told in its own words. No Ray, no socket."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from tests.api_bodies import WALL
from tests.http_calls import URL, NoEngine, api_of, client_of, token_file

from prerank.core.errors import NotReadyError, PrerankError
from prerank.core.tokens import TOKEN_ENV
from prerank.evaluation.live import Asked, ask

SEARCHES = pa.table({"query": ["red"], "user_id": ["u"]})
IDS = np.array([3, 1], np.int64)


def asked(client: httpx.Client) -> list[Asked]:
    return ask(client, SEARCHES, [(IDS, None)], (), 0)


def test_a_deployment_that_asks_for_a_token_says_where_it_is_taken_from(tmp_path: Path) -> None:
    api = api_of(NoEngine(WALL), token_file=token_file(tmp_path, "s3cret-s3cret"))
    with client_of(api) as client:
        with pytest.raises(PrerankError, match=rf"answered 401: Authorization: .*{TOKEN_ENV}"):
            asked(client)
        client.headers["Authorization"] = "Bearer s3cret-s3cret"
        (found,) = asked(client)
    assert found.answer == {"items": [{"id": 3}, {"id": 1}]}


def test_a_deployment_that_is_called_by_another_name_says_so() -> None:
    with client_of(api_of(NoEngine(WALL))) as client:
        client.headers["Host"] = "rank.example"
        with pytest.raises(PrerankError, match=r"answered 421: .*allowed_hosts"):
            asked(client)


def test_what_does_not_answer_is_not_ready() -> None:
    for answer in (httpx.Response(503, text="no champion"), httpx.Response(200, text="a page")):
        transport = httpx.MockTransport(lambda _, answer=answer: answer)
        with (
            httpx.Client(transport=transport, base_url=URL) as client,
            pytest.raises(NotReadyError),
        ):
            asked(client)

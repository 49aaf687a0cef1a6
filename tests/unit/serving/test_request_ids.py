"""The id of a request: from its body, its header or made, and wherever an answer names it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pyarrow as pa
import pytest
from starlette.responses import Response
from tests.api_bodies import NOW
from tests.http_calls import LOCAL, api_of, call, whole
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from prerank.serving.http import HttpApi
from prerank.serving.request_ids import as_header
from prerank.serving.routes import ARROW, RAW

ASKED = {"user_id": "u", "query": "red shoe"}
RANKING = ASKED | {"candidates": [1000], "k": 1}
BODIES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], str]]] = {
    "/v1/prerank": (RANKING, lambda answer: answer["request_id"]),
    "/v1/rerank": (ASKED | {"documents": ["1000"]}, lambda answer: answer["id"]),
    "/v1/query": (ASKED, lambda answer: answer["request_id"]),
}
ROUTE = pytest.mark.parametrize("path", BODIES)


@pytest.fixture(scope="module")
def api() -> HttpApi:
    return api_of(SmallEngine(SAMPLE, sample_scorer()))


def send(api: HttpApi, path: str, body: Any = None, **headers: str) -> Response:
    given = LOCAL | {name.replace("_", "-"): value for name, value in headers.items()}
    chunks = None if body is None else whole(orjson.dumps(body))
    return asyncio.run(call(api, path, chunks, given))


@ROUTE
def test_the_bodys_id_goes_before_the_headers_and_that_before_a_new_one(
    api: HttpApi, path: str
) -> None:
    body, id_of = BODIES[path]
    for named, header, expected in (("b7", "h7", "b7"), (None, "h7", "h7"), ("b7", None, "b7")):
        sent = body | ({"request_id": named} if named else {})
        answer = send(api, path, sent, **({"X_Request_Id": header} if header else {}))
        assert answer.status_code == 200
        assert id_of(orjson.loads(answer.body)) == expected
        assert answer.headers["X-Request-Id"] == expected
    new = [send(api, path, body) for _ in range(2)]
    ids = [answer.headers["X-Request-Id"] for answer in new]
    assert ids == [id_of(orjson.loads(answer.body)) for answer in new]
    assert ids[0] != ids[1]


@ROUTE
def test_a_refusal_names_the_request(api: HttpApi, path: str) -> None:
    body, _ = BODIES[path]
    wrong = (body | {"colour": "red"}, body | {"query": ""}, body | {"timeout_ms": 0})
    for each in wrong:
        answer = send(api, path, each | {"request_id": "b7"}, X_Request_Id="h7")
        assert answer.status_code == 400
        assert orjson.loads(answer.body)["request_id"] == "b7"
        assert answer.headers["X-Request-Id"] == "b7"
    for change in ({"Content_Type": "text/plain"}, {"Host": "evil.example"}):
        answer = send(api, path, body, X_Request_Id="h7", **change)
        assert orjson.loads(answer.body)["request_id"] == "h7"
        assert answer.headers["X-Request-Id"] == "h7"


@pytest.mark.parametrize("path", ["/ready", "/docs", "/openapi.json", "/v1/items/1000", "/v3"])
def test_every_answer_has_the_header(api: HttpApi, path: str) -> None:
    assert send(api, path, X_Request_Id="h7").headers["X-Request-Id"] == "h7"
    assert send(api, path).headers["X-Request-Id"]


def test_events_and_the_binary_form_have_it_too(api: HttpApi) -> None:
    event = {"user_id": "u", "item_id": 1, "action": SAMPLE.schema.actions[0], "event_time": NOW}
    answer = send(api, "/v1/events", {"events": [event]}, X_Request_Id="h7")
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (200, "h7")
    headers = LOCAL | {"Content-Type": RAW, "X-Request-Id": "h7"}
    raw = (1000).to_bytes(8, "little")
    for query, expected in ((b"", "h7"), (b"&request_id=b7", "b7")):
        asked = call(api, "/v1/prerank", whole(raw), headers, query=b"user_id=u&query=red" + query)
        answer = asyncio.run(asked)
        assert orjson.loads(answer.body)["request_id"] == expected
        assert answer.headers["X-Request-Id"] == expected


def test_the_rows_of_a_batch_have_ids_of_their_own(api: HttpApi) -> None:
    table = pa.table(
        {
            "user_id": ["u"] * 3,
            "query": ["q"] * 3,
            "candidates": [[1000]] * 3,
            "request_id": ["r1", None, None],
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    headers = LOCAL | {"Content-Type": ARROW, "X-Request-Id": "h7"}
    body = whole(sink.getvalue().to_pybytes())
    answer = asyncio.run(call(api, "/v1/prerank", body, headers))
    ids = pa.ipc.open_stream(bytes(answer.body)).read_all()["request_id"].to_pylist()
    assert ids[0] == "r1"
    assert len({*ids, "h7"}) == 4
    assert answer.headers["X-Request-Id"] == "h7"


@pytest.mark.parametrize("header", ["", "x" * 513, "two\tcolumns"])
def test_a_header_that_is_no_id_is_not_taken(api: HttpApi, header: str) -> None:
    answer = send(api, "/v1/prerank", RANKING, X_Request_Id=header)
    assert answer.status_code == 200
    assert answer.headers["X-Request-Id"] != header
    assert len(answer.headers["X-Request-Id"]) == 32


@pytest.mark.parametrize("id", ["a\r\nSet-Cookie: b=c", "schlüssel", " r7", "r7 ", "日本"])
def test_an_id_that_no_header_can_carry_is_encoded(api: HttpApi, id: str) -> None:
    answer = send(api, "/v1/prerank", RANKING | {"request_id": id})
    assert orjson.loads(answer.body)["request_id"] == id
    header = answer.headers["X-Request-Id"]
    assert header.isascii()
    assert header.isprintable()
    assert header.strip() == header == as_header(id)
    assert "Set-Cookie" not in answer.headers


def test_an_id_is_a_header_as_it_is_where_it_can_be() -> None:
    for id in ("8f0c", "a b", "50%25", "x/y?z=1"):
        assert as_header(id) == id

"""Many requests as one Arrow stream: each is the request that JSON would have sent."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from starlette.responses import Response
from tests.api_bodies import NOW, PRICED, REPLAY, SEGMENTED, STRINGS, WALL
from tests.http_calls import LOCAL, api_of, call, whole
from tests.small_engine import SAMPLE, GivenScores, SmallEngine, sample_scorer

from prerank.serving.api import Limits, RequestError, parse_json
from prerank.serving.batch import MAX_REQUESTS, TYPES, Batch, parse_batch
from prerank.serving.routes import ARROW

SCORES = {1: 2.0, 2: -1.0, 3: 0.5, 2**60: 9.0}
GOOD: dict[str, Any] = {
    "user_id": ["ann", "bob"],
    "query": [" Red  SHOES ", "blue"],
    "candidates": [[3, 1, 3, 2], [2, 9]],
}
AT = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
INTS, TEXTS, FLOATS = pa.list_(pa.int64()), pa.list_(pa.utf8()), pa.list_(pa.float32())


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    chosen = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, table.schema, options=chosen) as writer:
        writer.write_table(table, max_chunksize=1)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def parsed(limits: Limits = WALL, **columns: Any) -> Batch:
    return parse_batch(stream(pa.table({**GOOD, **columns})), limits, NOW)


def refused(limits: Limits = WALL, **columns: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parsed(limits, **columns)
    return caught.value


def sent(body: bytes, engine: SmallEngine) -> Response:
    return asyncio.run(
        call(api_of(engine), "/v1/prerank", whole(body), LOCAL | {"Content-Type": ARROW})
    )


def rows(answer: Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.body
    assert answer.media_type == ARROW
    found: list[dict[str, Any]] = pa.ipc.open_stream(bytes(answer.body)).read_all().to_pylist()
    return found


def test_a_batch_is_answered_row_by_row() -> None:
    table = pa.table({**GOOD, "request_id": ["a", "b"], "k": [2, 1]})
    assert rows(sent(stream(table), SmallEngine(WALL, GivenScores(SCORES)))) == [
        {
            "request_id": "a",
            "items": [1, 3],
            "scores": [2.0, 0.5],
            "unknown_ids": [],
            "degraded": [],
            "model_version": "1",
        },
        {
            "request_id": "b",
            "items": [2],
            "scores": [-1.0],
            "unknown_ids": [9],
            "degraded": [],
            "model_version": "1",
        },
    ]


def test_a_row_is_what_json_says() -> None:
    engine = SmallEngine(SAMPLE, sample_scorer())
    candidates = [[1000, 1001, 1002], [1003, 5]]
    scores, ranks = [[0.5, None, 2.0], [None, 1.0]], [[0, 1, None], [3, 4]]
    context = [{"country": "de", "device": None}, {"country": None, "device": "tv"}]
    table = pa.table(
        {
            "user_id": ["ann", "bob"],
            "query": ["red shoe", "blue bag"],
            "candidates": pa.array(candidates, INTS),
            "retriever_scores": pa.array(scores, FLOATS),
            "retriever_ranks": pa.array(ranks, INTS),
            "context": context,
        }
    )
    found = rows(sent(stream(table), engine))
    for at, row in enumerate(found):
        body = {name: table[name][at].as_py() for name in table.column_names}
        single = asyncio.run(call(api_of(engine), "/v1/prerank", whole(orjson.dumps(body))))
        told = orjson.loads(single.body)
        assert row["items"] == [item["id"] for item in told["items"]]
        np.testing.assert_allclose(row["scores"], [item["score"] for item in told["items"]])
        assert row["unknown_ids"] == told["unknown_ids"]


PRICES: list[dict[str, Any]] = [
    {"price": [1.5, None, 9.0, 2.0], "d.km": None},
    {"price": None, "d.km": [3.0, 4.0]},
]


@pytest.mark.parametrize(
    "kind",
    [
        pa.map_(pa.utf8(), FLOATS),
        pa.map_(pa.large_utf8(), pa.large_list(pa.int32())),
        pa.struct([("price", pa.list_(pa.float64())), ("d.km", INTS)]),
    ],
    ids=["map", "map of integers", "struct"],
)
def test_candidate_features_are_what_json_says(kind: pa.DataType) -> None:
    given: list[Any] = [{k: v for k, v in row.items() if v is not None} for row in PRICES]
    if pa.types.is_map(kind):
        whole_numbers = pa.types.is_integer(kind.item_type.value_type)
        given[0]["price"] = [1, None, 9, 2] if whole_numbers else given[0]["price"]
        given = [list(row.items()) for row in given]
    column = pa.array(given, kind)
    batch = parsed(PRICED, candidate_features=column)
    for at, request in enumerate(batch.requests):
        own = dict(given[at])
        body = {name: GOOD[name][at] for name in GOOD} | {"candidate_features": own}
        json = parse_json(orjson.dumps(body), PRICED, NOW)
        assert json.retriever_features is not None
        np.testing.assert_array_equal(request.retriever_features, json.retriever_features)
    nothing = parsed(PRICED, candidate_features=pa.array([None, None], kind))
    assert [r.retriever_features for r in nothing.requests] == [None, None]


@pytest.mark.parametrize(
    ("limits", "values", "field"),
    [
        (PRICED, [[("colour", [1.0] * 4)], []], "rows[0].candidate_features.colour"),
        (PRICED, [[], [("price", [1.0])]], "rows[1].candidate_features.price"),
        (PRICED, [[], [("price", [1.0, np.inf])]], "rows[1].candidate_features.price"),
        (WALL, [[("price", [1.0] * 4)], []], "rows[0].candidate_features.price"),
    ],
)
def test_wrong_candidate_features_of_a_row_are_named(
    limits: Limits, values: list[Any], field: str
) -> None:
    error = refused(limits, candidate_features=pa.array(values, pa.map_(pa.utf8(), FLOATS)))
    assert error.field == field


@pytest.mark.parametrize(
    "column", [[[1.0], [2.0]], [{"price": ["a"]}, None], [{"price": 1.0}, None]]
)
def test_a_column_of_candidate_features_has_its_type(column: list[Any]) -> None:
    assert refused(PRICED, candidate_features=pa.array(column)).field == "candidate_features"


def test_ids_come_back_in_the_columns_type_and_lose_no_digit() -> None:
    engine = SmallEngine(WALL, GivenScores(SCORES))
    for kind, ids in ((INTS, [2**60, 9]), (TEXTS, [str(2**60), "9"])):
        table = pa.table({"user_id": ["u"], "query": ["q"], "candidates": pa.array([ids], kind)})
        answer = sent(stream(table), engine)
        assert pa.ipc.open_stream(bytes(answer.body)).schema.field("items").type == kind
        (row,) = rows(answer)
        assert (row["items"], row["unknown_ids"]) == (ids, ids[1:])


def test_text_ids_are_items_as_they_stand() -> None:
    batch = parsed(STRINGS, candidates=[["b", "a", "b"], []])
    assert batch.requests[0].shown(batch.requests[0].keys) == ["b", "a"]
    assert batch.requests[1].keys.tolist() == []
    assert "list<utf8>" in refused(STRINGS).message


@pytest.mark.parametrize(
    ("column", "values", "read", "expected"),
    [
        ("k", pa.array([5, None], pa.int32()), "k", [5, 100]),
        ("request_id", ["a", "b"], "request_id", ["a", "b"]),
        ("user_id", pa.array(["ann", "bob"], pa.large_utf8()), "user_id", ["ann", "bob"]),
        ("candidates", pa.array([[3], [2]], pa.large_list(pa.int64())), "keys", [[3], [2]]),
    ],
)
def test_columns_are_read_into_requests(
    column: str, values: Any, read: str, expected: list[Any]
) -> None:
    found = [getattr(request, read) for request in parsed(**{column: values}).requests]
    assert [v.tolist() if isinstance(v, np.ndarray) else v for v in found] == expected


@pytest.mark.parametrize(
    "times",
    [
        pa.array([AT, AT], pa.timestamp("us", "UTC")),
        pa.array([AT, AT], pa.timestamp("ns", "UTC")),
        pa.array([AT.replace(tzinfo=None)] * 2, pa.timestamp("s")),
        pa.array([NOW, NOW]),
        pa.array([AT.isoformat()] * 2),
    ],
    ids=lambda values: str(values.type),
)
def test_a_time_is_a_timestamp_microseconds_or_iso(times: pa.Array) -> None:
    assert [r.time_us for r in parsed(REPLAY, time=times).requests] == [NOW, NOW]
    assert refused(REPLAY).field == "rows[0].time"


@pytest.mark.parametrize(
    "context",
    [
        pa.array([[("country", "DE")], None], pa.map_(pa.utf8(), pa.utf8())),
        pa.array([{"country": "DE"}, None]),
    ],
    ids=["map", "struct"],
)
def test_a_context_is_a_map_or_a_struct(context: pa.Array) -> None:
    first, second = parsed(SEGMENTED, context=context).requests
    assert first.context == {"country": "DE", "device": ""}
    assert second.context == {"country": "", "device": ""}


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"user_id": ["ann", None]}, "rows[1].user_id"),
        ({"user_id": ["ann", ""]}, "rows[1].user_id"),
        ({"query": ["red", " "]}, "rows[1].query"),
        ({"query": ["x" * 1001, "red"]}, "rows[0].query"),
        ({"candidates": [[1], None]}, "rows[1].candidates"),
        ({"candidates": [[1], [None]]}, "rows[1].candidates"),
        ({"candidates": [["1"], ["one"]]}, "rows[1].candidates"),
        ({"k": [1, 0]}, "rows[1].k"),
        ({"k": [1, 10_001]}, "rows[1].k"),
        ({"request_id": ["a", "x" * 513]}, "rows[1].request_id"),
        ({"time": [None, NOW]}, "rows[1].time"),
        ({"context": [{"planet": "x"}, None]}, "rows[0].context.planet"),
        ({"retriever_scores": [[1.0], [1.0]]}, "rows[0].retriever_scores"),
    ],
)
def test_a_bad_row_is_named_with_its_field(columns: dict[str, Any], field: str) -> None:
    assert refused(**columns).field == field


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"colour": ["red", "blue"]}, "colour"),
        ({"user_id": [1, 2]}, "user_id"),
        ({"candidates": [1, 2]}, "candidates"),
        ({"candidates": pa.array([[1], [2]], pa.list_(pa.int32()))}, "candidates"),
        ({"candidates": [[1.5], [2.5]]}, "candidates"),
        ({"k": ["1", "2"]}, "k"),
        ({"query": pa.array(["red", "red"]).dictionary_encode()}, "query"),
        ({"context": ["DE", "DE"]}, "context"),
        ({"time": [1.5, 2.5]}, "time"),
    ],
)
def test_a_column_that_is_unknown_or_of_another_type_is_named(
    columns: dict[str, Any], field: str
) -> None:
    error = refused(**columns)
    assert (error.status, error.field) == (400, field)


@pytest.mark.parametrize("name", ["user_id", "query", "candidates"])
def test_a_column_that_is_missing_is_named_with_its_type(name: str) -> None:
    table = pa.table({k: v for k, v in GOOD.items() if k != name})
    with pytest.raises(RequestError, match="missing") as caught:
        parse_batch(stream(table), WALL, NOW)
    assert caught.value.field == name
    assert TYPES[name][0] in caught.value.message


def test_nothing_of_a_batch_with_a_bad_row_is_scored() -> None:
    engine = SmallEngine(WALL, GivenScores(SCORES))
    table = pa.table({**GOOD, "user_id": ["ann", None]})
    assert sent(stream(table), engine).status_code == 400
    assert engine.store.users == []


def test_candidates_of_a_batch_have_the_limit_of_a_request_together() -> None:
    assert len(parsed(candidates=[[1] * 5, [2] * 5]).requests) == 2
    error = refused(candidates=[[1] * 5, [2] * 6])
    assert (error.status, error.field) == (413, "candidates")


def test_requests_of_a_batch_have_a_limit() -> None:
    def of(n: int) -> pa.Table:
        text, none = pa.array(["x"] * n, pa.utf8()), pa.array([[]] * n, INTS)
        return pa.table({"user_id": text, "query": text, "candidates": none})

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, of(1).schema) as writer:
        writer.write_table(of(MAX_REQUESTS + 1))
    for body in (stream(of(MAX_REQUESTS + 1)), sink.getvalue().to_pybytes()):
        with pytest.raises(RequestError) as caught:
            parse_batch(body, WALL, NOW)
        assert caught.value.status == 413
    assert len(parse_batch(stream(of(3)), WALL, NOW).requests) == 3
    assert parse_batch(stream(of(0)), WALL, NOW).requests == []


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_stream_is_not_unpacked(codec: str) -> None:
    body = stream(pa.table(GOOD), compression=codec)
    with pytest.raises(RequestError, match="compressed"):
        parse_batch(body, WALL, NOW)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\xff\xff\xff\xff" * 10, stream(pa.table(GOOD))[:-40]]
)
def test_what_is_no_stream_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_batch(body, WALL, NOW)
    assert caught.value.field == "body"


def test_a_damaged_stream_is_read_or_refused() -> None:
    whole_one = stream(pa.table({**GOOD, "k": [1, 2]}))
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole_one)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        # Any other exception would be a 500.
        with contextlib.suppress(RequestError):
            parse_batch(bytes(damaged), WALL, NOW)


def test_a_batch_is_of_one_model_version() -> None:
    class Changes(SmallEngine):
        """Serves another version after the first request."""

        def answer(self, request: Any) -> Any:
            self._limits = dataclasses.replace(self._limits)
            return super().answer(request)

    answer = sent(stream(pa.table(GOOD)), Changes(WALL, GivenScores(SCORES)))
    assert answer.status_code == 503
    assert "send it again" in orjson.loads(answer.body)["detail"]


def test_a_batch_lets_other_requests_take_their_turns() -> None:
    async def main() -> list[str]:
        n = 50
        engine = SmallEngine(dataclasses.replace(WALL, max_candidates=n), GivenScores(SCORES))
        api = api_of(engine)
        one = pa.array([[1]] * n, INTS)
        table = pa.table({"user_id": ["batch"] * n, "query": ["q"] * n, "candidates": one})
        headers = LOCAL | {"Content-Type": ARROW}
        first = asyncio.create_task(call(api, "/v1/prerank", whole(stream(table)), headers))
        while not engine.store.users and not first.done():
            await asyncio.sleep(0)
        body = orjson.dumps({"user_id": "single", "query": "q", "candidates": [1]})
        assert (await call(api, "/v1/prerank", whole(body))).status_code == 200
        assert not first.done()
        assert (await first).status_code == 200
        return engine.store.users

    users = asyncio.run(main())
    assert users.count("batch") == 50
    assert users.index("single") < 49


def test_the_same_request_by_json_and_by_arrow() -> None:
    batch = parsed(candidates=[[3, 1, 3], [2]])
    body = {"user_id": "ann", "query": " Red  SHOES ", "candidates": [3, 1, 3]}
    one, other = batch.requests[0], parse_json(orjson.dumps(body), WALL, NOW)
    for field in dataclasses.fields(one):
        if field.name not in ("request_id", "arrived"):
            np.testing.assert_equal(getattr(one, field.name), getattr(other, field.name))

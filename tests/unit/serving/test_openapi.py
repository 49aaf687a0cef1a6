"""The OpenAPI document says what the parsers do: what it allows is read, its limits are theirs."""

from __future__ import annotations

import ast
import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from fastapi.openapi.models import OpenAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from starlette.responses import Response
from tests.api_bodies import NOW
from tests.http_calls import LOCAL, NoEngine, api_of, call, endless, whole
from tests.json_schemas import values
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from prerank.core.errors import NotReadyError
from prerank.core.ids import ItemIds
from prerank.core.tokens import TOKEN_ENV
from prerank.serving import answer_models as models
from prerank.serving.api import Limits, RequestError, parse_events, parse_json, parse_raw
from prerank.serving.config import ServeConfig
from prerank.serving.lane import MAX_BODY
from prerank.serving.openapi import document
from prerank.serving.problems import PROBLEM
from prerank.serving.query import parse_query
from prerank.serving.rerank import parse_rerank
from prerank.serving.routes import ARROW, JSON, RAW, ROUTES, Route

CONFIG = ServeConfig(max_candidates=7, max_k=50, max_explained=20, max_waiting=1, body_seconds=0.05)
LIMITS = replace(
    SAMPLE,
    replay=True,
    max_candidates=CONFIG.max_candidates,
    max_k=CONFIG.max_k,
    max_explained=CONFIG.max_explained,
)
TEXT_IDS = replace(LIMITS, ids=ItemIds("string", 7))
DOCUMENT = document(ROUTES, CONFIG)
SCHEMAS: Mapping[str, Any] = DOCUMENT["components"]["schemas"]
QUICK = settings(max_examples=20)
OPERATIONS = pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")


def as_integer(id: Any) -> int:
    return id if isinstance(id, int) else zlib.crc32(id.encode())


def as_digits(id: Any) -> str:
    return str(as_integer(id))


IDS = pytest.mark.parametrize(
    ("limits", "as_id"),
    [(LIMITS, as_integer), (LIMITS, as_digits), (TEXT_IDS, str)],
    ids=["integers", "digits", "texts"],
)


def of_the_log(body: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """``body`` with the names of this log, which no schema can know, and a time, as it replays."""
    found = {"time": NOW} | {k: v for k, v in body.items() if (k, v) != ("time", None)}
    for field, names in (("context", limits.schema.segments), ("weights", limits.schema.heads)):
        if given := found.pop(field, None):
            found[field] = dict(zip(names, given.values(), strict=False))
    if "weights" in found and not sum(found["weights"].values()):
        del found["weights"]
    return found


def name_features(body: dict[str, Any], candidates: list[Any], limits: Limits) -> None:
    """Give the candidate features of ``body`` the names of this log, and a value per candidate."""

    def named(given: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(limits.schema.candidate_features, given.values(), strict=False))

    own = [c for c in candidates if isinstance(c, dict) and "features" in c]
    for candidate in own:
        candidate["features"] = candidate["features"] and named(candidate["features"])
    lists, n = body.pop("candidate_features", None), len(candidates)
    if lists and not own:
        body["candidate_features"] = {
            name: None if values is None else (values + [None] * n)[:n]
            for name, values in named(lists).items()
        }


@QUICK
@given(st.data())
@IDS
def test_what_is_declared_as_a_ranking_is_read(
    limits: Limits, as_id: Callable[[Any], int | str], data: st.DataObject
) -> None:
    body = of_the_log(data.draw(values(SCHEMAS["PrerankBody"], SCHEMAS)), limits)
    if limits.ids.kind == "string":
        body.setdefault("candidates", [])
    for field in ("candidates", "exclude"):
        if body.get(field) is not None:
            body[field] = [
                c | {"id": as_id(c["id"])} if isinstance(c, dict) else as_id(c) for c in body[field]
            ]
    candidates = body.get("candidates", [])
    n = len(candidates)
    for name in ("score", "rank"):
        field = f"retriever_{name}s"
        if any(isinstance(c, dict) and name in c for c in candidates):
            # Declared for plain ids alone, in words.
            body.pop(field, None)
        elif body.get(field) is not None:
            body[field] = (body[field] + [None] * n)[:n]
    name_features(body, candidates, limits)
    if body.get("explain"):
        body["k"] = min(body.get("k", 1), limits.max_explained)
    request = parse_json(orjson.dumps({"k": 1} | body), limits, NOW)
    assert len(request.keys) <= n


@QUICK
@given(st.data())
@IDS
def test_what_is_declared_as_reranking_is_read(
    limits: Limits, as_id: Callable[[Any], int | str], data: st.DataObject
) -> None:
    body = of_the_log(data.draw(values(SCHEMAS["RerankBody"], SCHEMAS)), limits)
    body["documents"] = [
        d | {"id": as_id(d["id"])} if isinstance(d, dict) else as_id(d) for d in body["documents"]
    ]
    wanted = parse_rerank(orjson.dumps(body), None, limits, NOW)
    assert sum(map(len, wanted.places.values())) == len(body["documents"])


@QUICK
@given(st.data())
@IDS
def test_what_is_declared_as_events_is_read(
    limits: Limits, as_id: Callable[[Any], int | str], data: st.DataObject
) -> None:
    body = data.draw(values(SCHEMAS["EventsBody"], SCHEMAS))
    for event in body["events"]:
        event["item_id"], event["action"] = as_id(event["item_id"]), limits.schema.actions[0]
    assert len(parse_events(orjson.dumps(body), limits, NOW)) == len(body["events"])


def parse_raw_query(fields: dict[str, Any]) -> Any:
    return parse_raw(b"", fields, LIMITS, NOW)


def parameters(route: Route, place: str) -> dict[str, Any]:
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    return {p["name"]: p["schema"] for p in operation["parameters"] if p["in"] == place}


PARSERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "PrerankBody": lambda body: parse_json(orjson.dumps(body), LIMITS, NOW),
    "RerankBody": lambda body: parse_rerank(orjson.dumps(body), None, LIMITS, NOW),
    "QueryBody": lambda body: parse_query(orjson.dumps(body), LIMITS, NOW),
    "EventsBody": lambda body: parse_events(orjson.dumps(body), LIMITS, NOW),
    "EventBody": lambda body: parse_events(orjson.dumps({"events": [body]}), LIMITS, NOW),
    "Candidate": lambda body: PARSERS["PrerankBody"]({"candidates": [body]}),
    "RawQuery": parse_raw_query,
}


@pytest.mark.parametrize("name", PARSERS)
def test_the_fields_that_are_declared_are_those_that_are_read(name: str) -> None:
    declared = parameters(ROUTES[0], "query") if name == "RawQuery" else SCHEMAS[name]["properties"]
    with pytest.raises(RequestError, match="known are") as caught:
        PARSERS[name]({"colour": "red"})
    assert ast.literal_eval(caught.value.message.partition("known are ")[2]) == sorted(declared)


def example(name: str) -> dict[str, Any]:
    (found,) = SCHEMAS[name]["examples"]
    return dict(found)


GOOD: dict[str, Any] = {"user_id": "u", "query": "q", "time": NOW}
AT_LIMIT: list[tuple[str, Any, Callable[[int], Any]]] = [
    (
        "PrerankBody",
        SCHEMAS["PrerankBody"]["properties"]["candidates"]["anyOf"][0]["maxItems"],
        lambda n: GOOD | {"k": 1, "candidates": list(range(n))},
    ),
    (
        "PrerankBody",
        SCHEMAS["PrerankBody"]["properties"]["k"]["maximum"],
        lambda n: GOOD | {"candidates": [], "k": n},
    ),
    (
        "PrerankBody",
        SCHEMAS["PrerankBody"]["properties"]["query"]["maxLength"],
        lambda n: GOOD | {"candidates": [], "k": 1, "query": "x" * n},
    ),
    (
        "PrerankBody",
        SCHEMAS["PrerankBody"]["properties"]["user_id"]["anyOf"][0]["maxLength"],
        lambda n: GOOD | {"candidates": [], "k": 1, "user_id": "x" * n},
    ),
    (
        "RerankBody",
        SCHEMAS["RerankBody"]["properties"]["documents"]["maxItems"],
        lambda n: GOOD | {"documents": ["1"] * n},
    ),
    (
        "EventsBody",
        SCHEMAS["EventsBody"]["properties"]["events"]["maxItems"],
        lambda n: {
            "events": [{"user_id": "u", "item_id": 1, "action": "click", "event_time": NOW}] * n
        },
    ),
    (
        "RawQuery",
        parameters(ROUTES[0], "query")["k"]["maximum"],
        lambda n: {"user_id": "u", "query": "q", "time": str(NOW), "k": str(n)},
    ),
]


@pytest.mark.parametrize(("name", "limit", "body"), AT_LIMIT)
def test_a_limit_that_is_declared_is_the_one_that_is_enforced(
    name: str, limit: int, body: Callable[[int], dict[str, Any]]
) -> None:
    PARSERS[name](body(limit))
    with pytest.raises(RequestError):
        PARSERS[name](body(limit + 1))


@pytest.mark.parametrize("name", ["PrerankBody", "RerankBody", "QueryBody", "EventsBody"])
def test_the_example_of_a_body_is_one(name: str) -> None:
    Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": renamed(SCHEMAS)}).validate(
        example(name)
    )
    needs = {} if name == "EventsBody" else {"time": NOW}
    PARSERS[name](example(name) | needs)


def renamed(schemas: Any) -> Any:
    """``schemas`` with their references as a plain JSON Schema has them."""
    text = orjson.dumps(schemas).replace(b"#/components/schemas/", b"#/$defs/")
    return orjson.loads(text)


def test_the_document_is_openapi_and_its_schemas_are_json_schema() -> None:
    assert OpenAPI.model_validate(DOCUMENT).openapi == "3.1.0"
    for schema in renamed(SCHEMAS).values():
        Draft202012Validator.check_schema(schema)
    told = asyncio.run(call(api_of(NoEngine(LIMITS)), "/openapi.json"))
    assert told.status_code == 200
    assert orjson.loads(told.body).keys() == DOCUMENT.keys()


def test_every_route_is_in_the_document_and_no_other() -> None:
    described = {(m.upper(), path) for path, of in DOCUMENT["paths"].items() for m in of}
    assert described == {(route.method, route.path) for route in ROUTES}
    names = [of["operationId"] for path in DOCUMENT["paths"].values() for of in path.values()]
    assert len(names) == len(set(names))


@OPERATIONS
def test_the_scope_that_a_route_needs_is_declared(route: Route) -> None:
    security = DOCUMENT["paths"][route.path][route.method.lower()]["security"]
    # An empty requirement: a deployment without tokens asks for none.
    assert security == ([{"token": [route.scope]}, {}] if route.scope else [])
    assert (route.scope == "") == (route.path == "/ready")


@OPERATIONS
def test_the_content_types_that_are_declared_are_those_that_are_taken(route: Route) -> None:
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    declared = set(operation.get("requestBody", {"content": {}})["content"])
    assert declared == set(route.takes)
    for kind in {JSON, RAW, ARROW, "text/plain"} if declared else ():
        headers = LOCAL | {"Content-Type": kind}
        answer = asyncio.run(call(api_of(NoEngine(LIMITS)), route.path, whole(b"{"), headers))
        assert (answer.status_code == 415) == (kind not in declared), kind


class Fails:
    """Nothing works."""

    def fails(self, *_: Any) -> Any:
        raise ValueError("a bug")

    limits = event_limits = health = ready = current = answer = fails


class NotReady(NoEngine):
    """Serves no version."""

    def current(self) -> Any:
        raise NotReadyError("starting")

    def ready(self) -> tuple[bool, str]:
        return False, "starting"


async def refusals(route: Route) -> list[Response]:
    """Answers of a route to callers of all kinds, and from replicas of all kinds."""
    path, body = route.path.replace("{id}", "5"), b"{" if route.takes else b""
    token = LOCAL | {"Authorization": "Bearer s3cret-s3cret"}
    headers: list[dict[str, str]] = [
        LOCAL,
        token | {"Host": "evil.example"},
        token | {"Origin": "http://evil.example"},
        token | {"Content-Type": "text/plain"},
        token | {"Content-Length": str(MAX_BODY + 1)},
        token,
    ]
    found = []
    for engine in (SmallEngine(LIMITS, sample_scorer()), NotReady(LIMITS), Fails()):
        api = api_of(engine, max_waiting=1, body_seconds=0.05)
        for each in headers:
            found.append(await call(api, path, whole(body), each, route.method))
        if route.takes:
            late = asyncio.create_task(call(api, path, endless(b"{"), token, route.method))
            await asyncio.sleep(0)
            found.append(await call(api, path, whole(body), token, route.method))
            found.append(await late)
    wrong, sample = path.replace("/5", "/shoe"), SmallEngine(LIMITS, sample_scorer())
    found.append(await call(api_of(sample), wrong, None, token, route.method))
    return [answer for answer in found if answer.status_code != 200]


@OPERATIONS
def test_every_status_of_a_route_is_declared_with_the_problem(
    route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_ENV, "s3cret-s3cret")
    responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
    found = asyncio.run(refusals(route))
    for answer in found:
        assert list(responses[str(answer.status_code)]["content"]) == [PROBLEM]
        models.Problem.model_validate_json(bytes(answer.body))
    seen = {str(answer.status_code) for answer in found}
    static = route.path in ("/openapi.json", "/docs")
    assert seen | ({"500"} if static else set()) | {"200"} == set(responses)

"""Vespa: the rank profile gives, from the feed and a request's parts, the deployment's scores.

The expressions are read from the schema file and computed as Vespa documents them; no Vespa runs.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import pytest
from tests import samples
from tests.api_bodies import WALL
from tests.contracts.test_integrations import EXAMPLES, recipe
from tests.http_calls import api_of
from tests.http_servers import Served, served
from tests.plain_requests import NOW, Request, as_inputs
from tests.small_engine import SmallEngine, sample_scorer

from interactrank.features.packed_rows import pack
from interactrank.features.schema import LEVELS
from prerank import Client, QueryRequest, RankRequest
from prerank.client.query_parts import QueryParts
from prerank.online.reader import OnlineRead
from prerank.registry.bundle import Version
from prerank.registry.index import ItemIndex
from prerank.registry.vespa import feed_lines

SCHEMA = (EXAMPLES / "vespa" / "item.sd").read_text()
COLUMNS = samples.SCHEMA.columns(LEVELS[0])
ROW = pack(np.arange(1000, 1005), np.full((5, len(COLUMNS)), 3.0), COLUMNS, LEVELS[0])
SEARCHED = Request({"q:red": ROW}, [(1007, 1, NOW - 1, 5)])


class Cells(dict[str, float]):
    """A tensor of one mapped dimension: products are of the labels that both have."""

    @classmethod
    def of(cls, text: str) -> Cells:
        pairs = re.findall(r"\{\w+:'([^']+)'\}:([^,}]+)", text)
        return cls({label: float(value) for label, value in pairs})

    def __mul__(self, other: Cells) -> Cells:
        return Cells({k: v * other[k] for k, v in self.items() if k in other})

    def __rsub__(self, number: float) -> Cells:
        return Cells({k: number - v for k, v in self.items()})


def total(tensor: Any) -> float:
    return float(sum(tensor.values())) if isinstance(tensor, Cells) else float(np.sum(tensor))


def relu(tensor: Cells) -> Cells:
    return Cells({k: max(0.0, v) for k, v in tensor.items()})


class Names(dict[str, Any]):
    """Names of an expression; a function of the profile is computed when it is asked for."""

    def __init__(self, functions: Mapping[str, str], given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.functions = functions

    def __missing__(self, name: str) -> Any:
        return value_of(self.functions[name], self)


def value_of(expression: str, names: Names) -> Any:
    code = re.sub(r"(query|attribute)\((\w+)\)", r"\1['\2']", expression)
    # Both sides of an `if` of numbers can be computed, so it may be a call.
    return eval(code.replace("if (", "choose("), {"__builtins__": {}}, names)


def profile(query: Mapping[str, Any], document: Mapping[str, Any]) -> float:
    """The score of a document."""
    body = SCHEMA.partition("rank-profile prerank")[2]
    functions = dict(
        re.findall(r"function (\w+)\(\) \{\s*expression: ([^\n]+)\s*\}", body),
    )
    first = re.search(r"first-phase \{\s*expression: ([^\n]+)", body)
    assert first
    known: dict[str, Any] = {
        "query": query,
        "attribute": document,
        "sum": total,
        "relu": relu,
        "max": max,
        "log": math.log,
        "isNan": lambda number: float(math.isnan(number)),
        "choose": lambda condition, one, other: one if condition else other,
    }
    return float(value_of(first[1], Names(functions, known)))


def as_query(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of the profile from those of a search, each of the kind that is declared."""
    declared = dict(re.findall(r"query\((\w+)\) (tensor<\w+>\(\w+[\[{]|double)", SCHEMA))
    sent = {k[len("input.query(") : -1]: v for k, v in fields.items() if k.startswith("input.")}
    assert sent.keys() == declared.keys()
    kinds: dict[str, Callable[[Any], Any]] = {"{": Cells.of, "[": np.array, "e": float}
    return {name: kinds[declared[name][-1]](value) for name, value in sent.items()}


def fields_of(line: bytes) -> dict[str, Any]:
    """What a line of the feed assigns."""
    return {name: change["assign"] for name, change in orjson.loads(line)["fields"].items()}


def as_document(line: bytes) -> dict[str, Any]:
    """Attributes of a line of the feed; a number that is left out is NaN."""
    fields = fields_of(line)
    declared = set(re.findall(r"field (\w+) type", SCHEMA))
    assert fields.keys() <= declared
    return {
        "created": fields.get("created", math.nan),
        "item_vector": np.array(fields["item_vector"]["values"]),
        "item_key": Cells(fields["item_key"]["cells"]),
    }


class Reads:
    """Has read the rows and the history of one search."""

    def read(self, *_: Any) -> OnlineRead:
        return OnlineRead(as_inputs([SEARCHED]), 2, 0, None, ())


@pytest.fixture(scope="module")
def deployment() -> Iterator[Served]:
    limits = dataclasses.replace(WALL, schema=samples.SCHEMA, max_candidates=50)
    engine = SmallEngine(limits, sample_scorer())
    store: Any = Reads()
    engine.loaded = dataclasses.replace(engine.loaded, features=store)
    with served(api_of(engine)) as found:
        yield found


@pytest.fixture(scope="module")
def feed() -> list[bytes]:
    scorer = sample_scorer()
    ids = samples.CATALOGUE.ids
    index = ItemIndex(ids, scorer.vectors, {})
    created = samples.CATALOGUE.created
    return list(feed_lines(index, created, list(map(str, ids)), Version("1", "run")))


def test_a_line_is_a_document_of_the_schema(feed: list[bytes]) -> None:
    assert len(feed) == len(samples.CATALOGUE)
    assert all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in feed)
    first = orjson.loads(feed[0])
    assert first["update"] == "id:prerank:item::1000"
    assert fields_of(feed[0])["item_id"] == "1000"
    assert fields_of(feed[0])["model_version"] == "1"
    known = ["created" in fields_of(line) for line in feed]
    assert known == (samples.CATALOGUE.created > 0).tolist()
    assert 0 < sum(known) < len(known)


@pytest.mark.parametrize("weights", [None, {"engagement": 0.3, "save": 0.7}])
def test_the_profile_gives_the_scores_of_the_deployment(
    deployment: Served, feed: list[bytes], weights: Any
) -> None:
    search: dict[str, Any] = {"user_id": "ann", "query": "red", "weights": weights}
    with Client(deployment.url) as client:
        parts = client.query(QueryRequest(**search))
        ranking = client.rank(RankRequest(**search, candidates=samples.CATALOGUE.ids))
    assert len(parts.items) >= 6
    assert len(parts.items) < len(feed)
    query = as_query(recipe("vespa/prerank_vespa.py").inputs(parts, NOW / 1e6))
    documents = {fields_of(line)["item_id"]: as_document(line) for line in feed}
    found = [profile(query, documents[str(item)]) for item in ranking.ids.tolist()]
    np.testing.assert_allclose(found, ranking.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_profile_knows_every_age(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def curve(points: int, end: float) -> list[list[float]]:
        t = np.sort(np.concatenate(([0.0], rng.uniform(0, end, points), [end])))
        found: list[list[float]] = np.column_stack((t, rng.normal(size=len(t)))).tolist()
        # Two bends can stand at one place.
        return [found[0], *found]

    answer = {
        "request_id": "r",
        "model_version": "1",
        "vector": [1.0, -2.0],
        "items": [],
        "weights": [],
        "others": {
            "age_unknown": -3.0,
            "fresh_days": 7.0,
            "fresh": curve(3, math.log1p(7)),
            "old": curve(5, math.log1p(1e4)),
        },
        "constant": 0.25,
        "degraded": [],
        "snapshot_cutoff": None,
    }
    parts = QueryParts.from_json(answer)
    days = np.array([np.nan, -1.0, 0.0, 0.5, 6.9, 7.0, 100.0, 1e4, 1e5])
    query = as_query(recipe("vespa/prerank_vespa.py").inputs(parts, 1e9))
    vector = np.array([0.5, 0.5])
    found = [
        profile(
            query,
            {"created": 1e9 - age * 86400, "item_vector": vector, "item_key": Cells({"5": 1.0})},
        )
        for age in days
    ]
    expected = parts.scores(np.full(len(days), 5), np.tile(vector, (len(days), 1)), days)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_search_names_the_version_and_the_items_of_the_request(deployment: Served) -> None:
    with Client(deployment.url) as client:
        parts = client.query(QueryRequest(user_id="ann", query="red"))
    body = recipe("vespa/prerank_vespa.py").search(parts, "red", hits=5)
    assert 'model_version contains "1"' in body["yql"]
    assert all(f'"{item}": 1' in body["yql"] for item in parts.items.tolist())
    assert (body["query"], body["hits"], body["ranking.profile"]) == ("red", 5, "prerank")
    assert orjson.loads(orjson.dumps(body)) == body

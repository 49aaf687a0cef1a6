"""What the playground answers: its rankings are the deployment's, and each part adds up."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from tests import shop
from tests.http_calls import client_of
from tests.shop_server import Shop, opened

from prerank.core.errors import NotReadyError
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.evaluation.baselines import suite
from prerank.playground.service import Playground
from prerank.registry.bundle import META
from prerank.registry.versions import CHAMPION, MODEL_NAME
from prerank.serving.fields import RequestError

TIME = "2023-11-26T00:01:00Z"
USER, QUERY = "user-03", "desk lamp"
CATALOGUE = {"kind": "catalogue"}


def search(**other: Any) -> dict[str, Any]:
    return {"user_id": USER, "query": QUERY, "time": TIME, "source": CATALOGUE} | other


def rank(found: Shop, *rankers: str, **other: Any) -> dict[str, Any]:
    """A ranking, once every version that it asks for is loaded."""
    until = time.monotonic() + 60
    while True:
        answer = found.playground.rank(search(**other) | {"rankers": list(rankers)})
        if not any(column.get("loading") for column in answer["columns"]):
            return answer
        assert time.monotonic() < until
        time.sleep(0.05)


def ids(column: dict[str, Any]) -> list[str]:
    return [item["id"] for item in column["items"]]


def test_the_page_begins_with_what_there_is(open_shop: Shop) -> None:
    state = open_shop.playground.state({})
    assert state["log"]["name"] == "a small shop"
    assert (state["clock"], state["time"], state["champion"]) == ("replay", TIME, "1")
    assert state["actions"] == ["click", "save"]
    assert [r["id"] for r in state["rankers"]] == [
        "champion",
        "version:4",
        "version:3",
        "version:2",
        "version:1",
        "bm25",
        "popularity",
        "iqp",
        "linear",
        "trees",
        "two_tower",
        "two_tower_sequence",
        "inttower",
    ]
    offered = {r["id"]: r for r in state["rankers"]}
    assert offered["trees"]["title"] == "trees (version 1)"
    assert "problem" not in offered["trees"]
    assert "not fitted here" in offered["two_tower"]["problem"]
    assert {s["name"]: set(s["values"]) for s in state["segments"]} == {
        "country": {"us", "de"},
        "device": {"phone", "desktop"},
    }
    assert state["problems"] == []


def test_what_is_typed_is_found_among_queries_users_and_items(open_shop: Shop) -> None:
    def suggest(kind: str, text: str) -> list[str]:
        found = open_shop.playground.suggest({"kind": kind, "text": text, "limit": 5})["found"]
        assert len(found) <= 5
        return [each["title"] for each in found]

    assert set(suggest("queries", "lamp")) >= {"lamp", "desk lamp", "red lamp"}
    assert suggest("users", "user-03") == ["user-03"]
    assert suggest("items", "152") == ["Large desk lamp"]
    assert all("umbrella" in title for title in suggest("items", "umb"))


@pytest.mark.parametrize("source", ["catalogue", "request", "ids"])
def test_a_ranking_is_the_deployments(open_shop: Shop, source: str) -> None:
    logged = open_shop.playground.requests({"query": QUERY})["requests"][0]
    assert logged["query"] == QUERY
    given: dict[str, Any] = {
        "catalogue": CATALOGUE,
        "request": {"kind": "request", "request_id": logged["request_id"]},
        "ids": {"kind": "ids", "ids": ["102", "152", "99999", "102"]},
    }[source]
    candidates = {"catalogue": None, "request": None, "ids": ["102", "152", "99999"]}[source]
    (column,) = rank(open_shop, "champion", source=given, context={"country": "de"})["columns"]
    if source == "request":
        candidates = ids(column)
        assert len(candidates) == logged["candidates"]
        assert sum(item["engaged"] for item in column["items"]) == logged["engaged"] > 0
    body = {"user_id": USER, "query": QUERY, "time": TIME, "k": 50, "context": {"country": "de"}}
    body |= {} if candidates is None else {"candidates": candidates}
    answer = client_of(open_shop.live).post("/v1/prerank", json=body).json()
    assert ids(column) == [str(item["id"]) for item in answer["items"]]
    assert [i["score"] for i in column["items"]] == [i["score"] for i in answer["items"]]
    assert column["unknown"] == (source == "ids")


def test_rankers_stand_side_by_side_with_the_places_moved(open_shop: Shop) -> None:
    answer = rank(open_shop, "champion", "version:2", "bm25", rows=10)
    first, *others = answer["columns"]
    assert answer["candidates"] == len(shop.IDS)
    assert [item["moved"] for item in first["items"]] == [None] * 10
    whole = ids(rank(open_shop, "champion", rows=200)["columns"][0])
    for column in others:
        assert ids(column) != ids(first)
        for place, item in enumerate(column["items"]):
            assert item["moved"] == whole.index(item["id"]) - place
        shared = len(set(ids(column)) & set(ids(first)))
        assert column["shared"] == {"of": 10, "shared": shared}


def test_baselines_are_those_of_the_evaluation(open_shop: Shop) -> None:
    bm25, popular, iqp = rank(open_shop, "bm25", "popularity", "iqp")["columns"]
    assert all("desk lamp" in item["title"] for item in bm25["items"][:6])
    counts = {
        item["id"]: item["count"]
        for item in open_shop.playground.suggest({"kind": "items", "text": "", "limit": 20})[
            "found"
        ]
    }
    best = [counts[id] for id in ids(popular)[:10]]
    assert best == sorted(best, reverse=True)
    assert "desk lamp" in iqp["items"][0]["title"]


@pytest.mark.parametrize("baseline", ["linear", "trees"])
def test_fitted_baselines_rank_and_their_parts_add_up(open_shop: Shop, baseline: str) -> None:
    first, found = rank(open_shop, "champion", baseline)["columns"]
    assert found["version"] == first["version"] == "1"
    assert "desk lamp" in found["items"][0]["title"]
    whole = rank(open_shop, baseline, rows=200)["columns"][0]["items"]
    assert len(whole) == len(shop.IDS)
    for item in (whole[0], whole[-1]):
        why = open_shop.playground.explain(search(ranker=baseline, item=item["id"]))
        assert (why["baseline"], why["version"]) == (baseline, "1")
        assert why["score"] == pytest.approx(item["score"], abs=1e-5)
        total = why["base"] + sum(part["part"] for part in why["parts"])
        assert total == pytest.approx(why["score"], abs=1e-2)
        assert why["counts"]
    # Of the very features that the model reads.
    model = open_shop.playground.explain(search(ranker="champion", item=item["id"]))
    assert {n: why["features"][n] for n in model["features"]} == model["features"]


def test_baselines_of_another_job_are_told_and_not_mixed_in(own_home: Home) -> None:
    def told(page: Playground, name: str) -> str:
        (row,) = (r for r in page.state({})["rankers"] if r["id"] == name)
        (column,) = page.rank(search(rankers=[name]))["columns"]
        assert column["problem"] == row["problem"]
        return str(row["problem"])

    with opened(own_home) as found:
        page = found.playground
        assert rank(found, "linear")["columns"][0]["items"]
        history = suite.folder_of(own_home, "linear") / suite.HISTORY
        meta = history.with_name(META)
        for run, words in (("another", "a job that no version"), ("", "that is not known")):
            write_json(history, {"rows": [], "run_id": run})
            # As a new fit, whose files replace the former ones.
            write_json(meta, json.loads(meta.read_text()))
            page.refresh()
            assert words in told(page, "linear")
        shutil.rmtree(history.parent)
        page.refresh()
        assert "name it in `baselines`" in told(page, "linear")


def test_damaged_files_of_a_baseline_are_told_and_run_nothing(own_home: Home) -> None:
    folder = suite.folder_of(own_home, "trees")
    (folder / "trees.txt").write_bytes(pickle.dumps(print))
    with opened(own_home) as found:
        first, other = rank(found, "champion", "trees")["columns"]
    assert "the files of trees cannot be read" in other["problem"]
    assert first["items"]


def test_what_one_ranker_lacks_does_not_take_the_others(open_shop: Shop) -> None:
    first, other, none = rank(open_shop, "version:3", "champion", "version:77")["columns"]
    assert "no item index" in first["problem"]
    assert "no version 77" in none["problem"]
    # Compared with the first ranking that there is.
    assert {item["moved"] for item in other["items"]} == {None}


@pytest.mark.parametrize("ranker", ["champion", "version:2"])
def test_the_parts_of_a_score_add_up(open_shop: Shop, ranker: str) -> None:
    item = rank(open_shop, ranker)["columns"][0]["items"][0]
    found = open_shop.playground.explain(search(ranker=ranker, item=item["id"]))
    assert found["score"] == item["score"]
    assert found["item"]["title"] == item["title"]
    total = found["dot_part"] + found["typical"] + found["together"]
    total += sum(part["part"] for part in found["parts"])
    assert total == pytest.approx(found["score"], abs=1e-2)
    # Version 2 has no hidden units: its g is additive.
    assert found["additive"] == (found["together"] == 0) == (ranker == "version:2")
    (own,) = (row for row in found["counts"] if row["level"] == "this query")
    events = shop.log()
    engaged = events[events["action"].isin(["click", "save"]) & (events["query"] == QUERY)]
    assert own["totals"]["engage:all"] == len(engaged)
    assert own["counts"]["engage:all"] == (engaged["item_id"] == int(item["id"])).sum()
    assert found["snapshot_cutoff"] <= TIME


def test_an_engagement_changes_the_users_next_ranking(open_shop: Shop) -> None:
    body = {"user_id": "somebody-new", "time": "2023-11-26T00:02:00Z"}
    answer = rank(open_shop, "champion", **body)
    assert not answer["known_user"]
    before = answer["columns"][0]["items"]
    last = before[-1]
    event = {
        "user_id": "somebody-new",
        "item_id": last["id"],
        "action": "save",
        "query": QUERY,
        "event_time": "2023-11-26T00:01:59Z",
    }
    told = client_of(open_shop.live).post("/v1/events", json={"events": [event]})
    assert told.json()["online"] is True
    answer = rank(open_shop, "champion", **body)
    assert answer["known_user"]
    after = ids(answer["columns"][0])
    assert after.index(last["id"]) < len(before) - 1
    found = open_shop.playground.explain(search(**body, ranker="champion", item=last["id"]))
    assert found["features"]["user:touched"] == found["features"]["user:same_query"] == 1.0


def test_pages_tell_what_is_engaged_with_and_what_a_user_did(open_shop: Shop) -> None:
    page = open_shop.playground
    query = page.query({"query": "  Desk LAMP"})
    assert query["query"] == QUERY
    counts = [item["counts"]["engage:all"] for item in query["items"]]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == query["totals"]["engage:all"] > 0
    assert query["items"][0]["counts"]["engage:7d"] <= counts[0]
    item = page.item({"id": query["items"][0]["id"]})
    assert item["title"] == query["items"][0]["title"]
    assert item["counts"]["engage:all"] >= counts[0]
    assert QUERY in [each["query"] for each in item["queries"]]
    user = page.user({"user_id": USER})
    times = [each["time"] for each in user["history"]]
    assert times == sorted(times, reverse=True)
    events = shop.log()
    own = events[(events["user_id"] == USER) & events["action"].isin(["click", "save"])]
    assert len(times) == len(own)
    assert {each["query"] for each in user["history"]} == set(own["query"])
    assert user["requests"][0]["user_id"] == USER
    assert user["segments"] == user["requests"][0]["context"]


@pytest.mark.parametrize(
    ("ask", "data", "field", "words"),
    [
        ("rank", {"query": "   "}, "query", "is empty"),
        ("rank", {"query": "x" * 10_000}, "query", "10000 characters; at most 1000"),
        ("rank", {"user_id": ""}, "user_id", "non-empty"),
        ("rank", {"time": None}, "time", "send each request's time"),
        ("rank", {"source": {"kind": "ids", "ids": []}}, "source.ids", "at least one"),
        ("rank", {"source": {"kind": "ids", "ids": ["a b"]}}, "candidates", "not an integer"),
        ("rank", {"source": {"kind": "moon"}}, "source.kind", "'moon' is none of request"),
        ("rank", {"source": {"kind": "request", "request_id": "r9"}}, "source.request_id", "'r9'"),
        ("rank", {"rankers": []}, "rankers", "choose one to 3"),
        ("rank", {"rankers": ["bm25", "bm25"]}, "rankers", "named twice"),
        ("rank", {"context": {"moon": "full"}}, "context.moon", "is no segment"),
        ("explain", {"ranker": "bm25", "item": "102"}, "ranker", "BM25"),
        ("explain", {"ranker": "champion", "item": "x"}, "item", "not an integer"),
        ("explain", {"ranker": "champion", "item": "99999"}, "item", "none of the candidates"),
        ("item", {"id": "5"}, "id", "no item of the log"),
        ("user", {"user_id": "nobody"}, "user_id", "'nobody' is unknown"),
        ("suggest", {"kind": "moons"}, "kind", "none of queries, users, items"),
    ],
)
def test_wrong_input_is_told_with_its_field(
    open_shop: Shop, ask: str, data: dict[str, Any], field: str, words: str
) -> None:
    body: dict[str, Any] = data
    if ask == "rank":
        body = search(rankers=["champion"]) | data
    if ask == "explain":
        body = search() | data
    with pytest.raises(RequestError) as caught:
        getattr(open_shop.playground, ask)(body)
    assert caught.value.field == field
    assert words in caught.value.message


def test_scores_of_a_ranking_are_numbers(open_shop: Shop) -> None:
    for column in rank(open_shop, "champion", "bm25", "iqp")["columns"]:
        assert np.isfinite([item["score"] for item in column["items"]]).all()


def test_only_a_few_versions_stay_in_memory(home: Home) -> None:
    with opened(home, page={"versions": 1}) as found:
        for version, held in (("2", {"1", "2"}), ("4", {"1", "4"}), ("2", {"1", "2"})):
            (column,) = rank(found, f"version:{version}")["columns"]
            assert column["version"] == version
            assert found.playground.versions.in_memory() == held


def test_without_a_champion_the_log_is_there_and_the_remedy_is_told(home: Home) -> None:
    MlflowClient().delete_registered_model_alias(MODEL_NAME, CHAMPION)
    try:
        with opened(home) as found:
            state = found.playground.state({})
            assert state["champion"] is None
            assert any("no model is champion" in problem for problem in state["problems"])
            assert found.playground.suggest({"kind": "queries", "text": "lamp"})["found"]
            with pytest.raises(NotReadyError, match="no model is champion"):
                rank(found, "bm25")
    finally:
        MlflowClient().set_registered_model_alias(MODEL_NAME, CHAMPION, "1")


def test_a_log_that_has_grown_is_opened_anew(own_home: Home) -> None:
    with opened(own_home) as found:
        page = found.playground
        page.refresh()
        assert page.state({})["log"]["name"] == "a small shop"
        manifest = LogManifest.load(own_home)
        replace(manifest, dataset="a larger shop", fingerprint="grown").save(own_home)
        page.refresh()
        assert page.state({})["log"]["name"] == "a larger shop"

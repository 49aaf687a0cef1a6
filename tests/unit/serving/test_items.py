"""What a deployment tells of an item."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from tests import samples
from tests.api_bodies import STRINGS
from tests.http_calls import api_of, client_of
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from interactrank.model.scorer import Scorer
from prerank.core.ids import ItemIds
from prerank.core.times import iso
from prerank.serving.items import item_of


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return sample_scorer()


@pytest.fixture
def client(scorer: Scorer) -> Iterator[httpx.Client]:
    with client_of(api_of(SmallEngine(SAMPLE, scorer))) as found:
        yield found


@pytest.mark.parametrize("id", [1000, samples.UNTRAINED])
def test_an_item_is_told_with_its_creation_and_whether_it_was_trained(
    client: httpx.Client, id: int
) -> None:
    answer = client.get(f"/v1/items/{id}")
    created = int(samples.CATALOGUE.created[id - 1000])
    assert answer.status_code == 200
    assert answer.json() == {
        "id": id,
        "indexed": True,
        "trained": id != samples.UNTRAINED,
        "created": iso(created) if created else None,
        "model_version": "1",
    }


def test_an_item_whose_creation_is_not_known_says_so(client: httpx.Client) -> None:
    (unknown, *_) = samples.CATALOGUE.ids[samples.CATALOGUE.created == 0]
    assert client.get(f"/v1/items/{unknown}").json()["created"] is None


def test_an_item_that_the_index_does_not_hold_yet(scorer: Scorer) -> None:
    engine = SmallEngine(SAMPLE, scorer)
    ids, vectors = samples.CATALOGUE.ids[:10], scorer.vectors[:10]
    part = Scorer(scorer.model, samples.CATALOGUE, ids, vectors)
    loaded = dataclasses.replace(engine.loaded, scorer=part)
    assert item_of("1009", loaded)["indexed"] is True
    assert item_of("1010", loaded)["indexed"] is False


@pytest.mark.parametrize(
    ("id", "status"), [("2000", 404), ("-1", 404), ("shoe", 400), ("007", 400), ("1" * 40, 400)]
)
def test_another_item_is_a_problem_of_its_id(client: httpx.Client, id: str, status: int) -> None:
    answer = client.get(f"/v1/items/{id}")
    assert (answer.status_code, answer.json()["field"]) == (status, "id")


def test_items_without_an_id_are_no_route(client: httpx.Client) -> None:
    assert client.get("/v1/items/").json()["field"] == "path"
    assert client.post("/v1/items/1000").status_code == 405


def test_any_text_may_be_an_id(scorer: Scorer) -> None:
    limits = dataclasses.replace(STRINGS, schema=samples.SCHEMA)
    ids = ItemIds("string", 7)
    assert limits.ids == ids
    names = [f"a/b {i}/" for i in range(samples.N_ITEMS)]
    order = np.argsort(ids.keys(names))
    catalogue = samples.catalogue(ids=ids.keys(names)[order])
    named = Scorer(scorer.model, catalogue, catalogue.ids, scorer.vectors)
    with client_of(api_of(SmallEngine(limits, named))) as client:
        assert client.get("/v1/items/a%2Fb%203%2F").json()["id"] == "a/b 3/"
        assert client.get("/v1/items/a%2Fb%203").status_code == 404
        assert client.get("/v1/items/" + "x" * 5_000).status_code == 404
        assert len(client.get("/v1/items/" + "x" * 5_000).content) < 1_000

"""Variants answer in every form of a ranking, and with an index in shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.experiments import BOTH, Replica, experiment, ids, stream_of
from tests.following import ONE, TWO, servable
from tests.online_log import CANDIDATES

from prerank.client.batches import batches
from prerank.client.requests import QueryRequest, RankRequest
from prerank.core.home import Home
from prerank.registry.bundle import Version
from prerank.serving.routes import ARROW
from prerank.serving.shard import NAMED_S, NotLoadedError, Shard

USERS = [f"u{n}" for n in range(20)]
VERSION = {"a": "1", "b": "2"}


def test_each_request_of_a_batch_has_the_variant_of_its_user(replica: Replica) -> None:
    assert "variant" not in replica.ask_in_arrow(USERS)[0]
    replica.follow(experiment())
    alone = {user: replica.ask(user) for user in USERS}
    counted = replica.counted("a") + replica.counted("b")
    told = replica.ask_in_arrow(USERS)
    assert {row["variant"] for row in told} == {"a", "b"}
    for user, row in zip(USERS, told, strict=True):
        same = alone[user]
        assert row["items"] == ids(same)
        assert row["scores"] == pytest.approx([item["score"] for item in same["items"]], abs=1e-6)
        assert (row["experiment"], row["variant"]) == ("test", same["variant"])
        assert row["model_version"] == VERSION[row["variant"]]
        assert row["fallback"] is None
    assert replica.counted("a") + replica.counted("b") == counted + len(USERS)
    rows = replica.written()
    assert [rows[f"r-{user}"]["variant"] for user in USERS] == [row["variant"] for row in told]


def test_a_batch_is_interleaved_and_shadowed_as_single_requests_are(replica: Replica) -> None:
    replica.follow(experiment("interleave", a=0.0, b=1.0))
    alone = {user: ids(replica.ask(user)) for user in USERS[:5]}
    assert {
        u: row["items"] for u, row in zip(alone, replica.ask_in_arrow([*alone]), strict=True)
    } == alone
    replica.follow(experiment("shadow", a=0.0, b=1.0))
    told = replica.ask_in_arrow(["v1", "v2"])
    assert {row["model_version"] for row in told} == {"1"}
    rows = replica.written()
    assert {0, 1} == set(rows["r-u1"]["teams"])
    assert [rows[f"r-v{n}"]["compared_version"] for n in (1, 2)] == ["2", "2"]
    assert rows["r-v1"]["overlap"] is not None


def test_in_a_batch_the_champion_answers_for_a_version_that_is_gone(
    replica: Replica, numbers: dict[str, Version]
) -> None:
    replica.follow(experiment())
    del numbers["2"]
    replica.second().refresh()
    told = replica.ask_in_arrow(USERS)
    assert {row["model_version"] for row in told} == {"1"}
    assert [row["fallback"] for row in told] == [
        True if row["variant"] == "b" else None for row in told
    ]


def test_a_batch_in_which_a_variant_had_two_versions_is_to_be_sent_again(
    replica: Replica, model_home: Home, numbers: dict[str, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    three = Version("3", "c3c3c3c3c3")
    servable(model_home, three, 3)
    replica.follow(experiment(a=0.0, b=1.0))
    engine = replica.second()
    answer = engine.answer

    def answers(request: Any) -> Any:
        found = answer(request)
        # As an alias would that is moved meanwhile.
        numbers["2"] = three
        engine.refresh()
        return found

    monkeypatch.setattr(engine, "answer", answers)
    got = replica.client.post(
        "/v1/prerank", content=stream_of(USERS[:2]), headers={"Content-Type": ARROW}
    )
    assert got.status_code == 503
    assert "another model version came during the batch" in got.json()["detail"]
    assert {row["model_version"] for row in replica.ask_in_arrow(USERS[:2])} == {"3"}


def test_the_client_is_told_of_each_request_of_a_batch(replica: Replica) -> None:
    replica.follow(experiment())
    asked = [
        RankRequest(user_id=user, query="red shoe", candidates=CANDIDATES, k=3) for user in USERS
    ]
    (batch,) = batches(asked)
    call = batch.call()
    got = replica.client.post(call.path, content=call.content, headers={"Content-Type": call.kind})
    for ranking in batch.rankings(got.content):
        assert (ranking.experiment, ranking.fallback) == ("test", False)
        assert ranking.model_version == VERSION[str(ranking.variant)]


def parts(replica: Replica, user: str, *versions: str) -> dict[str, Any]:
    asked = QueryRequest(
        user_id=user,
        query="red shoe",
        context={"country": "de"},
        versions=versions,
        request_id=f"r-{user}",
        timeout_ms=20_000,
    )
    call = asked.call(20.0)
    got = replica.client.post(call.path, content=call.content, headers={"Content-Type": call.kind})
    assert got.status_code == 200, got.text
    found: dict[str, Any] = got.json()
    return found


def test_the_parts_of_a_query_are_of_a_version_whose_vectors_the_caller_holds(
    replica: Replica,
) -> None:
    replica.follow(experiment())
    told = {user: parts(replica, user, "1", "2") for user in USERS}
    drawn = {user: replica.ask(user, request_id=f"again-{user}")["variant"] for user in USERS}
    assert {user: one["variant"] for user, one in told.items()} == drawn
    assert set(drawn.values()) == {"a", "b"}
    for one in told.values():
        assert (one["experiment"], one["model_version"]) == ("test", VERSION[one["variant"]])
        assert "fallback" not in one
    # The caller has no vectors of the second version: its users have the champion's parts.
    second = next(user for user in USERS if drawn[user] == "b")
    without = parts(replica, second, "1")
    assert (without["model_version"], without["variant"], without["fallback"]) == ("1", "b", True)
    rows = replica.written()
    row = rows[f"r-{second}"]
    assert (row["variant"], row["mode"], dict(row["shares"])) == ("b", "ab", BOTH)
    assert (row["items"], row["scores"], row["candidates"]) == ([], [], 0)


@pytest.mark.parametrize("mode", ["interleave", "shadow"])
def test_parts_are_no_ranking_to_interleave_or_to_compare(replica: Replica, mode: str) -> None:
    replica.follow(experiment(mode, a=0.0, b=1.0))
    told = parts(replica, "u1", "1", "2")
    assert "variant" not in told
    assert told["model_version"] == "1"


def test_who_does_not_say_which_vectors_it_holds_has_the_champions_parts(replica: Replica) -> None:
    replica.follow(experiment(a=0.0, b=1.0))
    told = parts(replica, "u1")
    assert "variant" not in told
    assert told["model_version"] == "1"
    assert replica.written() == {}


def test_the_callers_order_has_no_parts(replica: Replica) -> None:
    replica.follow(experiment(second="retriever", a=0.0, b=1.0))
    told = parts(replica, "u1", "1")
    assert (told["model_version"], told["fallback"]) == ("1", True)


@pytest.fixture
def sharded(model_home: Home, replica: Replica) -> Iterator[Replica]:
    """The same versions with the index in two shards."""
    found = Replica(model_home, shards=2)
    yield found
    found.close()


@pytest.mark.parametrize("mode", ["ab", "interleave", "shadow"])
def test_with_shards_variants_answer_as_without(
    replica: Replica, sharded: Replica, mode: str
) -> None:
    told = []
    for one in (replica, sharded):
        one.follow(experiment(mode))
        told.append([one.ask(user) for user in USERS] + one.ask_in_arrow(USERS))
        assert one.health()["notes"] == []
    assert told[0] == told[1]
    assert {row["variant"] for row in told[1]} == {"a", "b"}
    for shard in sharded.shards:
        assert set(shard._loaded) == {ONE, TWO}


def test_with_shards_the_callers_order_is_a_variant_too(sharded: Replica) -> None:
    sharded.follow(experiment(second="retriever", a=0.0, b=1.0))
    told = sharded.ask("u1", candidates=[7, 3, 140, 5, 9], k=3)
    assert (ids(told), told["model_version"], told["degraded"]) == ([7, 3, 140], "retriever", [])


def test_the_champion_answers_where_no_shard_has_the_version(sharded: Replica) -> None:
    sharded.follow(experiment(a=0.0, b=1.0))
    for shard in sharded.shards:
        shard._loaded.pop(TWO)
    told = sharded.ask("u1")
    assert (told["model_version"], told["fallback"], told["degraded"]) == ("1", True, [])


def test_a_shard_keeps_what_requests_name_and_the_last_two(model_home: Home) -> None:
    versions = [Version(str(n), f"{n}{n}{n}{n}{n}{n}{n}{n}{n}{n}") for n in range(1, 6)]
    for version in versions:
        servable(model_home, version, int(version.number), golden=False)
    now = [0.0]
    shard = Shard(model_home, 0, 2, clock=lambda: now[0])

    def name(version: Version) -> None:
        with pytest.raises(AttributeError):  # of the request, which is none: the version is there
            shard.score(type("Task", (), {"version": version})())

    # An experiment of three, whose versions are loaded before a request names them.
    for version in versions[:3]:
        shard.load(version)
    assert set(shard._loaded) == {*versions[:3]}
    now[0] = NAMED_S - 1
    name(versions[0])
    now[0] = NAMED_S + 1
    shard.load(versions[3])
    assert set(shard._loaded) == {versions[0], versions[2], versions[3]}
    with pytest.raises(NotLoadedError):
        name(versions[1])
    now[0] = 3 * NAMED_S
    shard.load(versions[4])
    assert set(shard._loaded) == {*versions[3:]}

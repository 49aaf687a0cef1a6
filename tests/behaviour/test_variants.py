"""A replica with two versions and an experiment between them: HTTP in, served log out."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.experiments import ASKED, BOTH, Replica, experiment, ids
from tests.following import TWO
from tests.online_log import CANDIDATES

from prerank.core.home import Home
from prerank.online_tests.credit import Period, credit
from prerank.online_tests.run import online_results
from prerank.registry.bundle import Version
from prerank.serving import metrics


def test_without_an_experiment_an_answer_says_nothing_of_one(replica: Replica) -> None:
    told = replica.ask("u1")
    assert not {"experiment", "variant", "fallback"} & told.keys()
    row = replica.written()["r-u1"]
    assert row["experiment"] is None
    assert row["latency_ms"] > 0


def test_each_user_has_the_answers_of_one_version(replica: Replica) -> None:
    replica.follow(experiment())
    told = {f"u{n}": replica.ask(f"u{n}") for n in range(30)}
    version = {"a": "1", "b": "2"}
    assert {t["variant"] for t in told.values()} == {"a", "b"}
    for user, answer in told.items():
        assert answer["experiment"] == "test"
        assert answer["model_version"] == version[answer["variant"]]
        assert "fallback" not in answer
        assert ids(replica.ask(user, request_id="again")) == ids(answer)
    assert replica.counted("a") + replica.counted("b") == 60
    health = replica.health()
    assert (health["experiment"], health["variants"]) == ("test", version)
    row = replica.written()["r-u1"]
    assert (row["experiment"], row["mode"], row["variant"]) == ("test", "ab", told["u1"]["variant"])
    assert dict(row["shares"]) == BOTH
    assert (row["fallback"], row["teams"], row["model_version"]) == (
        False,
        None,
        told["u1"]["model_version"],
    )


def test_a_reranking_is_of_the_experiment_too(replica: Replica) -> None:
    replica.follow(experiment(a=0.0, b=1.0))
    got = replica.client.post("/v1/rerank", json={"query": "red", "documents": ["1", "2"]}).json()
    assert (got["meta"]["variant"], got["meta"]["model_version"]) == ("b", "2")


def test_the_callers_order_is_a_variant_too(replica: Replica) -> None:
    replica.follow(experiment(second="retriever", a=0.0, b=1.0))
    sent = [7, 3, 140, 5, 9]
    told = replica.ask("u1", candidates=sent, exclude=[140], k=3, explain=True)
    assert (ids(told), told["model_version"], told["degraded"]) == ([7, 3, 5], "retriever", [])
    assert replica.health()["notes"] == []
    assert replica.written()["r-u1"]["run_id"] == ""


def test_an_experiment_that_is_wrong_leaves_the_one_before(replica: Replica) -> None:
    replica.follow(experiment(a=0.0, b=1.0))
    replica.follow(experiment(a=0.5, b=0.4))
    (note,) = replica.health()["notes"]
    assert note.startswith("the experiment is refused; test goes on: ")
    assert "the shares sum to 0.9" in note
    replica.api.sample()
    assert replica.api.metrics.value(metrics.EXPERIMENT_REFUSED) == 1.0
    assert replica.ask("u1")["variant"] == "b"
    replica.follow({"experiment": None})
    assert replica.health()["notes"] == []
    assert "variant" not in replica.ask("u1")


def test_the_champion_answers_for_a_version_that_is_gone(
    replica: Replica, numbers: dict[str, Version]
) -> None:
    replica.follow(experiment(a=0.0, b=1.0))
    assert replica.ask("u1")["model_version"] == "2"
    del numbers["2"]
    engine = replica.second()
    engine.refresh()
    told = replica.ask("u2")
    assert (told["model_version"], told["variant"], told["fallback"]) == ("1", "b", True)
    assert (replica.counted("b"), replica.counted("b", "true")) == (1, 1)
    (note,) = replica.health()["notes"]
    assert note == ("variant b (version 2) is answered by the champion: prerank has no version 2")
    # It comes back.
    numbers["2"] = TWO
    engine.refresh()
    assert replica.ask("u3")["model_version"] == "2"
    assert [row["fallback"] for _, row in sorted(replica.written().items())] == [False, True, False]


def test_the_champion_answers_for_a_version_that_is_refused(
    replica: Replica, model_home: Home
) -> None:
    index = next((model_home.index / TWO.name).glob("*.json"))
    index.unlink()
    replica.follow(experiment(a=0.0, b=1.0))
    told = replica.ask("u1")
    assert (told["model_version"], told["fallback"]) == ("1", True)
    assert "model version 2 is refused" in replica.health()["notes"][0]


def test_the_champion_answers_where_a_version_fails(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replica.follow(experiment(a=0.0, b=1.0))
    engine = replica.second()

    def fails(request: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(engine, "answer", fails)
    told = replica.ask("u1")
    assert (told["model_version"], told["fallback"]) == ("1", True)
    assert "ZeroDivisionError" in caplog.text


def test_interleaving_takes_turns_and_says_whose_each_item_is(replica: Replica) -> None:
    alone = {}
    for name in "ab":
        replica.follow(experiment(a=float(name == "a"), b=float(name == "b")))
        alone[name] = ids(replica.ask("u1", k=len(CANDIDATES), request_id=f"alone-{name}"))
    replica.follow(experiment("interleave", a=0.0, b=1.0))
    told = replica.ask("u1")
    found = ids(told)
    assert len(found) == len(set(found)) == ASKED["k"]
    assert found == ids(replica.ask("u1")), "the same request has the same draft"
    row = replica.written()["r-u1"]
    assert row["items"] == [str(i) for i in found[:5]]
    assert (row["model_version"], row["compared_version"]) == ("1", "2")
    for n, team in enumerate(row["teams"]):
        own = alone["ab"[team]]
        assert set(own[: own.index(found[n])]) <= set(found[:n]), "not the team's best"
    assert {row["teams"][0], row["teams"][1]} == {0, 1}


def test_of_those_who_draw_the_control_nothing_is_interleaved(replica: Replica) -> None:
    replica.follow(experiment("interleave", a=1.0, b=0.0))
    told = replica.ask("u1")
    assert told["variant"] == "a"
    assert replica.written()["r-u1"]["teams"] is None


def test_a_shadow_scores_after_the_answer_and_is_written_down(replica: Replica) -> None:
    champion = ids(replica.ask("u1", request_id="champion"))
    replica.follow(experiment("ab", a=0.0, b=1.0))
    other = ids(replica.ask("u1", request_id="other"))
    replica.follow(experiment("shadow", a=0.0, b=1.0))
    told = replica.ask("u1")
    assert (ids(told), told["model_version"]) == (champion, "1")
    rows = replica.written()
    row = rows["r-u1"]
    assert (row["model_version"], row["compared_version"]) == ("1", "2")
    assert row["overlap"] == pytest.approx(len({*champion} & {*other}) / len(champion))
    assert row["score_difference"] > 0
    assert sum(replica.api.metrics.buckets(metrics.SHADOW_OVERLAP, "b")) == 1
    assert sum(replica.api.metrics.buckets(metrics.SHADOW_DIFFERENCE, "b")) == 1


def test_a_full_shadow_drops_and_counts_and_the_answer_is_written_down(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.follow(experiment("shadow", a=0.0, b=1.0))
    engine = replica.second()
    let, answer = threading.Event(), engine.answer

    def held(request: Any) -> Any:
        assert let.wait(20)
        return answer(request)

    monkeypatch.setattr(engine, "answer", held)
    for n in range(20):
        replica.ask(f"u{n}")
    lost = replica.api.metrics.value(metrics.SHADOW_LOST, "full")
    assert lost >= 3
    let.set()
    rows = replica.written().values()
    assert len(rows) == 20
    assert sum(row["overlap"] is None for row in rows) == lost


def test_events_of_live_answers_are_credited_to_the_variant_that_answered(
    replica: Replica,
) -> None:
    replica.follow(experiment())
    told = {f"u{n}": replica.ask(f"u{n}") for n in range(12)}
    users = {name: [u for u, t in told.items() if t["variant"] == name] for name in "ab"}
    now = datetime.now(UTC)

    def event(user: str, request: str | None = None, **other: Any) -> dict[str, Any]:
        item = told[user]["items"][0]["id"]
        found = {"user_id": user, "item_id": item, "action": "click", "event_time": now.isoformat()}
        return found | {"request_id": request or f"r-{user}"} | other

    first, second = users["a"][0], users["b"][0]
    # The experiment is begun anew, and its users dealt anew: who had one variant has the other.
    again = experiment()
    again["experiment"] |= {"name": "again"}
    replica.follow(again)
    late = (now + timedelta(minutes=4)).isoformat()
    events = [
        event(first),
        event(first),
        event(first, "of nobody"),
        event(second, f"r-{first}"),
        event(second, action="save"),
        event(users["b"][1], event_time=late),
    ]
    got = replica.client.post("/v1/events", json={"events": events})
    assert got.status_code == 200, got.text
    replica.written()
    period = Period(window=timedelta(minutes=2))
    found = credit(replica.home, "test", ("click", "save"), period)
    credited = {
        (row["variant"], row["who"]) for row in found.users.to_dict("records") if row["engagements"]
    }
    assert credited == {("a", first), ("b", second)}
    reasons = {reason: n for reason, n in found.events.items() if n}
    assert reasons == {
        "credited": 2,
        "duplicated": 1,
        "of an unknown request": 1,
        "of another user": 1,
        "late": 1,
    }
    results = online_results(replica.home, "test", period, 1_000)
    assert {name: one.users for name, one in results.variants.items()} == {
        name: len(users[name]) for name in "ab"
    }
    assert results.variants["b"].versions == ("2",)
    assert results.events == found.events

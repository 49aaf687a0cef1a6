"""Reports of experiments whose outcome is known: the verdict, the page and the JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.object_stores import nodes
from tests.online_log import MANIFEST
from tests.served_files import SHARES, answer, event, write_answers, write_events

from prerank.core.home import Home
from prerank.online_tests import words
from prerank.online_tests.credit import Period
from prerank.online_tests.page import html, write
from prerank.online_tests.results import Results
from prerank.online_tests.run import online_results

USERS, EACH = 500, 6


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    MANIFEST.save(home)
    return home


def run(home: Home, control: float, treatment: float, share: float = 0.5, **other: Any) -> Results:
    """An experiment in which a request is fulfilled with a chance of its variant's.

    Args:
        share: of the users that are treated, where one half of them should be.
        other: of each treated answer.
    """
    rng = np.random.default_rng(3)
    answers, events = [], []
    for user in range(USERS):
        variant = "treatment" if rng.random() < share else "control"
        chance = treatment if variant == "treatment" else control
        for n in range(rng.integers(1, 2 * EACH)):
            request = f"r{user}-{n}"
            own = other if variant == "treatment" else {}
            answers.append(answer(request, f"u{user}", variant, **own))
            if rng.random() < chance:
                events.append(event(request, f"u{user}"))
    write_answers(home, answers)
    write_events(home, events)
    return online_results(home, "test", Period(), 3_000)


def verdict(results: Results) -> str:
    (found,) = words.verdicts(results)
    return found


def test_a_better_variant_is_called_better(home: Home) -> None:
    results = run(home, 0.3, 0.45)
    assert verdict(results).startswith("treatment is better: +")
    lift = results.compared["treatment"].lifts["fulfilment"]
    assert lift.low < 0.5 < lift.high
    assert results.control == "control"
    assert results.problems == ()
    assert results.variants["treatment"].latency_ms == (5.0, 5.0, 5.0)
    assert (
        results.variants["control"].rates["click"]
        == (results.variants["control"].rates["fulfilment"])
    )


def test_a_worse_variant_is_to_be_stopped(home: Home) -> None:
    assert "treatment is worse: -" in verdict(run(home, 0.45, 0.3))


def test_with_no_difference_none_is_shown(home: Home) -> None:
    assert verdict(run(home, 0.3, 0.3)).startswith("treatment: no difference shown yet (")


def test_of_a_wrong_split_nothing_is_read(home: Home) -> None:
    results = run(home, 0.3, 0.5, share=0.35)
    assert results.split.is_wrong
    assert verdict(results).startswith("Do not read this result: users are not split")


def test_a_variant_that_breaks_a_guardrail_is_called_so(home: Home) -> None:
    results = run(home, 0.3, 0.45, degraded=["engagement"], latency_ms=11.0)
    found = verdict(results)
    assert found.startswith("treatment is better")
    assert "More of its answers are degraded: +100.00 points" in found
    assert found.endswith(
        "It is too slow: +6 (+6 to +6) ms in the mean, and 10% or 5 ms are allowed, whichever is "
        "more."
    )


@pytest.mark.parametrize(
    ("control", "treatment", "allowed", "too_slow"),
    [
        # A control that scores nothing is faster than anything that does.
        (1.0, 4.5, 5.0, False),
        (1.0, 4.5, 3.0, True),
        (80.0, 86.0, 5.0, False),
        (80.0, 89.0, 5.0, True),
    ],
)
def test_a_variant_may_be_slower_by_a_tenth_or_by_some_milliseconds(
    home: Home, control: float, treatment: float, allowed: float, too_slow: bool
) -> None:
    latency = {"control": control, "treatment": treatment}
    rows = [
        answer(f"r{user}", f"u{user}", variant, latency_ms=latency[variant])
        for user in range(200)
        for variant in [list(latency)[user % 2]]
    ]
    write_answers(home, rows)
    write_events(home, [event(f"r{user}", f"u{user}") for user in range(0, 200, 3)])
    found = verdict(online_results(home, "test", Period(), 3_000, allowed))
    assert ("It is too slow: " in found) == too_slow


def test_fallbacks_and_changed_shares_are_problems(home: Home) -> None:
    results = run(home, 0.3, 0.3, fallback=True)
    assert any("the champion gave 100.0% of the answers" in p for p in results.problems)
    write_answers(home, [answer("x", "x", "control", shares=[("control", 0.1)])], "b")
    changed = online_results(home, "test", Period(), 3_000)
    assert any("their shares changed" in p for p in changed.problems)


def test_a_few_users_are_too_few(home: Home) -> None:
    write_answers(home, [answer("r1", "u1", "control"), answer("r2", "u2", "treatment")])
    write_events(home, [event("r1", "u1")])
    results = online_results(home, "test", Period(), 3_000)
    assert verdict(results) == "treatment: too few users to say anything yet."
    assert len(results.problems) == 2


def test_a_variant_without_a_request_is_named(home: Home) -> None:
    write_answers(home, [answer("r1", "u1", "control")])
    results = online_results(home, "test", Period(), 3_000)
    assert verdict(results) == "treatment has no requests yet, or control has none."
    assert "treatment" in html(results)


def interleaved(home: Home, chance: float) -> Results:
    """Answers whose clicks are on the variant's items with a chance."""
    rng = np.random.default_rng(5)
    answers, events = [], []
    for user in range(USERS):
        for n in range(3):
            request = f"r{user}-{n}"
            of: dict[str, Any] = {"mode": "interleave", "teams": [1, 0, 1]}
            of |= {"shares": [("control", 0.0), ("treatment", 1.0)], "compared_version": "2"}
            answers.append(answer(request, f"u{user}", "treatment", **of))
            item = "1" if rng.random() < chance else "2"
            events.append(event(request, f"u{user}", item))
    write_answers(home, answers)
    write_events(home, events)
    return online_results(home, "test", Period(), 1_500)


@pytest.mark.parametrize(
    ("chance", "said"),
    [
        (0.6, "treatment is preferred to control"),
        (0.4, "control is preferred to treatment"),
        (0.5, "no preference shown yet"),
    ],
)
def test_interleaved_rankings_are_compared_by_whose_items_were_engaged_with(
    home: Home, chance: float, said: str
) -> None:
    results = interleaved(home, chance)
    assert said in verdict(results)
    found = results.preferences["treatment"]
    assert found.won + found.lost == found.requests == 3 * USERS
    assert (found.sign_p < 0.01) == (chance != 0.5)


def test_of_a_shadow_nothing_is_said_to_be_better(home: Home) -> None:
    shadow: dict[str, Any] = {"mode": "shadow", "overlap": 0.75, "score_difference": 0.5}
    found = verdict(run(home, 0.3, 0.3, **shadow))
    assert found.startswith("treatment would have answered with 75.0% of the items")
    assert "Nobody has seen its ranking" in found


def test_the_page_stands_alone_and_the_json_is_json(home: Home, tmp_path: Path) -> None:
    results = run(home, 0.3, 0.45)
    data, page = write(results, tmp_path / "out")
    text = page.read_text()
    assert words.verdicts(results)[0].replace("+", "&#43;") in text.replace("+", "&#43;")
    assert "<svg" in text
    assert "http" not in text
    assert "src=" not in text
    found = json.loads(data.read_text())
    assert found["variants"].keys() == SHARES.keys()
    assert found["verdicts"] == words.verdicts(results)
    assert {f"treatment.lift.fulfilment.{end}" for end in ("value", "low", "high")} <= (
        results.flat().keys()
    )
    assert "split: p = " in words.table(results)


def test_names_are_escaped(home: Home) -> None:
    write_answers(home, [answer("r1", "u1", "<script>", shares=[("<script>", 1.0)])])
    assert "<script>" not in html(online_results(home, "test", Period(), 3_000))


def test_a_node_reports_what_replicas_of_others_sent_to_the_store(tmp_path: Path) -> None:
    with nodes(tmp_path) as store:
        with store.node("replica") as replica:
            MANIFEST.save(replica)
            expected = run(replica, 0.3, 0.45)
        with store.node("pod") as home:
            found = online_results(home, "test", Period(), 3_000)
            assert words.verdicts(found) == words.verdicts(expected)
            written = [path.read_bytes() for path in write(found, home.root / "online")]
        with store.node("reader") as home:
            home.look(home.root / "online", deep=True)
            files = [home.root / "online" / f"online-test.{kind}" for kind in ("json", "html")]
            assert [file.read_bytes() for file in files] == written

"""The tokens of a deployment: what each opens, how they are replaced while it runs."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.responses import Response
from tests.api_bodies import NOW, WALL
from tests.http_calls import LOCAL, NoEngine, api_of, call, token_file, whole

from prerank.core.errors import ConfigError
from prerank.core.tokens import TOKEN_ENV
from prerank.evaluation.live import open_client
from prerank.serving import metrics, tokens
from prerank.serving.http import HttpApi
from prerank.serving.routes import ROUTES
from prerank.serving.tokens import Tokens

SEVERAL = "shop rank r4nk\npixel events 3vents\nops admin 4dmin\nboth rank,events b0th\na11\n"
OF = {"r4nk": {"rank"}, "3vents": {"events"}, "4dmin": {"admin"}, "b0th": {"rank", "events"}}
EVENT = {"user_id": "u", "item_id": 1, "action": "click", "event_time": NOW}
BODIES = {
    "/v1/prerank": {"user_id": "u", "query": "red", "candidates": [1]},
    "/v1/events": {"events": [EVENT]},
}


class Clock:
    """Stands still until it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def get(api: HttpApi, path: str, token: str | None) -> Response:
    body = BODIES.get(path)
    sent = {} if token is None else {"Authorization": f"Bearer {token}"}
    chunks = None if body is None else whole(orjson.dumps(body))
    return asyncio.run(call(api, path, chunks, LOCAL | sent))


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.path)
def test_a_route_takes_the_tokens_that_have_its_scope_and_no_other(
    route: Any, tmp_path: Path
) -> None:
    api = api_of(NoEngine(WALL), token_file=token_file(tmp_path, SEVERAL))
    path = route.path.replace("{id}", "5")
    for token, scopes in OF.items():
        opened = not route.scope or route.scope in scopes
        status = asyncio.run(
            call(api, path, None, LOCAL | {"Authorization": f"Bearer {token}"}, route.method)
        ).status_code
        assert (status == 403) != opened, (path, token)
    for sent, known in (("Bearer a11", True), ("Bearer other", False), ("", False)):
        headers = LOCAL | ({"Authorization": sent} if sent else {})
        status = asyncio.run(call(api, path, None, headers, route.method)).status_code
        assert (status == 401) == bool(route.scope and not known), (path, sent)
        assert status != 403


def test_rankings_events_and_health_are_opened_apart(tmp_path: Path) -> None:
    api = api_of(NoEngine(WALL), token_file=token_file(tmp_path, SEVERAL))
    for path, opens in (
        ("/v1/prerank", {"r4nk", "b0th", "a11"}),
        ("/v1/events", {"3vents", "b0th", "a11"}),
        ("/health", {"4dmin", "a11"}),
        ("/docs", {"4dmin", "a11"}),
    ):
        found = {t: get(api, path, t).status_code for t in (*OF, "a11")}
        assert found == {t: 200 if t in opens else 403 for t in found}


def test_a_token_without_the_scope_is_told_which_one_is_missing(tmp_path: Path) -> None:
    api = api_of(NoEngine(WALL), token_file=token_file(tmp_path, SEVERAL))
    problem = orjson.loads(get(api, "/v1/events", "r4nk").body)
    assert (problem["status"], problem["field"]) == (403, "Authorization")
    assert "'shop'" in problem["detail"]
    assert "'events'" in problem["detail"]
    assert "r4nk" not in problem["detail"]
    assert api.metrics.value(metrics.REFUSED, "events", "scope") == 1
    get(api, "/v1/events", "wr0ng")
    get(api, "/v1/events", None)
    assert api.metrics.value(metrics.REFUSED, "events", "unknown_token") == 1
    assert api.metrics.value(metrics.REFUSED, "events", "no_token") == 1


def test_a_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    assert not Tokens(None).asked
    monkeypatch.setenv(TOKEN_ENV, "of-the-environment")
    assert Tokens(None).holder("of-the-environment")
    monkeypatch.setenv(TOKEN_ENV, "shop rank a1\nops admin b2")
    assert [t and t.name for t in map(Tokens(None).holder, ("a1", "b2", "c3"))] == [
        "shop",
        "ops",
        None,
    ]
    held = Tokens(token_file(tmp_path, "of-the-file\n"))
    assert held.holder("of-the-file")
    assert held.holder("a1") is None
    with open_client("http://127.0.0.1:1") as client:
        assert client.headers["Authorization"] == "Bearer a1"


@pytest.mark.parametrize("text", ["", " \n", "two words", "schlüssel", "a\nb"])
def test_what_is_no_token_admits_nobody_by_accident(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = token_file(tmp_path, text)
    monkeypatch.setenv(TOKEN_ENV, text)
    for source, name in ((file, "token_file"), (None, TOKEN_ENV)):
        with pytest.raises(ConfigError, match=name) as caught:
            Tokens(source)
        assert "schlüssel" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokens(str(tmp_path / "none"))


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o620, 0o777])
def test_a_file_that_others_may_open_is_refused(mode: int, tmp_path: Path) -> None:
    file = token_file(tmp_path, "s3cret")
    os.chmod(file, mode)
    with pytest.raises(ConfigError, match=f"open to other users .mode {mode:04o}.*chmod 600"):
        Tokens(file)
    for closed in (0o400, 0o600, 0o440, 0o640):
        os.chmod(file, closed)
        assert Tokens(file).holder("s3cret")


def test_a_changed_file_is_read_again_and_looked_at_once_a_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, file = Clock(), token_file(tmp_path, "shop rank 0ld")
    held = Tokens(file, clock)
    replace(file, "shop rank n3w\nops admin 4dmin")
    clock.now += tokens.LOOK_S / 2
    assert held.holder("0ld"), "it was looked at a moment ago"
    clock.now += tokens.LOOK_S
    with caplog.at_level(logging.INFO):
        assert held.holder("n3w")
    assert held.holder("0ld") is None
    assert "shop (rank), ops (admin)" in caplog.text
    assert not {"n3w", "0ld", "4dmin"} & set(caplog.text.split())


def replace(file: str, text: str, mode: int = 0o600) -> None:
    """Put another file in the place of one, as a rotation does."""
    new = Path(file + ".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.chmod(mode)
    new.rename(file)


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [("", 0o600, "holds no token"), ("n3w", 0o644, "open to other users"), (None, 0, "be read")],
)
def test_a_file_that_became_unusable_leaves_the_tokens_of_before_and_says_so(
    text: str | None, mode: int, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, file = Clock(), token_file(tmp_path, "0ld")
    held = Tokens(file, clock)
    if text is None:
        Path(file).unlink()
    else:
        replace(file, text, mode)
    clock.now += tokens.LOOK_S
    assert held.holder("0ld")
    assert held.holder("n3w") is None
    assert says in held.problem
    assert held.problem in caplog.text
    assert "n3w" not in caplog.text
    replace(file, "n3w")
    clock.now += tokens.LOOK_S
    assert held.holder("n3w")
    assert held.problem == ""


def test_tokens_are_replaced_without_a_restart_and_health_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LOOK_S", 0.0)
    file = token_file(tmp_path, "0ld")
    api = api_of(NoEngine(WALL), token_file=file)
    assert get(api, "/health", "0ld").status_code == 200
    replace(file, "n3w")
    assert [get(api, "/health", t).status_code for t in ("0ld", "n3w")] == [401, 200]
    replace(file, "two words")
    assert "token_file" in orjson.loads(get(api, "/health", "n3w").body)["notes"][-1]

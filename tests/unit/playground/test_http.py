"""Who may open the playground, and what a browser may do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from tests.http_calls import client_of, token_file
from tests.shop_server import Shop, lose_store, opened

from prerank.core.errors import ConfigError
from prerank.core.home import Home
from prerank.playground import metrics
from prerank.playground.config import PlaygroundConfig
from prerank.playground.deployment import app
from prerank.playground.http import STATIC, PlaygroundHttp
from prerank.playground.service import Playground

STATE = "/playground/api/state"


@pytest.fixture(scope="module")
def client(open_shop: Shop) -> Iterator[httpx.Client]:
    with client_of(open_shop) as found:  # type: ignore[arg-type]
        yield found


def behind(home: Home, **config: Any) -> httpx.Client:
    """The routes of a playground that was not started."""
    settled = PlaygroundConfig(home=home.place, **config)
    return client_of(PlaygroundHttp(settled, Playground(settled)))  # type: ignore[arg-type]


def test_the_page_and_its_files_are_served_and_nothing_else(client: httpx.Client) -> None:
    answer = client.get("/playground/")
    assert answer.headers["content-type"].startswith("text/html")
    for file in STATIC.iterdir():
        assert client.get(f"/playground/{file.name}").content == file.read_bytes()
    moved = client.get("/playground")
    assert (moved.status_code, moved.headers["location"]) == (308, "/playground/")
    for path in ("/playground/../http.py", "/playground/%2e%2e/http.py", "/playground/nothing.js"):
        assert client.get(path).status_code == 404, path
    assert client.post("/playground/", json={}).status_code == 405


@pytest.mark.parametrize(
    ("root", "path"),
    [("", "/playground/"), ("/playground", "/playground/"), ("/playground", "/")],
    ids=["no root", "HAProxy", "Serve's own proxy"],
)
def test_files_are_found_behind_each_proxy(open_shop: Shop, root: str, path: str) -> None:
    for file in STATIC.iterdir():
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"{path}{file.name}",
            "root_path": root,
            "headers": [(b"host", b"localhost")],
        }
        answer = asyncio.run(open_shop.page.answer(Request(scope)))
        assert (answer.status_code, answer.body) == (200, file.read_bytes()), file.name


def test_a_browser_may_load_nothing_from_elsewhere_and_run_nothing_inline(
    client: httpx.Client,
) -> None:
    for path in ("/playground/", "/playground/main.js", "/playground/api/none"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
    html = (STATIC / "index.html").read_text()
    assert "http" not in html.replace("http-equiv", "")
    assert " style=" not in html
    assert "<script>" not in html


def test_no_file_of_the_page_takes_text_for_markup() -> None:
    for file in STATIC.glob("*.js"):
        source = file.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in source, file.name
        assert len(source.splitlines()) < 300, file.name


def test_what_the_page_asks_needs_a_token_that_opens_admin(home: Home, tmp_path: Path) -> None:
    tokens = token_file(tmp_path, "shop rank,events secret-of-a-shop\nops admin secret-of-ops\n")
    with behind(home, token_file=tokens) as client:
        assert client.get("/playground/").status_code == 200
        none = client.post(STATE, json={})
        assert none.status_code == 401
        assert none.headers["www-authenticate"] == "Bearer"
        few = client.post(STATE, json={}, headers={"Authorization": "Bearer secret-of-a-shop"})
        assert few.status_code == 403
        assert "'admin'" in few.json()["detail"]
        enough = {"Authorization": "Bearer secret-of-ops"}
        # Admitted; but nothing was started.
        assert client.post(STATE, json={}, headers=enough).status_code == 503


@pytest.mark.parametrize("path", ["/playground/", STATE])
def test_other_hosts_and_other_pages_are_refused(client: httpx.Client, path: str) -> None:
    method = "GET" if path.endswith("/") else "POST"
    body: dict[str, Any] | None = None if method == "GET" else {}
    evil = client.request(method, path, json=body, headers={"Host": "evil.example"})
    assert evil.status_code == 421
    other = client.request(method, path, json=body, headers={"Origin": "https://evil.example"})
    assert other.status_code == 403


def test_what_the_page_asks_is_json_by_post(client: httpx.Client) -> None:
    assert client.get(STATE).status_code == 405
    assert client.post(STATE, data={"a": "b"}).status_code == 415
    assert (
        client.post(STATE, content=b"[", headers={"Content-Type": "application/json"})
        .json()["detail"]
        .startswith("is not valid JSON")
    )
    assert client.post("/playground/api/moon", json={}).status_code == 404
    found = client.post(STATE, json={})
    assert found.headers["cache-control"] == "no-store"
    assert found.json()["champion"] == "1"
    wrong = client.post("/playground/api/rank", json={"rankers": ["bm25"], "moon": 1})
    assert (wrong.status_code, wrong.json()["field"]) == (400, "moon")


def test_what_is_asked_is_counted(own_home: Home) -> None:
    with opened(own_home, page={"versions": 1}) as found, client_of(found) as client:  # type: ignore[arg-type]
        counted = found.playground.metrics
        client.get("/playground/")
        client.post("/playground/api/moon", json={})
        client.post(STATE, json={})
        body: dict[str, Any] = {"user_id": "user-03", "query": "desk lamp"}
        body |= {"time": "2023-11-26T00:01:00Z", "source": {"kind": "catalogue"}}
        for version in ("2", "4", "77"):
            asked = body | {"rankers": [f"version:{version}", "iqp"]}
            while any(
                column.get("loading")
                for column in client.post("/playground/api/rank", json=asked).json()["columns"]
            ):
                pass
        found.playground.sample()
        for action, status in (("file", 200), ("other", 404), ("state", 200)):
            assert counted.value(metrics.REQUESTS, action, str(status)) == 1
            assert sum(counted.buckets(metrics.LATENCY, action)) == 1
        for what, times in (("loaded", 2), ("evicted", 1)):
            assert counted.value(metrics.VERSIONS, what) == times
        assert counted.value(metrics.VERSIONS, "failed") >= 1
        assert counted.value(metrics.IN_MEMORY) == 2
        assert counted.value(metrics.DEGRADED, "engagement") == 0
        lose_store(own_home)
        before = counted.value(metrics.REQUESTS, "rank", "200")
        client.post("/playground/api/rank", json=asked)
        assert counted.value(metrics.DEGRADED, "engagement") == 1
        assert counted.value(metrics.REQUESTS, "rank", "200") == before + 1


def test_what_is_missing_is_told_with_the_remedy(home: Home, tmp_path: Path) -> None:
    with opened_nowhere(tmp_path) as client:
        answer = client.post(STATE, json={})
        assert answer.status_code == 503
        assert "prerank ingest" in answer.json()["detail"]


def opened_nowhere(folder: Path) -> httpx.Client:
    settled = PlaygroundConfig(home=str(folder / "empty"))
    playground = Playground(settled)
    playground.refresh()
    return client_of(PlaygroundHttp(settled, playground))  # type: ignore[arg-type]


def test_a_store_that_is_gone_is_told_and_the_page_goes_on(own_home: Home) -> None:
    with opened(own_home) as found:
        lose_store(own_home)
        body = {
            "user_id": "user-03",
            "query": "desk lamp",
            "time": "2023-11-26T00:01:00Z",
            "source": {"kind": "catalogue"},
        }
        for _ in range(3):
            answer = found.playground.rank(body | {"rankers": ["champion", "popularity"]})
        for column in answer["columns"]:
            assert column["degraded"] == ["engagement", "user_history"]
            assert column["items"]
        assert found.playground.user({"user_id": "user-03"})["degraded"]
        assert found.playground.query({"query": "desk lamp"})["degraded"]
        assert any("does not answer" in each for each in found.playground.state({})["problems"])


def test_an_unknown_key_of_the_configuration_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key `moon`"):
        app({"home": str(tmp_path), "moon": 1})
    assert app({"home": str(tmp_path)})

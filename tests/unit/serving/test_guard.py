"""Who may call a deployment, and what is said to everybody else."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from prerank.core.errors import ConfigError
from prerank.core.settings import typed
from prerank.core.tokens import TOKEN_ENV
from prerank.serving.api import RequestError
from prerank.serving.config import ServeConfig
from prerank.serving.guard import Guard, content_type
from prerank.serving.tokens import Tokens

OPEN = Guard()
NAMED = Guard(hosts=("Rank.example",), origins=("https://Shop.example",))


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Guard:
    """Asks for a token."""
    monkeypatch.setenv(TOKEN_ENV, "s3cret-s3cret")
    return Guard(Tokens(None))


def refused(guard: Guard, **headers: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        guard.check(Headers({"host": "127.0.0.1:8000"} | headers))
    return caught.value


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8000", "127.8.8.8:1", "localhost:8000", "LOCALHOST", "[::1]:80"],
)
def test_loopback_names_are_admitted(host: str) -> None:
    OPEN.check(Headers({"host": host}))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example@localhost",
        "localhost/evil",
        "0.0.0.0:8000",
        "10.0.0.5",
        "",
        "[::1",
        "lócalhost",
    ],
)
def test_a_request_for_another_host_is_refused_with_the_fix(host: str) -> None:
    error = refused(OPEN, host=host)
    assert (error.status, error.field) == (421, "Host")
    assert "allowed_hosts" in error.message


def test_a_request_has_one_host() -> None:
    for hosts in ([], [(b"host", b"localhost"), (b"host", b"evil.example")]):
        with pytest.raises(RequestError) as caught:
            OPEN.check(Headers(raw=hosts))
        assert caught.value.status == 421


def test_a_configured_host_is_admitted_at_any_port() -> None:
    for host in ("rank.example", "RANK.example:8443"):
        NAMED.check(Headers({"host": host}))
    assert refused(NAMED, host="other.example").status == 421


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost", "https://localhost"),
        ("rank.example", "https://rank.example"),
        ("127.0.0.1:8000", "https://shop.example"),
    ],
)
def test_pages_of_the_deployment_and_configured_ones_may_call(host: str, origin: str) -> None:
    NAMED.check(Headers({"host": host, "origin": origin}))


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:9999", "null", "", "127.0.0.1:8000"]
)
def test_other_pages_may_not_call(origin: str) -> None:
    error = refused(NAMED, origin=origin)
    assert (error.status, error.field) == (403, "Origin")
    assert "allowed_origins" in error.message


def test_a_token_is_asked_for_where_there_is_one(secret: Guard) -> None:
    OPEN.check(Headers({"host": "localhost"}))
    for given in ("Bearer s3cret-s3cret", "bearer  s3cret-s3cret"):
        secret.check(Headers({"host": "localhost", "authorization": given}))


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer s3cret", "Basic s3cret-s3cret", "s3cret-s3cret", "Bearer sé"]
)
def test_another_token_is_refused_with_the_way_to_send_it(given: str, secret: Guard) -> None:
    error = refused(secret, authorization=given)
    assert (error.status, error.field) == (401, "Authorization")
    assert error.reason == ("unknown_token" if given else "no_token")
    assert "Bearer" in error.message
    assert "s3cret" not in error.message


@pytest.mark.parametrize(
    "sent", ["application/json", "Application/JSON; charset=utf-8", "application/octet-stream"]
)
def test_a_body_says_what_it_is(sent: str) -> None:
    allowed = ("application/json", "application/octet-stream")
    found = content_type(Headers({"content-type": sent}), allowed)
    assert found == sent.partition(";")[0].lower()


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/jsonp",
    ],
)
def test_another_content_type_is_refused_with_those_that_are_taken(sent: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        content_type(
            Headers({} if sent is None else {"content-type": sent}),
            ("application/json", "application/octet-stream"),
        )
    assert (caught.value.status, caught.value.field) == (415, "Content-Type")
    assert "application/json or application/octet-stream" in caught.value.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allowed_hosts", ["http://rank.example"]),
        ("allowed_hosts", ["rank.example:8000"]),
        ("allowed_origins", ["shop.example"]),
        ("allowed_origins", ["https://shop.example/"]),
        ("max_waiting", 0),
        ("body_seconds", 0),
    ],
)
def test_a_setting_that_would_admit_nobody_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        typed(ServeConfig, {key: value})

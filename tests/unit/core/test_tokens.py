"""Tokens as a file or a variable holds them: names, scopes, and what no message repeats."""

from __future__ import annotations

import pytest

from prerank.core.environment import bearer_token
from prerank.core.errors import ConfigError
from prerank.core.tokens import SCOPES, TOKEN_ENV, Token, read_tokens

ALL = frozenset(SCOPES)


def test_a_bare_token_opens_everything() -> None:
    for text in ("s3cret", " s3cret \n", "# of the shop\n\ns3cret\n", "#s3cret"):
        (found,) = read_tokens(text, "it")
        assert (found.name, found.scopes) == ("default", ALL)
        assert found.text == text.split()[-1]


def test_tokens_have_names_and_scopes_and_stand_beside_a_bare_one() -> None:
    text = "shop rank,events a1\n\n# since May\nops admin b2\nc3\n"
    assert read_tokens(text, "it") == (
        Token("shop", frozenset({"rank", "events"}), "a1"),
        Token("ops", frozenset({"admin"}), "b2"),
        Token("default", ALL, "c3"),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it holds no token"),
        (" \n# a note\n", "it holds no token"),
        ("shop s3cret", "line 1 of it holds no token: one token a line"),
        ("shop rank s3cret s3cret", "line 1 of it holds no token"),
        ("shop rank s3crét", "line 1 of it holds no token"),
        ("shop write s3cret", "line 1 of it names an unknown scope: known are rank, events, admin"),
        ("shop rank,,admin s3cret", "line 1 of it names an unknown scope"),
        ("shop s3cret rank", "line 1 of it names an unknown scope"),
        ("shop rank s3cret\n\nshop admin other", "line 3 of it: there are two tokens 'shop'"),
        ("s3cret\nother", "line 2 of it: there are two tokens 'default'"),
        ("shop rank s3cret\nops admin s3cret", "line 2 of it: it holds the token of another line"),
    ],
)
def test_what_is_wrong_is_told_by_its_line_and_no_token_is_repeated(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read_tokens(text, "it")
    assert "s3cr" not in str(caught.value)


def test_a_token_is_not_shown() -> None:
    assert "s3cret" not in repr(read_tokens("shop rank s3cret", "it"))


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("a1", "a1"),
        ("shop rank a1", "a1"),
        ("shop rank a1\nops rank,admin b2\nc3", "c3"),
        ("shop rank,events a1\nops rank,admin b2", "a1"),
    ],
)
def test_a_command_sends_the_token_that_opens_most(
    value: str, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    assert bearer_token() is None
    monkeypatch.setenv(TOKEN_ENV, value)
    assert bearer_token() == sent

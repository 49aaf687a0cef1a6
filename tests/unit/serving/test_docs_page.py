"""The page of the OpenAPI document: all of it, escaped, and nothing from elsewhere."""

from __future__ import annotations

import asyncio
import copy
import re
import shlex
from typing import Any

import orjson
import pytest
from tests.api_bodies import WALL
from tests.http_calls import NoEngine, api_of, call

from prerank.serving.config import ServeConfig
from prerank.serving.docs_page import docs_page, kind_of, prose
from prerank.serving.openapi import document
from prerank.serving.routes import ROUTES

DOCUMENT = document(ROUTES, ServeConfig(max_candidates=123_456))
PAGE = docs_page(DOCUMENT)


def test_the_page_is_served_and_fetches_nothing() -> None:
    answer = asyncio.run(call(api_of(NoEngine(WALL)), "/docs"))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for page in (PAGE, bytes(answer.body).decode()):
        assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|src=", page)
        assert set(re.findall(r'href="([^"#]+)', page)) == {"/openapi.json"}


def test_the_page_has_every_route_field_and_status() -> None:
    for path, operations in DOCUMENT["paths"].items():
        assert path in PAGE
        for operation in operations.values():
            assert f'id="{operation["operationId"]}"' in PAGE
    for schema in DOCUMENT["components"]["schemas"].values():
        for name in schema["properties"]:
            assert f"<code>{name}</code>" in PAGE
    assert "at most 123456 of them" in PAGE
    for target in re.findall(r'href="#([^"]+)"', PAGE):
        assert f'id="{target}"' in PAGE


def test_what_the_document_holds_is_escaped() -> None:
    changed: Any = copy.deepcopy(DOCUMENT)
    changed["paths"]["/health"]["get"]["summary"] = "<b>bold</b>"
    assert "<b>" not in docs_page(changed)
    assert "&lt;b&gt;" in docs_page(changed)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_every_route_has_a_call_for_a_shell(route: Any) -> None:
    text = PAGE.replace("&#39;", "'").replace("&#34;", '"').replace("&lt;", "<")
    (section,) = re.findall(rf'<section id="{route.name}">.*?</section>', text, re.S)
    (shell,) = re.findall(r"<pre>(.*?)</pre>", section, re.S)
    words = shlex.split(shell.replace("\\\n", ""))
    assert words[0] == "curl"
    assert words[2].startswith("http://127.0.0.1:8000/")
    if route.takes:
        assert isinstance(orjson.loads(words[-1]), dict)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 9}, "integer, from 1, to 9"),
        ({"type": "string", "minLength": 1}, "string, at least 1 characters"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        (
            {"type": "array", "items": {"$ref": "#/a/Item"}, "maxItems": 3},
            "list of Item, at most 3 of them",
        ),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "object of number"),
        ({"enum": ["a", "b"]}, '"a" or "b"'),
        ({"const": True}, "true"),
        ({"description": "whatever"}, "anything"),
    ],
)
def test_a_schema_in_words(schema: dict[str, Any], words: str) -> None:
    assert kind_of(schema) == words


def test_names_in_prose_are_set_as_code() -> None:
    assert "<code>field</code> names it" in PAGE
    assert "`" not in PAGE
    assert prose("`<b>` & so on") == "<code>&lt;b&gt;</code> &amp; so on"

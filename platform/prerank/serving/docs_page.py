"""The page ``/docs``: the OpenAPI document for people, as HTML that fetches nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from prerank.core.environment import SERVE_PORT
from prerank.core.pages import templates

_UNITS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
    "minProperties": "at least {} of them",
    "minimum": "from {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
}


def docs_page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document that ``prerank.serving.openapi`` made."""
    environment = templates(Path(__file__).parent)
    environment.filters |= {"kind": kind_of, "meaning": meaning_of, "prose": prose}
    schemas = document["components"]["schemas"]
    calls = {
        path: {method: curl(path, operation, schemas) for method, operation in of.items()}
        for path, of in document["paths"].items()
    }
    return environment.get_template("docs.html.j2").render(
        info=document["info"], paths=document["paths"], schemas=schemas, calls=calls
    )


def kind_of(schema: Mapping[str, Any]) -> str:
    """A schema in words: "list of integer from 0, at most 10 of them"."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind_of(each) for each in schema["anyOf"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        kind = f"list of {kind_of(schema['items'])}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        kind = f"object of {kind_of(schema['additionalProperties'])}"
    limits = [text.format(schema[key]) for key, text in _UNITS.items() if key in schema]
    return ", ".join([kind, *limits])


def meaning_of(schema: Mapping[str, Any]) -> str:
    """The description of a schema, or of what it may be."""
    inner = (each.get("description", "") for each in schema.get("anyOf", ()))
    return str(schema.get("description") or " ".join(dict.fromkeys(filter(None, inner))))


def prose(text: str) -> Markup:
    """Text as HTML, with what stands between backticks as code."""
    escaped = str(escape(text))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped))  # nosec B704 - escaped


def curl(path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """A call of a route, to be pasted into a shell."""
    call = f"curl -s http://127.0.0.1:{SERVE_PORT}{path.replace('{id}', '17')}"
    if "requestBody" not in operation:
        return call
    kind, body = next(iter(operation["requestBody"]["content"].items()))
    (example,) = schemas[kind_of(body["schema"])]["examples"]
    text = json.dumps(example).replace("'", "'\\''")
    return f"{call} -H 'Content-Type: {kind}' \\\n  -d '{text}'"

"""Values that a JSON Schema allows, for the keywords that our OpenAPI document uses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

TEXT = st.characters(categories=("L", "N"))
"""Letters and digits: of a query, something is left once it is normalised."""
_KNOWN = {
    "$ref", "additionalProperties", "anyOf", "const", "contentMediaType", "default", "description",
    "enum", "examples", "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maximum",
    "maxItems", "maxLength", "minimum", "minLength", "minProperties", "pattern", "properties",
    "required", "title", "type",
}  # fmt: skip
_SCALARS: Mapping[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
}


def values(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values of ``schema``, whose references are to ``schemas``; lists are short."""
    assert schema.keys() <= _KNOWN, f"a keyword that is not understood: {schema.keys() - _KNOWN}"
    if "$ref" in schema:
        return values(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        return st.one_of([values(each, schemas) for each in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind is None:
        return st.none() | st.booleans() | st.text(TEXT) | st.lists(st.integers(0, 9))
    if kind in _SCALARS:
        return _SCALARS[kind]
    return {"string": _text, "integer": _integer, "number": _number, "array": _array}.get(
        kind, _object
    )(schema, schemas)


def _text(schema: Mapping[str, Any], _: Any) -> st.SearchStrategy[Any]:
    if schema.get("format") == "date-time":
        return st.datetimes(min_value=_at(1971), max_value=_at(2199), timezones=st.just(UTC)).map(
            lambda at: at.isoformat()
        )
    short, long = schema.get("minLength", 0), schema.get("maxLength", 20)
    found = st.text(TEXT, min_size=short, max_size=min(long, 20))
    # The longest text that is allowed, too.
    return found | st.just("x" * long)


def _integer(schema: Mapping[str, Any], _: Any) -> st.SearchStrategy[Any]:
    high = schema.get("maximum", schema.get("exclusiveMaximum", 2**53 + 1) - 1)
    return st.integers(schema.get("minimum", -(2**53)), high)


def _number(schema: Mapping[str, Any], _: Any) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum", -1e9), schema.get("maximum", 1e9)
    above = schema.get("exclusiveMinimum")
    return st.floats(low if above is None else above, high, exclude_min=above is not None)


def _array(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    size = min(schema.get("maxItems", 5), 5)
    return st.lists(values(schema["items"], schemas), max_size=size)


def _object(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    if "properties" not in schema:
        of = schema.get("additionalProperties")
        inner = values(of, schemas) if isinstance(of, dict) else st.integers(0, 9)
        return st.dictionaries(st.text(TEXT, min_size=1, max_size=5), inner, max_size=3)
    of_fields = {name: values(of, schemas) for name, of in schema["properties"].items()}
    needed = schema.get("required", [])
    return st.fixed_dictionaries(
        {name: of for name, of in of_fields.items() if name in needed},
        optional={name: of for name, of in of_fields.items() if name not in needed},
    )


def _at(year: int) -> datetime:
    return datetime(year, 1, 1)

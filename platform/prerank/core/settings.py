"""Settings from YAML: one strict reading of a file, one check of its keys and values.

Dataclasses and pydantic models alike are checked by pydantic's strict JSON mode, from outside: a
list is a tuple, an integer is a float, and no other value is taken for what it is not.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from prerank.core.errors import ConfigError

T = TypeVar("T")

RENAMED = {
    "rivals": "is now `baselines`",
    "model.performing": "is now `model.top_items`",
    "train.least_gain": "is now `train.min_delta`",
    "train.settle_passes": "was removed: InteractRank no longer trains on validation requests",
    "train.settle_learning_rate": "was removed with `train.settle_passes`",
}
"""Key that once was -> what became of it: "is now `other`", or "was removed: why"."""

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
NO_MAPPING = ("dataclass_type", "model_type", "model_attributes_type")
KINDS = {"int_type": "int", "float_type": "float", "bool_type": "bool", "tuple_type": "list"}
MAX_SHOWN = 60
"""Characters of a wrong value that a message shows."""


class OnceLoader(yaml.SafeLoader):
    """YAML whose keys are text, and where a key given twice is an error (the last does not win)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, refusing a repeated key and one that is no text."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                problem = f"the key {key!r} is no text; put it in quotes"
            elif key in seen:
                problem = f"the key {key!r} is given twice"
            else:
                seen.add(key)
                continue
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> Any:
    """Plain data of a YAML file; an empty file is an empty mapping.

    Args:
        path: of the file.
        what: it is, as an error begins: "The mapping", say.

    Raises:
        ConfigError: it cannot be read, or is not YAML whose keys are texts given once.
    """
    try:
        # The subclass of SafeLoader builds plain values only, as safe_load does.
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=OnceLoader)  # nosec B506
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{what} {path} is not valid YAML: {problem}") from None
    return {} if loaded is None else loaded


def typed(kind: type[T], data: Any, at: str = "", what: str = "config") -> T:
    """Build a dataclass or a pydantic model, and those inside it, from plain data.

    Args:
        kind: to build.
        data: as YAML or JSON has it.
        at: dotted key of ``data`` within the whole, for messages; empty for the whole.
        what: is wrong, as an error begins.

    Raises:
        ConfigError: a key is unknown or a value is wrong; the message names the dotted key, the
            value, and for an unknown key the known ones.
    """
    adapter = TypeAdapter(kind)
    # Dates are the one kind of value that YAML knows and JSON does not.
    text = json.dumps(data, default=str)
    try:
        return adapter.validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        schema = adapter.json_schema()
        problems = (_problem(schema, found, at) for found in error.errors())
        raise ConfigError(f"{what}: {'; '.join(problems)}") from None


def _problem(schema: dict[str, Any], found: ErrorDetails, at: str) -> str:
    """One thing that is wrong, in words. ``at`` is the dotted key of the whole ``schema``."""
    loc, kind = found["loc"], found["type"]
    key = _dotted(at, loc)
    if kind in UNKNOWN:
        return _unknown(schema, loc, at)
    shown = repr(found["input"])
    shown = shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + "…"
    named = f"`{key}`: " if key else ""
    if kind in NO_MAPPING:
        return f"{named}{shown} is no mapping of {_listed(_keys(schema, loc))}"
    if kind in KINDS:
        return f"{named}{shown} is no {KINDS[kind]}"
    if kind == "value_error":
        return named + found["msg"].removeprefix("Value error, ")
    return f"{named}{shown}: {found['msg']}"


def _unknown(schema: dict[str, Any], loc: tuple[int | str, ...], at: str) -> str:
    """A key that is not known: what became of it, or which ones are known."""
    key, last = _dotted(at, loc), str(loc[-1])
    if key in RENAMED:
        return f"`{key}` {RENAMED[key]}"
    known = _keys(schema, loc[:-1])
    near = difflib.get_close_matches(last, known, n=1)
    # The right key in the wrong section is a common slip.
    near = near or [k for k in _all_keys(schema, at) if k.rpartition(".")[2] == last]
    hint = f" (did you mean `{near[0]}`?)" if near else ""
    return f"unknown key `{key}`{hint}: {last!r} is none of {_listed(known)}"


def _dotted(at: str, loc: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return (at + "".join(parts)).removeprefix(".")


def _listed(keys: list[str]) -> str:
    return ", ".join(map(repr, sorted(keys)))


def _resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """A node of a JSON Schema, its reference followed."""
    if "$ref" in node:
        found: dict[str, Any] = schema["$defs"][node["$ref"].rpartition("/")[2]]
        return found
    return node


def _keys(schema: dict[str, Any], loc: tuple[int | str, ...]) -> list[str]:
    """Keys of the mapping at ``loc``."""
    node = schema
    for part in loc:
        node = _resolved(schema, node.get("properties", {}).get(part, {}))
    return list(_resolved(schema, node).get("properties", {}))


def _all_keys(schema: dict[str, Any], at: str, node: dict[str, Any] | None = None) -> Iterator[str]:
    """Dotted keys of the whole, outer ones first."""
    properties = _resolved(schema, schema if node is None else node).get("properties", {})
    for name in properties:
        yield _dotted(at, (name,))
    for name, inner in properties.items():
        yield from _all_keys(schema, _dotted(at, (name,)), inner)

"""Typed settings from YAML."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from prerank.core.errors import ConfigError

T = TypeVar("T")


def typed(kind: type[T], data: Any, where: str) -> T:
    """Build a (nested) config dataclass from plain data.

    Raises:
        ConfigError: a key is unknown or a value has another type; the message names the key.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"config {where}: {data!r} is no mapping of keys to values")
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(map(str, set(data) - known)):
        raise ConfigError(f"config {where}: unknown key {unknown}; known are {sorted(known)}")
    values = {k: _value(hints[k], v, f"{where}.{k}") for k, v in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"config {where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    options = get_args(hint)
    if get_origin(hint) is UnionType:
        if value is None and type(None) in options:
            return None
        (hint,) = (o for o in options if o is not type(None))
        options = get_args(hint)
    if is_dataclass(hint):
        return typed(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"config {where}: {value!r} is no list")
        return tuple(_value(options[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"config {where}: {value!r} is no {hint.__name__}")
    return value


class OnceLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, refusing a repeated key."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

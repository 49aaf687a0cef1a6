"""Which of a team's columns is which canonical field: of an event log, and of a catalogue.

Part of the event-log contract (``prerank.ingest.mapping``). A column that is looked for and not
there is an error that names the field, the nearest column there is, and the place in the mapping.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from prerank.core.errors import ConfigError


def distinct(names: Sequence[str], taken: Collection[str]) -> None:
    """Refuse a name that is listed twice or that a canonical column has.

    Raises:
        ValueError: naming it.
    """
    for at, name in enumerate(names):
        if name in names[:at]:
            raise ValueError(f"{name!r} is listed twice")
        if name in taken:
            raise ValueError(f"{name!r} is a canonical column; rename the team's column first")


class Strict(BaseModel):
    """A part of the mapping: never changed, and an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(Strict):
    """Canonical fields -> a team's columns."""

    @property
    def nested(self) -> tuple[str, ...]:
        """Columns whose names have dots, which JSON lines may hold inside objects."""
        named = [v if isinstance(v, tuple) else (v or "",) for v in dict(self).values()]
        return tuple(dict.fromkeys(n for names in named for n in names if "." in n))


class EventColumns(Columns):
    """Canonical event field -> the team's column.

    A field left out falls back to the column of the canonical name, where there is one; an
    explicit ``null`` says that there is none, whatever the columns are called.
    """

    request_time: str | None = None
    event_time: str | None = None
    timestamp: str | None = None
    user_id: str | None = None
    query: str | None = None
    item_id: str | None = None
    action: str | None = None
    request_id: str | None = None
    position: str | None = None
    event_id: str | None = None
    retriever_score: str | None = None
    retriever_rank: str | None = None
    l2_score: str | None = None

    @model_validator(mode="after")
    def _one_way_to_tell_time(self) -> EventColumns:
        if self.timestamp and (self.request_time or self.event_time):
            raise ValueError(
                "timestamp says that the log has only one time; drop it, or drop request_time and "
                "event_time"
            )
        return self


class ItemColumns(Columns):
    """Canonical catalogue field -> the team's column; ``numeric`` columns keep their names.

    ``embedding`` is a column of vectors, or the list of the columns that hold the numbers.
    """

    item_id: str | None = None
    title: str | None = None
    category: str | None = None
    created_at: str | None = None
    numeric: tuple[str, ...] = ()
    embedding: tuple[str, ...] = ()

    @field_validator("embedding", mode="before")
    @classmethod
    def _onecolumn_of(cls, value: Any) -> Any:
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _names_are_distinct(self) -> ItemColumns:
        taken = {"item_id", "item_ref", "title", "category", "created_at"}
        distinct(self.numeric, taken | {"embedding"})
        distinct(self.embedding, taken)
        return self


@dataclass(frozen=True)
class Resolved:
    """Canonical field -> column that is really there; absent optional fields are left out."""

    columns: dict[str, str]
    single_time: bool


def column_of(
    fields: EventColumns | ItemColumns,
    name: str,
    present: Sequence[str],
    where: str,
    *,
    needed: bool = False,
) -> str | None:
    """The column of the field ``name``: the mapped one, else that of the field's own name.

    None where an optional field has neither.

    Raises:
        ConfigError: a needed or a mapped column is not among those ``present``.
    """
    mapped: str | None = getattr(fields, name)
    if mapped is None and (needed or name not in fields.model_fields_set):
        mapped = name if needed or name in present else None
    if mapped is not None:
        section = "events" if isinstance(fields, EventColumns) else "items"
        require(mapped, name, present, where, section)
    return mapped


def require(column: str, name: str, present: Sequence[str], where: str, section: str) -> None:
    """Refuse a log without ``column``.

    Raises:
        ConfigError: naming the nearest column and the ``section`` of the mapping.
    """
    if column in present:
        return
    near = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"{where} has no column {column!r} (needed as {name}).{hint} It has: "
        f"{', '.join(present)}. Name the right one in the mapping, under `{section}:`."
    )

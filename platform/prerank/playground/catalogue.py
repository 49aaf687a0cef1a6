"""Items as people know them: id, title and category of each key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prerank.core.home import Home
from prerank.core.times import iso

_OWN = ("item_id", "item_ref", "title", "category", "created_at")


class Items:
    """The ingested catalogue, with the items of the log that it lacks.

    Args:
        home: that was ingested.

    Attributes:
        keys: int64 [n], ascending.
    """

    def __init__(self, home: Home) -> None:
        home.fetch(home.items)
        self._table = pq.read_table(home.items)
        self.keys: NDArray[np.int64] = self._table["item_id"].to_numpy()
        self._refs = self._table["item_ref"]
        self._titles = self._table["title"]
        self._categories = self._table["category"]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def titles(self) -> list[str]:
        """Of all items, in the order of ``keys``; "" where there is none."""
        found: list[str] = self._titles.to_pylist()
        return found

    def texts(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """What each item is found by: its title and its id."""
        titles, refs = self._titles.take(rows), self._refs.take(rows)
        pairs = zip(titles.to_pylist(), refs.to_pylist(), strict=True)
        return [f"{title} {ref}" for title, ref in pairs]

    def rows(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each key, -1 for one that is unknown."""
        at = np.minimum(np.searchsorted(self.keys, keys), max(len(self.keys) - 1, 0))
        known = self.keys[at] == keys if len(self.keys) else np.zeros(len(keys), np.bool_)
        return np.where(known, at, -1)

    def shown(self, keys: NDArray[np.int64]) -> list[dict[str, Any]]:
        """``id``, ``title`` and ``category`` of items; an unknown one has its key alone."""
        rows = self.rows(keys)
        return [
            self.at(row) if row >= 0 else {"id": str(key), "title": "", "category": ""}
            for key, row in zip(keys.tolist(), rows.tolist(), strict=True)
        ]

    def at(self, row: int) -> dict[str, Any]:
        """``id``, ``title`` and ``category`` of the item in a row."""
        return {
            "id": self._refs[row].as_py(),
            "title": self._titles[row].as_py(),
            "category": self._categories[row].as_py(),
        }

    def attributes(self, row: int) -> dict[str, Any]:
        """What else the catalogue says of the item in a row: ``created`` and its numbers."""
        created = self._table["created_at"][row].as_py()
        # An embedding is for models.
        numbers = [n for n in self._table.column_names if n not in (*_OWN, "embedding")]
        return {
            "created": iso(int(created.timestamp() * 1e6)) if created else None,
            "numeric": {name: _number(self._table[name][row].as_py()) for name in numbers},
        }


def _number(value: Any) -> Any:
    """A number that JSON can hold."""
    return None if isinstance(value, float) and not np.isfinite(value) else value

"""Two oracles that bound what a ranker of a simulated log can reach.

`oracle_relevance` gives P(engage | examined) for this user, query and item at this time, from the
hidden world. `oracle_log` gives the same probability as far as a perfect reader of the log could
know it: everything that is fixed per query, item, country and pair of them (learnable from an
endless log), the items the user touched, and an estimate of the user's interests and of the
topic behind the query from the user's actions logged before the request. The estimate is a
decayed count, not an exact posterior, so the log oracle is a little below the best possible.

In a world that moves it knows what each day asks for and which items are in fashion. In one with
sessions it knows what follows what, the item clicked before, and guesses the session's outcome
from the saves so far.

Where the log has the retriever's rank, both are times P(examined) at the item's place: there a
ranker knows the place, and clicks are what it is measured by.

Both are written while the log is, by the code that draws the actions, and only read here;
nothing in the pipeline may read them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prerank.simulate.presets import (
    MissingSimulationError,
    NotImpressedError,
    UnknownRequestError,
)

ORACLES: Final = ("oracle_relevance", "oracle_log")


class Oracle:
    """Scores the impressed items of logged requests.

    rows maps a request id to its row; items int64 [n] and scores float64 [n] hold all rows
    end to end, row r at offsets[r] … offsets[r + 1] (offsets int64 [rows + 1]).
    """

    def __init__(
        self,
        name: str,
        rows: dict[str, int],
        offsets: NDArray[np.int64],
        items: NDArray[np.int64],
        scores: NDArray[np.float64],
    ) -> None:
        self.name = name
        self._rows, self._offsets, self._items, self._scores = rows, offsets, items, scores

    def score(self, request_id: str, item_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(engage | examined) in [0, 1], float64 [n], of item ids int64 [n] in any order.

        Raises `UnknownRequestError` for a request that is not in the log and
        `NotImpressedError` for an item the request did not show.
        """
        row = self._rows.get(request_id)
        if row is None:
            raise UnknownRequestError(
                f"request {request_id!r} is not in this simulated log; "
                "load the oracles of the folder the request came from"
            )
        part = slice(self._offsets[row], self._offsets[row + 1])
        shown, scores = self._items[part], self._scores[part]
        wanted = np.asarray(item_ids, dtype=np.int64)
        same = wanted[:, None] == shown[None, :]
        found = same.any(axis=1)
        if not found.all():
            raise NotImpressedError(
                f"request {request_id!r} did not show item {wanted[~found][0]}; "
                "oracles score impressed items only"
            )
        return np.asarray(scores[same.argmax(axis=1)])


def load_oracles(sim_dir: Path) -> dict[str, Oracle]:
    """The oracles of a simulation, {"oracle_relevance": …, "oracle_log": …}.

    Reads every hidden score into memory (24 bytes per impression, about 120 per request).
    Raises `MissingSimulationError` when `sim_dir` was not written by `simulate`.
    """
    parts = sorted((Path(sim_dir) / "hidden").glob("*.parquet"))
    if not parts:
        raise MissingSimulationError(
            f"{sim_dir} holds no hidden/*.parquet; write it with prerank.simulate.simulate"
        )
    tables = [pq.read_table(part) for part in parts]
    ids = [request for table in tables for request in table["request_id"].to_pylist()]
    lengths = np.concatenate([pc.list_value_length(table["item_ids"]) for table in tables])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = {request: row for row, request in enumerate(ids)}
    flat = {
        column: np.concatenate(
            [table[column].combine_chunks().flatten().to_numpy() for table in tables]
        )
        for column in ("item_ids", *ORACLES)
    }
    return {name: Oracle(name, rows, offsets, flat["item_ids"], flat[name]) for name in ORACLES}

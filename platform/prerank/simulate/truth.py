"""Who spams, written beside a log and read by nobody but an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prerank.simulate.spam import KINDS
from prerank.simulate.world import World

CLICKER = "clicker"
SPAMMERS_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("kind", pa.string()),
        ("campaign", pa.int64()),
        ("item_id", pa.int64()),
        ("query", pa.string()),
    ]
)


def write_spammers(folder: Path, world: World, names: Any, seen: NDArray[np.bool_]) -> None:
    """Write folder/spammers.parquet, by name: the spammers that occur in the log.

    kind: greedy, ring, sybil, or clicker: a user who clicks whatever is examined, and so has no
    campaign, item and query. names Arrow strings [U + B]; seen bool [U + B].
    """
    rows: list[dict[str, Any]] = [
        {"user_id": names[int(user)].as_py(), "kind": CLICKER}
        for user in np.flatnonzero(world.users.spammer & seen)
    ]
    spam, first = world.spam, world.preset.users
    for at in np.flatnonzero(seen[first:]) if spam is not None else ():
        assert spam is not None
        rows.append(
            {
                "user_id": names[int(first + at)].as_py(),
                "kind": KINDS[spam.kind[at]],
                "campaign": int(spam.campaign[at]),
                "item_id": int(world.items.ids[spam.item[at]]),
                "query": world.queries.texts[spam.query[at]][0],
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows.sort(key=lambda row: str(row["user_id"]))
    pq.write_table(pa.Table.from_pylist(rows, SPAMMERS_SCHEMA), folder / "spammers.parquet")

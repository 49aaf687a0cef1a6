"""Users taken out of feature tables: which rows have a part of theirs, and whose histories go.

Counts that hold a user's engagements are written again from the log without that user
(``prerank.features.build``, ``restate``). Tables of another schema are of a log that is gone: of
them the histories are taken away, and the counts stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank.features.schema import FeatureSchema
from prerank.core.feature_sets import FOLDER
from prerank.core.files import linked, replaced, settled
from prerank.core.home import Home
from prerank.core.shards import LazyParquet
from prerank.features.explode import EXPOSED, action_codes, explode, reaches
from prerank.features.shard import USERS

OF_USERS = ("user_history", "state/users")
"""Tables by user. No other one names a user."""


def keys_of(schema: FeatureSchema, events: pa.Table) -> list[str]:
    """The engagement keys, sorted, whose rows count some of the canonical ``events``."""
    if not len(events):
        return []
    reach = reaches(schema)[action_codes(schema, events)]
    if schema.exposure:
        reach[np.array(events["action"].to_pylist()) == "impression"] = EXPOSED
    segments = {column: events[column] for column in schema.segments}
    return sorted(explode(events["query"], segments, reach).names)


def histories_without(home: Home, users: Collection[str]) -> int:
    """Take users' histories out of the tables of every schema in ``home``; how many rows went."""
    settled(home.features)
    home.fetch(home.features)
    return sum(
        _without(folder, users)
        for folder in sorted(home.features.glob(FOLDER))
        if _holding(folder, users)
    )


def _holding(folder: Path, users: Collection[str]) -> list[Path]:
    wanted = pa.array(list(users))
    files = [file for table in OF_USERS for file in sorted((folder / table).glob("*.parquet"))]
    return [
        file
        for file in files
        if pc.any(pc.is_in(pq.read_table(file, columns=["user_id"])["user_id"], wanted)).as_py()
    ]


def _without(folder: Path, users: Collection[str]) -> int:
    """Publish a schema's tables again without the rows of ``users``; how many rows went."""
    gone = 0
    with replaced(folder) as out:
        held = set(_holding(folder, users))
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path not in held:
                linked(path, out / path.relative_to(folder))
        for path in held:
            rows = pq.read_table(path)
            left = rows.filter(pc.invert(pc.is_in(rows["user_id"], pa.array(list(users)))))
            with ExitStack() as stack:
                LazyParquet(stack, out / path.relative_to(folder), USERS).write(left)
            gone += len(rows) - len(left)
        for table in ("engagement", "user_history"):
            (out / table).mkdir(exist_ok=True)
    return gone

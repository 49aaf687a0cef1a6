"""How the weights of flagged users change from snapshot to snapshot."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prerank.core.shards import shard_of
from prerank.core.trust import Flags
from prerank.features.states import UNIT


@dataclass(frozen=True, eq=False)
class FlagSteps:
    """Changes of users' weights, which begin at UNIT.

    Attributes:
        names: users who have some, string [u], ascending and distinct.
        starts: int64 [u + 1]; the changes of user ``i`` are those from ``starts[i]`` on of:
        bucket: int64 [n], when each takes effect, in cadences since 1970; ascending by user.
        delta: int64 [n], in parts of UNIT, never 0.
    """

    names: pa.Array
    starts: NDArray[np.int64]
    bucket: NDArray[np.int64]
    delta: NDArray[np.int64]

    @classmethod
    def of(cls, flags: Flags, cadence_us: int, last: int) -> FlagSteps:
        """Of the flags that are known before the cutoff ``last``; weights are rounded to UNIT."""
        bucket = flags.known_us // cadence_us
        lines = np.flatnonzero(bucket < last)
        users = pa.array(flags.users, pa.string()).take(pa.array(lines))
        names = users.unique()
        names = names.take(pc.sort_indices(names))
        user = pc.index_in(users, names).to_numpy().astype(np.int64)
        order = np.lexsort((lines, bucket[lines], user))
        user, lines = user[order], lines[order]
        # Of the lines that are known by then, the last one of the journal counts.
        base = user * np.int64(len(flags.users))
        latest = np.maximum.accumulate(base + lines) - base
        weight = np.rint(flags.weights[latest] * UNIT).astype(np.int64)
        bucket = bucket[lines]
        # One change for each bucket, by what its last line makes of the weight.
        same = (user[1:] == user[:-1]) & (bucket[1:] == bucket[:-1])
        kept = np.append(~same, np.ones(min(len(user), 1), bool))
        user, bucket, weight = user[kept], bucket[kept], weight[kept]
        first = np.diff(user, prepend=-1) != 0
        delta = weight - np.where(first, UNIT, np.roll(weight, 1))
        changes = delta != 0
        starts = np.searchsorted(user[changes], np.arange(len(names) + 1))
        return cls(names, starts, bucket[changes], delta[changes])._with_changes()

    def _with_changes(self) -> FlagSteps:
        """Without the users who have no change."""
        return self._of(np.flatnonzero(np.diff(self.starts)))

    def _of(self, users: NDArray[np.int64]) -> FlagSteps:
        lengths = np.diff(self.starts)[users]
        starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
        at = np.repeat(self.starts[users] - starts[:-1], lengths) + np.arange(starts[-1])
        return FlagSteps(self.names.take(pa.array(users)), starts, self.bucket[at], self.delta[at])

    @cached_property
    def sums(self) -> NDArray[np.int64]:
        """What each change and those before it of the same user come to: int64 [n]."""
        lengths = np.diff(self.starts)
        total = np.cumsum(self.delta)
        earlier = np.append(0, total)[self.starts[:-1]]
        found: NDArray[np.int64] = total - np.repeat(earlier, lengths)
        return found

    def of_shard(self, shard: int, shards: int) -> FlagSteps:
        """Those of a shard's users."""
        own = [at for at, n in enumerate(self.names.to_pylist()) if shard_of(n, shards) == shard]
        return self._of(np.array(own, np.int64))

    def places(self, users: pa.Array) -> NDArray[np.int64]:
        """Place of each of ``users`` [n] among the names: int64 [n], -1 for none."""
        found: NDArray[np.int64] = pc.index_in(users, self.names).fill_null(-1).to_numpy()
        return found.astype(np.int64)

    def changed(self, after: int | None) -> pa.Array:
        """Users whose weight changes at ``after`` or later; none where nothing was before."""
        if after is None:
            return self.names[:0]
        user = np.repeat(np.arange(len(self.names)), np.diff(self.starts))
        return self.names.take(pa.array(np.unique(user[self.bucket >= after])))

    def digest(self) -> str:
        """Sixteen hex digits over all changes."""
        parts = ("\n".join(self.names.to_pylist()).encode(), self.starts, self.bucket, self.delta)
        found = hashlib.sha256()
        for part in parts:
            found.update(part if isinstance(part, bytes) else part.tobytes())
        return found.hexdigest()[:16]

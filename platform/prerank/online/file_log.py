"""The journal in files of the home: see ``prerank.online.segments`` and ``compaction``.

One host appends, and holds its shard by ``flock`` (``prerank.online.ownership``).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prerank.core.forgotten import Forgotten, following
from prerank.core.home import Home
from prerank.online.checkpoint import Checkpoint
from prerank.online.compaction import JournalConfig, compact, is_due
from prerank.online.dead_letters import DeadLetters, path_of
from prerank.online.event_log import Batch, Merged
from prerank.online.journal import replay
from prerank.online.ownership import Ownership
from prerank.online.segments import Segment, Segments, found_segments, live_segments, opened

logger = logging.getLogger(__name__)


class FileReplay:
    """What one owner has merged of a folder's journals into one online store.

    Args:
        folder: of the journals.
        checkpoint: file in which that is kept; a new store's is not there, so all is replayed.
        shard, shards: whose.
    """

    def __init__(self, folder: Path, checkpoint: Path, shard: int, shards: int) -> None:
        self._folder, self._shard, self._shards = folder, shard, shards
        self._merged, self._lock = Checkpoint(checkpoint), threading.Lock()
        with opened(folder) as files:
            lengths = {s.path.name: os.fstat(file.fileno()).st_size for s, file in files}
        self.stale = any(self._merged[name] < length for name, length in lengths.items())

    def unmerged(self) -> Iterator[Batch]:
        """As ``EventLog.unmerged``."""
        self.stale = False
        with opened(self._folder) as files:
            for segment, file in files:
                name = segment.path.name
                own = segment.shard % self._shards == self._shard
                for records, end in replay(file, self._merged[name]):
                    yield Batch(records, own, self.merged(name, end))

    def merged(self, name: str, end: int) -> Merged:
        """What marks a segment as merged up to byte ``end``."""

        def mark() -> None:
            with self._lock:
                self._merged[name] = end

        return mark

    def save(self) -> None:
        """As ``EventLog.save``."""
        with self._lock:
            self._merged.save([s.path.name for s in live_segments(self._folder)])

    def forget(self, before: float) -> None:
        """Remove what is older than a time, seconds since 1970, where nobody appends any more."""
        # The oldest first: those that a compact one has replaced must not outlive it.
        for segment in found_segments(self._folder):
            own = segment.shard % self._shards == self._shard
            if own and segment.path.stat().st_mtime < before:
                segment.path.unlink(missing_ok=True)
        if path_of(self._folder).exists():
            DeadLetters(self._folder).forget(before)


class FileLog:
    """An ``EventLog`` in the folder of a home's journals.

    Args:
        home: whose.
        checkpoint: file that says what is merged into the online store.
        shard, shards: which users are this owner's.
        config: how much is kept.
        wait_s: how long to wait for another owner of these users to end.

    Raises:
        NotReadyError: another writer owns these users; the message names it.
    """

    def __init__(
        self,
        home: Home,
        checkpoint: Path,
        shard: int,
        shards: int,
        config: JournalConfig,
        wait_s: float,
    ) -> None:
        folder = home.journal
        self._folder, self._shard, self._shards, self._config = folder, shard, shards, config
        self._owned = Ownership(folder, shard, shards, wait_s)
        self._segments = Segments(folder, shard, config.segment_bytes)
        self._dead = DeadLetters(folder)
        self._replay = FileReplay(folder, checkpoint, shard, shards)
        self._cut = dict[int, int]()
        self._following = following(home)
        self._left_out, self._leaving_out = Forgotten(), Forgotten()
        self.unmerged, self.save = self._replay.unmerged, self._replay.save
        self.set_aside, self.close = self._dead.add, self._owned.release

    @property
    def stale(self) -> bool:
        """As ``EventLog.stale``: only what was there before this owner."""
        return self._replay.stale

    def append(self, records: Sequence[Mapping[str, Any]]) -> Merged:
        """As ``EventLog.append``: in a file, and synced."""
        return self._replay.merged(*self._segments.append(records))

    def cut(self) -> None:
        """As ``EventLog.cut``: end the segments of what is due for compaction."""
        self._leaving_out = self._following.now()
        to_purge = self._leaving_out != self._left_out
        for shard, own in self._own_segments().items():
            if to_purge or is_due(own, self._config, time.time()):
                self._cut[shard] = self._end_of(shard, own)

    def tidy(self, passive: Collection[str]) -> None:
        """As ``EventLog.tidy``."""
        while self._cut:
            shard, number = self._cut.popitem()
            name, length = compact(
                self._folder,
                shard,
                number,
                passive,
                self._config.days,
                self._dead,
                self._leaving_out,
            )
            # All of it is online: it was in segments that were.
            self._replay.merged(name, length)()
            self.save()
        self._left_out = self._leaving_out
        if since := self._config.since():
            self._dead.forget(since)

    def purge(self) -> None:
        """As ``EventLog.purge``."""
        for shard, own in self._own_segments().items():
            number = self._end_of(shard, own)
            compact(self._folder, shard, number, (), None, self._dead, self._following.now())

    def _own_segments(self) -> dict[int, list[Segment]]:
        """Live segments by shard; journals of more writers than there are now are among them."""
        live = live_segments(self._folder)
        own = sorted({s.shard for s in live if s.shard % self._shards == self._shard})
        return {shard: [s for s in live if s.shard == shard] for shard in own}

    def _end_of(self, shard: int, segments: Sequence[Segment]) -> int:
        """End a shard's segments; the number of the one that may take their place."""
        own = shard == self._shard
        return self._segments.next_number() if own else segments[-1].number + 1

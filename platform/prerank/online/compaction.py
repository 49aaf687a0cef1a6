"""Making journals of files small: what no replay needs (``replay_needs``) and what is older than is
allowed is left out.

All segments of a shard are read and one takes their place. The cost of that is kept linear: it is
done when as much was appended as is kept, and once a day so that old events go. A crash leaves the
old segments, or the new one with old ones beside it that no reader takes
(``segments.live_segments``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from prerank.core.errors import DataError
from prerank.core.files import sync_folder
from prerank.core.forgotten import NOBODY, Forgotten
from prerank.online.dead_letters import DeadLetters
from prerank.online.journal import replay, write_lines
from prerank.online.records import ACKNOWLEDGED, event_of
from prerank.online.replay_needs import Acknowledged, needed_lines, split_by_user
from prerank.online.segments import Segment, found_segments, live_segments, segment_name

DAY_S = 86_400


@dataclass(frozen=True)
class JournalConfig:
    """How much of the journals is kept.

    Attributes:
        days: an event is removed this long after it was acknowledged, within two days; None keeps
            what a replay needs for ever.
        segment_bytes: at this length a segment ends and another one begins. In Redis: a journal
            that has grown by as much may be compacted.
    """

    days: float | None = 90.0
    segment_bytes: int = 64 << 20

    def since(self) -> float:
        """What was acknowledged before it may be removed now, seconds since 1970."""
        return 0.0 if self.days is None else time.time() - self.days * DAY_S


def is_due(segments: Sequence[Segment], config: JournalConfig, now: float) -> bool:
    """Whether it is time to compact a shard that has these live ``segments``."""
    sizes = {s: s.path.stat().st_size for s in segments}
    kept = sum(size for s, size in sizes.items() if s.compact)
    appended = sum(sizes.values()) - kept
    if appended >= max(kept, config.segment_bytes):
        return True
    ages = bool(appended or (kept and config.days is not None))
    return ages and now - min(s.number for s in segments) >= DAY_S


def compact(
    folder: Path,
    shard: int,
    number: int,
    passive: Collection[str],
    days: float | None,
    dead: DeadLetters,
    forgotten: Forgotten = NOBODY,
) -> tuple[str, int]:
    """Put one segment in the place of all of a shard's; its name and its length in bytes.

    Args:
        folder: of the journals.
        shard: nobody appends to its present segments any more.
        number: of the new segment, above theirs.
        passive: actions that are left out.
        days: None, or how long ago an event may have been acknowledged.
        dead: what is no event is set aside there.
        forgotten: users whose events are left out.

    Raises:
        OSError: the disk refuses; the segments are as they were.
    """
    target = folder / segment_name(shard, number, compact=True)
    segments = [s for s in live_segments(folder) if s.shard == shard and s.number < number]
    since = JournalConfig(days).since()
    size = sum(s.path.stat().st_size for s in segments)
    _remove_leftovers(folder, shard)
    with TemporaryDirectory(dir=folder, prefix=_parts_prefix(shard)) as name:
        parts = split_by_user(_records(segments, dead, forgotten), Path(name), size, passive, since)
        kept = (line for part in parts for _, line in needed_lines(part))
        length = write_lines(target, kept)
    for segment in found_segments(folder):
        if segment.shard == shard and (segment.number, segment.compact) < (number, True):
            segment.path.unlink()
    sync_folder(folder)
    return target.name, length


def _records(
    segments: Sequence[Segment], dead: DeadLetters, forgotten: Forgotten
) -> Iterator[Acknowledged]:
    for segment in segments:
        with segment.path.open("rb") as file:
            # What was acknowledged before records told when is no younger than its file.
            written = int(os.fstat(file.fileno()).st_mtime)
            for records, _ in replay(file):
                for record in records:
                    try:
                        event = event_of(record)
                    except DataError as error:
                        if not forgotten.named_in(record):
                            dead.add([(record, str(error))])
                        continue
                    if event.user_id not in forgotten:
                        yield Acknowledged(event, record.get(ACKNOWLEDGED, written))


def _parts_prefix(shard: int) -> str:
    return f".compact-{shard:03d}-"


def _remove_leftovers(folder: Path, shard: int) -> None:
    """Remove what a process that was killed while it compacted this shard left."""
    for parts in folder.glob(f"{_parts_prefix(shard)}*"):
        for file in parts.iterdir():
            file.unlink()
        parts.rmdir()
    # Half-written segments; an earlier release ended their names in ".partial".
    for kind in ("tmp", "partial"):
        for half in folder.glob(f".writer-{shard:03d}-*.{kind}"):
            half.unlink()

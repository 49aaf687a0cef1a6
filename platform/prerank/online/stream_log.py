"""The journal in Redis, for writers on several hosts: a stream per shard, whose owner has a lease.

``append`` returns when Redis has the records, as safely as Redis is set up: with `appendfsync
always` on disk, and on as many replicas as its `min-replicas-to-write` asks for (WAIT).

What is merged is kept as an id per stream, beside the online store that it tells of, and read from
there on. A consumer group would keep the same for each entry, for readers that share a stream; here
one owner reads all of it, in order, and merging an entry again changes nothing.

What stands in journals of files, from before the home had its journal in Redis, is merged from
there (``file_log.FileReplay``), and removed when it is older than is allowed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from redis import RedisError, ResponseError

from prerank.core.errors import DataError, NotReadyError
from prerank.core.forgotten import Forgotten, following
from prerank.core.home import Home
from prerank.core.redact import redact
from prerank.online.compaction import JournalConfig, compact
from prerank.online.dead_letters import DeadLetters
from prerank.online.event_log import Batch, Merged
from prerank.online.file_log import FileReplay
from prerank.online.journal import REPLAY_BATCH
from prerank.online.lease import FENCED, LEASE_S, PRELUDE, Lease
from prerank.online.records import ACKNOWLEDGED, event_of
from prerank.online.replay_needs import Acknowledged, needed_in_order, split_by_user
from prerank.online.segments import found_segments
from prerank.online.streams import BEGIN, FIELD, NO_AOF, Streams, reached

_REQUIRE = PRELUDE + f"if not require_owner() then return redis.error_reply('{FENCED}') end\n"
_APPEND = (
    _REQUIRE
    + f"""
redis.call('SADD', KEYS[3], ARGV[3])
local last
for i = 4, #ARGV do last = redis.call('XADD', KEYS[2], '*', '{FIELD.decode()}', ARGV[i]) end
return last
"""
)
_SAVE = _REQUIRE + "redis.call('HSET', KEYS[2], unpack(ARGV, 3))"
# Entries keep their ids, so that what is known to be merged stays true. What came while the new
# stream was made is brought over, and the two change places, in one step.
_REPLACE = (
    _REQUIRE
    + """
if redis.call('EXISTS', KEYS[3]) == 0 then
  return redis.call('XTRIM', KEYS[2], 'MINID', ARGV[4])
end
local last
local info = redis.call('XINFO', 'STREAM', KEYS[2])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '(' .. ARGV[3], '+')) do
  redis.call('XADD', KEYS[3], entry[1], unpack(entry[2]))
end
redis.call('XSETID', KEYS[3], last)
redis.call('RENAME', KEYS[3], KEYS[2])
"""
)

logger = logging.getLogger(__name__)


class StreamLog:
    """An ``EventLog`` in the Redis that PRERANK_REDIS names.

    Args:
        home: whose.
        checkpoint: file that says what is merged of the home's journals of files.
        shard, shards: which users are this owner's.
        config: how much is kept.
        wait_s: how long to wait for another owner of these users to end.
        lease_s: how long an owner that does not answer keeps the users.

    Raises:
        NotReadyError: another writer owns these users, or Redis cannot be used.
    """

    def __init__(
        self,
        home: Home,
        checkpoint: Path,
        shard: int,
        shards: int,
        config: JournalConfig,
        wait_s: float,
        lease_s: float = LEASE_S,
    ) -> None:
        self._shard, self._shards, self._config = shard, shards, config
        self._streams = Streams(home)
        self._client = self._streams.client
        self._files = FileReplay(home.journal, checkpoint, shard, shards)
        with reached():
            self._lease = Lease(self._streams, home.place, shard, shards, wait_s, lease_s)
            try:
                self._rereads = self._lease.rereads
                self._merged = self._checkpoint()
                self._behind = any(
                    self._streams.is_beyond(s, self._merged.get(s, BEGIN))
                    for s in self._streams.shards()
                )
                self._replicas = self._replicas_needed()
                # An owner of before may have known of more users who were forgotten.
                self._streams.left_out(self._lease.users, "")
                if not self._streams.is_durable():
                    logger.warning(NO_AOF)
            except BaseException:
                self._lease.release()
                raise
        self._cut = dict[int, bytes]()
        self._home, self._following = home, following(home)
        self._left_out, self._leaving_out = Forgotten(), Forgotten()

    @property
    def stale(self) -> bool:
        """As ``EventLog.stale``: also when the users were another's for a while."""
        return self._behind or self._files.stale or self._lease.changed.is_set()

    def append(self, records: Sequence[Mapping[str, Any]]) -> Merged:
        """As ``EventLog.append``."""
        lines = [orjson.dumps(record) for record in records]
        token = self._lease.token
        if not lines:
            return lambda: None
        keys = self._streams.stream(self._shard), self._streams.key("shards")
        end = self._as_owner(_APPEND, keys, [self._shard, *lines], token, self._replicas)
        return self._mark(self._shard, end, token)

    def unmerged(self) -> Iterator[Batch]:
        """As ``EventLog.unmerged``."""
        if self._lease.changed.is_set():
            self._lease.changed.clear()
            self._rereads = self._lease.rereads
            self._merged.clear()
        self._behind = False
        token = self._lease.token
        yield from self._files.unmerged()
        for shard in self._streams.shards():
            own = shard % self._shards == self._shard
            for entries in self._streams.read(shard, self._merged.get(shard, BEGIN)):
                merged = self._mark(shard, entries[-1].id, token)
                yield Batch([entry.record for entry in entries], own, merged)

    def save(self) -> None:
        """As ``EventLog.save``."""
        self._files.save()
        merged = [value for pair in self._merged.items() for value in pair]
        key = self._streams.key("merged", self._lease.users)
        try:
            self._as_owner(_SAVE, [key], ["rereads", self._rereads, *merged])
        except NotReadyError as error:
            logger.warning("what is merged could not be written down: %s", error)

    def set_aside(self, letters: Sequence[tuple[Any, str]]) -> None:
        """As ``EventLog.set_aside``."""
        with reached():
            self._streams.set_aside(letters)

    def cut(self) -> None:
        """As ``EventLog.cut``."""
        # Whoever merges from now on knows of them.
        self._leaving_out = self._following.now()
        # Journals of more writers than there are now are looked after, too.
        self._cut = {s: e for s, e in self._merged.items() if s % self._shards == self._shard}

    def tidy(self, passive: Collection[str]) -> None:
        """As ``EventLog.tidy``."""
        since, forgotten = self._config.since(), self._leaving_out
        to_purge = forgotten != self._left_out
        oldest = b"%d-0" % int(1e3 * since)
        with reached():
            for shard, end in self._cut.items():
                first = min(oldest, _after(end), key=_order)
                self._client.xtrim(self._streams.stream(shard), minid=first, approximate=False)
                kept = int(self._client.hget(self._streams.key("compacted"), str(shard)) or 0)
                size = self._size(shard)
                if to_purge or size - kept >= max(kept, self._config.segment_bytes):
                    self._compact(shard, end, size, passive)
            if to_purge:
                for name, length in self._compacted_files():
                    self._files.merged(name, length)()
                self.save()
                self._streams.left_out(self._lease.users, forgotten.digest)
            self._left_out = forgotten
            self._streams.forget_dead_letters(since)
        self._files.forget(since)

    def purge(self) -> None:
        """As ``EventLog.purge``: also of the journals of files, to which nobody appends."""
        with reached():
            for shard in self._streams.shards():
                if shard % self._shards == self._shard and (end := self._streams.end(shard)):
                    self._compact(shard, end, self._size(shard), ())
        for _ in self._compacted_files():
            pass

    def close(self) -> None:
        """As ``EventLog.close``."""
        self._lease.release()
        self._streams.close()

    def _compact(self, shard: int, end: bytes, size: int, passive: Collection[str]) -> None:
        """Put a stream with what a replay needs in the place of one that is merged up to ``end``.

        While it is made, Redis holds both.
        """
        live, new = self._streams.stream(shard), self._streams.key("compacting", f"{shard:03d}")
        self._client.delete(new)
        with TemporaryDirectory(prefix="prerank-journal-") as name:
            records = self._acknowledged(shard, end)
            kept = needed_in_order(split_by_user(records, Path(name), size, passive, 0.0))
            while batch := list(islice(kept, REPLAY_BATCH)):
                with self._client.pipeline(transaction=False) as pipe:
                    for place, line in batch:
                        pipe.xadd(new, {FIELD: line.rstrip()}, id=b"%d-%d" % _order(place))
                    pipe.execute()
        self._as_owner(_REPLACE, [live, new], [end, _after(end)])
        self._client.hset(self._streams.key("compacted"), str(shard), self._size(shard))

    def _compacted_files(self) -> Iterator[tuple[str, int]]:
        """Make own journals of files anew, to which nobody appends; the name and size of each."""
        folder = self._home.journal
        for shard, of_shard in groupby(found_segments(folder), key=lambda s: s.shard):
            if shard % self._shards == self._shard:
                number = max(s.number for s in of_shard) + 1
                dead, forgotten = DeadLetters(folder), self._following.now()
                yield compact(folder, shard, number, (), None, dead, forgotten)

    def _acknowledged(self, shard: int, end: bytes) -> Iterator[Acknowledged]:
        forgotten = self._following.now()
        for entries in self._streams.read(shard, stop=end):
            for entry in entries:
                place = _order(entry.id)
                try:
                    event = event_of(entry.record)
                except DataError as error:
                    if not forgotten.named_in(entry.record):
                        self._streams.set_aside([(entry.record, str(error))])
                    continue
                if event.user_id not in forgotten:
                    at = entry.record.get(ACKNOWLEDGED, place[0] // 1_000)
                    yield Acknowledged(event, at, b"%020d-%020d" % place)

    def _size(self, shard: int) -> int:
        """Bytes that a stream takes in Redis, about."""
        return int(self._client.memory_usage(self._streams.stream(shard)) or 0)

    def _mark(self, shard: int, end: bytes, token: str) -> Merged:
        def mark() -> None:
            with reached():
                self._lease.check(token)
            self._merged[shard] = end

        return mark

    def _as_owner(
        self,
        script: str,
        keys: Sequence[str],
        args: Sequence[Any],
        token: str | None = None,
        replicas: int = 0,
    ) -> Any:
        """Run a script that only the owner may run, and wait for as many replicas.

        Raises:
            NotReadyError: the users have another owner, or Redis cannot be used.
        """
        names = [self._lease.keys[0], *keys]
        owner = self._lease.users, token or self._lease.token
        with reached(), self._client.pipeline(transaction=False) as pipe:
            pipe.eval(script, len(names), *names, *owner, *args)
            if replicas:
                # On the same connection: WAIT is for what that one wrote.
                patience_s = self._client.get_connection_kwargs()["socket_timeout"]
                pipe.execute_command("WAIT", replicas, int(500 * patience_s))
            # Not raised there: the message would hold the records.
            done, *copies = pipe.execute(raise_on_error=False)
            for reply in (done, *copies):
                if isinstance(reply, ResponseError) and FENCED in str(reply):
                    raise self._lease.lost()
                if isinstance(reply, Exception):
                    raise reply
        if copies and copies[0] < replicas:
            raise NotReadyError(
                f"{copies[0]} of the {replicas} replicas that Redis must have "
                "(min-replicas-to-write) answered in time. Send the events again."
            )
        return done

    def _checkpoint(self) -> dict[int, bytes]:
        found = self._client.hgetall(self._streams.key("merged", self._lease.users))
        if found.pop(b"rereads", b"") != self._rereads:
            # Owners were told to merge again while these users had none.
            return {}
        return {int(shard): end for shard, end in found.items()}

    def _replicas_needed(self) -> int:
        try:
            found = self._client.config_get("min-replicas-to-write")
        except RedisError as error:
            # Not every account may ask.
            logger.info("Redis does not tell its settings: %s", redact(str(error)))
            return 0
        return int(found.get("min-replicas-to-write", 0))


def _order(id: bytes) -> tuple[int, int]:
    """The two numbers of an entry's id, by which entries are ordered."""
    ms, _, number = id.partition(b"-")
    return int(ms), int(number)


def _after(id: bytes) -> bytes:
    """The first id after an entry's."""
    ms, number = _order(id)
    return b"%d-%d" % (ms, number + 1)

"""The journal in Redis: its keys, and what is read from them.

All keys begin with the home's Feast project, as online rows end with it, so homes may share a
Redis:

    <project>:journal:events:SSS           stream of shard SSS; an entry is one record
    <project>:journal:shards               set of the shards that have a stream
    <project>:journal:merged:SSS-of-NNN    hash: per shard, up to which entry its owner has merged;
                                           and the value of rereads that it knew
    <project>:journal:owners               hash: per SSS-of-NNN, who owns it and until when
    <project>:journal:rereads              counter: owners read everything again when it grows
    <project>:journal:compacted            hash: per shard, bytes that the last compaction left
    <project>:journal:dead                 hash of dead letters
    <project>:journal:left-out             hash: per SSS-of-NNN, digest of the users who were
                                           forgotten of whom its owner writes nothing any more

An entry's id is the time in milliseconds at which it was acknowledged, by Redis's clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import orjson
from redis import RedisError

from prerank.core.errors import DataError, NotReadyError
from prerank.core.forgotten import Forgotten
from prerank.core.home import Home
from prerank.core.redact import redact
from prerank.online.dead_letters import digest
from prerank.online.history import Event
from prerank.online.journal import REPLAY_BATCH
from prerank.online.records import event_of
from prerank.online.store import WRITER, Patience, redis_client

FIELD = b"e"
"""Of an entry: the record as JSON."""
BEGIN = b"0-0"
NO_AOF = (
    "Redis keeps the journal without an append-only file: acknowledged events are lost when it "
    "stops. Set `appendonly yes` there."
)

logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """One record of a stream; ``record`` is text where it is no JSON."""

    id: bytes
    record: Any


@contextmanager
def reached() -> Iterator[None]:
    """Tell of a Redis that does not answer, or refuses, with the remedy.

    Raises:
        NotReadyError: in place of Redis's error.
    """
    try:
        yield
    except (RedisError, OSError) as error:
        why = redact(str(error)).rstrip(".")
        raise NotReadyError(
            f"the journal in Redis cannot be used: {why}. Bring Redis back, or make room in it; "
            "callers then send their events again."
        ) from error


class Streams:
    """The journal of a home in the Redis that PRERANK_REDIS names. Safe to share between threads.

    All methods raise RedisError where it is away.
    """

    def __init__(self, home: Home, patience: Patience = WRITER) -> None:
        # redis-py types every reply as one that may be awaited.
        self.client: Any
        self.client, project = redis_client(home, patience)
        self._prefix = f"{project}:journal:"

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def key(self, *parts: str) -> str:
        """Name of a key."""
        return self._prefix + ":".join(parts)

    def stream(self, shard: int) -> str:
        """Key of a shard's stream."""
        return self.key("events", f"{shard:03d}")

    def shards(self) -> list[int]:
        """The shards that have a stream."""
        return sorted(int(shard) for shard in self.client.smembers(self.key("shards")))

    def read(self, shard: int, after: bytes = BEGIN, stop: bytes = b"") -> Iterator[list[Entry]]:
        """Batches of a stream's entries, up to ``stop`` or else to its present end."""
        key = self.stream(shard)
        stop = stop or self.end(shard) or BEGIN
        while rows := self.client.xrange(key, b"(" + after, stop, count=REPLAY_BATCH):
            yield [Entry(id, _record(fields)) for id, fields in rows]
            after = rows[-1][0]

    def end(self, shard: int) -> bytes:
        """Id of a stream's last entry; empty where it has none."""
        last: list[tuple[bytes, Any]] = self.client.xrevrange(self.stream(shard), count=1)
        return last[0][0] if last else b""

    def is_beyond(self, shard: int, after: bytes) -> bool:
        """Whether a stream goes on after an entry."""
        return bool(self.client.xrange(self.stream(shard), b"(" + after, "+", count=1))

    def events(self) -> Iterator[list[Event]]:
        """Batches of all acknowledged events; what is no event is left out."""
        for shard in self.shards():
            for entries in self.read(shard):
                events = []
                for entry in entries:
                    with suppress(DataError):
                        events.append(event_of(entry.record))
                yield events

    def set_aside(self, letters: Sequence[tuple[Any, str]]) -> None:
        """Keep dead letters, each once; see ``prerank.online.dead_letters``."""
        at = int(time.time())
        for record, reason in letters:
            letter = orjson.dumps({"reason": reason, "at": at, "record": record})
            if self.client.hsetnx(self.key("dead"), str(digest(record)), letter):
                logger.error("an event enters no history: %s; see %s", reason, self.key("dead"))

    def count_dead_letters(self) -> int:
        """How many records are set aside."""
        return int(self.client.hlen(self.key("dead")))

    def forget_dead_letters(self, before: float) -> None:
        """Remove what was set aside before a time, in seconds since 1970."""
        for name, letter in self.client.hscan_iter(self.key("dead")):
            if orjson.loads(letter)["at"] < before:
                self.client.hdel(self.key("dead"), name)

    def forget_dead_letters_of(self, forgotten: Forgotten) -> int:
        """Remove what was set aside of users; how many letters."""
        letters = self.client.hscan_iter(self.key("dead"))
        gone = [n for n, letter in letters if forgotten.named_in(orjson.loads(letter)["record"])]
        return sum(int(self.client.hdel(self.key("dead"), name)) for name in gone)

    def left_out(self, users: str, digest: str) -> None:
        """Tell of whom the owner of SSS-of-NNN writes nothing any more; empty: not known."""
        self.client.hset(self.key("left-out"), users, digest)

    def owners_without(self, digest: str) -> list[str]:
        """Owners (SSS-of-NNN) with a lease who have not told that they leave these users out."""
        seconds, micros = self.client.time()
        now_ms = 1_000 * seconds + micros // 1_000
        told = self.client.hgetall(self.key("left-out"))
        owners = self.client.hgetall(self.key("owners"))
        live = [name for name, lease in owners.items() if now_ms < orjson.loads(lease)["until"]]
        return sorted(n.decode() for n in live if told.get(n, b"").decode() != digest)

    def is_durable(self) -> bool:
        """Whether Redis writes to disk what it acknowledges; true where it does not tell."""
        found: Mapping[str, Any] = self.client.info("persistence")
        return bool(found.get("aof_enabled", True))


def _record(fields: Mapping[bytes, bytes]) -> Any:
    text = fields.get(FIELD, b"")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.decode(errors="replace")

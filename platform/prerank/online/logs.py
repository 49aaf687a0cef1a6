"""Which journal a home has: in files where its online store is embedded, in Redis where that is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

from prerank.core.errors import ConfigError, NotReadyError
from prerank.core.home import ENV, Home
from prerank.online import dead_letters
from prerank.online.compaction import JournalConfig
from prerank.online.event_log import EventLog
from prerank.online.file_log import FileLog
from prerank.online.history import Event
from prerank.online.segments import journaled_events
from prerank.online.store import BULK, REDIS_ENV, Patience, online_name, store_config
from prerank.online.stream_log import StreamLog
from prerank.online.streams import NO_AOF, Streams, reached

GLANCE = Patience(0.5, 0.5)
"""Of /health, which must not wait for a Redis that is away."""


def open_log(home: Home, shard: int, shards: int, config: JournalConfig, wait_s: float) -> EventLog:
    """Become the owner of a shard of users; see ``FileLog`` and ``StreamLog``.

    Raises:
        NotReadyError: another writer owns these users, or the journal cannot be reached.
        ConfigError: the home is in an object store, and there is no Redis.
    """
    if home.store and not in_redis():
        raise ConfigError(
            f"{ENV}={home.place} is in an object store, which keeps no journal of events: set "
            f"{REDIS_ENV} (host:port) for this command and, on a cluster, for Ray's nodes."
        )
    # In Feast's folder: a new online store has no checkpoint, so everything is replayed to it.
    project = store_config(home).project
    checkpoint = home.feast / f"replayed-{project}-{online_name()}-{shard}-of-{shards}.json"
    if in_redis():
        return StreamLog(home, checkpoint, shard, shards, config, wait_s)
    return FileLog(home, checkpoint, shard, shards, config, wait_s)


def acknowledged_events(home: Home) -> Iterator[list[Event]]:
    """Batches of all that writers of the home acknowledged; what is no event is left out.

    Raises:
        NotReadyError: the journal in Redis cannot be reached.
    """
    # With Redis, these are from before.
    yield from journaled_events(home.journal)
    if in_redis():
        with closing(Streams(home, BULK)) as streams, reached():
            yield from streams.events()


def look(home: Home) -> tuple[int, str]:
    """How many dead letters there are, and what is wrong with the journal; empty if nothing."""
    count = dead_letters.count_dead_letters(home)
    if not in_redis():
        return count, ""
    try:
        with closing(Streams(home, GLANCE)) as streams, reached():
            count += streams.count_dead_letters()
            return count, "" if streams.is_durable() else NO_AOF
    except NotReadyError as error:
        return count, str(error)


def in_redis() -> bool:
    """Whether the journal is in Redis."""
    return bool(os.environ.get(REDIS_ENV))

"""The writers of users' histories on Ray Serve, and a replica's way to them.

A user's events go to one process, chosen by the user's id, where waiting batches are written
together.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from prerank.core.errors import NotReadyError, PrerankError
from prerank.core.logs import json_lines
from prerank.core.redact import redact
from prerank.online.compaction import JournalConfig
from prerank.online.history import Event
from prerank.online.store import open_store
from prerank.online.writer import HistoryWriter, Written, writer_of
from prerank.serving.config import ServeConfig, limits_of

WRITER_THREADS = 32
OPEN_EVERY_S = 1.0
ACKNOWLEDGE_S = 5.0
"""How long events wait for their writer, which may have to start, and for a lease to end."""
QUIET = {"enable_access_log": False}
"""A line per request costs more than the metrics that say the same."""

logger = logging.getLogger(__name__)


# A writer waits for the disk most of its time: it takes no core from the scorers.
@serve.deployment(
    max_ongoing_requests=WRITER_THREADS,
    ray_actor_options={"num_cpus": 0},
    logging_config=QUIET,
    # The next writer of these users is there first, and waits for this one to end: events wait
    # for that alone, and not for a process to start.
    max_surge_percent=100,
    graceful_shutdown_wait_loop_s=0.2,
)
class HistoryWriterDeployment:
    """The one writer of a shard of users.

    It opens in the background: at once where there is a store to open and nobody else owns the
    shard, else it tries again every second. Events that come while it opens wait for that.
    """

    def __init__(self, config: dict[str, Any], shard: int) -> None:
        self._config, self._shard = ServeConfig(**config), shard
        if self._config.log_format == "json":
            json_lines()
        self._threads = ThreadPoolExecutor(WRITER_THREADS)
        self._opened: Future[HistoryWriter] = Future()
        self._closing = threading.Event()
        self._opener = threading.Thread(target=self._open, name="open-histories", daemon=True)
        self._opener.start()

    async def write(self, events: list[Event]) -> Written:
        """Acknowledge a batch.

        Raises:
            NotReadyError: nothing was materialised, or another writer owns the shard.
        """
        # A caller that gives up must not end the wait of the others.
        writer = await asyncio.shield(asyncio.wrap_future(self._opened))
        return await asyncio.get_running_loop().run_in_executor(self._threads, writer.write, events)

    def _open(self) -> None:
        told = ""
        while not self._closing.is_set():
            try:
                writer = self._new_writer()
            except Exception as error:
                if str(error) != told:
                    told = str(error)
                    logger.warning("history writer %d is not open: %s", self._shard, told)
                self._opened.set_exception(error)
                self._closing.wait(OPEN_EVERY_S)
                self._opened = Future()
            else:
                writer.start()
                self._opened.set_result(writer)
                return

    def _new_writer(self) -> HistoryWriter:
        config, home = self._config, self._config.home_folder()
        home.look()
        schema = limits_of(home, config).schema
        journal = JournalConfig(config.journal_days, config.journal_segment_mb << 20)
        return HistoryWriter(home, open_store(home), schema, self._shard, config.writers, journal)

    def __del__(self) -> None:
        # Serve calls this before it ends a replica; its successor waits for the shard.
        self._closing.set()
        self._opener.join()
        if self._opened.done() and not self._opened.exception():
            self._opened.result().close()


class Writers:
    """A replica's side of the writers.

    Args:
        handles: of ``HistoryWriterDeployment``, one per shard of the users.
    """

    def __init__(self, handles: list[DeploymentHandle[Any]]) -> None:
        self._handles = handles

    async def _written(self, shard: int, batch: list[Event]) -> Written:
        try:
            async with asyncio.timeout(ACKNOWLEDGE_S):
                return await self._handles[shard].write.remote(batch)
        except TimeoutError:
            raise NotReadyError(
                f"the history writer did not answer within {ACKNOWLEDGE_S:g} s: it starts, or "
                "waits for its users or its journal"
            ) from None

    async def acknowledge(self, events: list[Event]) -> Written:
        """Send each event to the writer of its user.

        Raises:
            NotReadyError: some were not acknowledged.
        """
        shards: dict[int, list[Event]] = {}
        for event in events:
            shards.setdefault(writer_of(event.user_id, len(self._handles)), []).append(event)
        calls = [self._written(shard, batch) for shard, batch in shards.items()]
        results = await asyncio.gather(*calls, return_exceptions=True)
        failed = [r for r in results if isinstance(r, BaseException)]
        if failed:
            logger.error("events were not acknowledged", exc_info=failed[0])
            cause = getattr(failed[0], "cause", None) or failed[0]
            known = isinstance(cause, PrerankError)
            why = redact(str(cause)) if known else "the replica's log has the cause"
            raise NotReadyError(
                f"not every event was acknowledged ({why}). Send the batch again: an event that "
                "is repeated counts once."
            )
        done: list[Written] = [r for r in results if isinstance(r, Written)]
        return Written(
            accepted=sum(w.accepted for w in done),
            passive=sum(w.passive for w in done),
            online=all(w.online for w in done),
        )

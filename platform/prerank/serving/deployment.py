"""The Ray Serve application: ``import_path: prerank.serving.deployment:app``.

``PreRanker`` is the ingress. Scoring is a few milliseconds of compiled code in one thread, so a
replica does one request at a time and more throughput is more replicas. Events go to the writer of
their user, one process a shard, where waiting batches are written together.

With ``shards``, ``PreRanker`` is the front of ``prerank.serving.shards`` and ``IndexShard`` scores:
a deployment a shard, with as many replicas.

Serve counts a request from before its body is read, so it is given more slots than the lanes of
``HttpApi`` have places: what finds no place is refused there at once, with the reason, and the
slots left over are for health and readiness.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from prerank.core.errors import ConfigError, NotReadyError, PrerankError
from prerank.core.logs import json_lines
from prerank.core.redact import redact
from prerank.core.settings import typed
from prerank.online.compaction import JournalConfig
from prerank.online.history import Event
from prerank.online.store import open_store
from prerank.online.writer import HistoryWriter, Written, writer_of
from prerank.registry.bundle import Version
from prerank.serving.engine import Engine, ServeConfig, limits_of
from prerank.serving.http import HttpApi
from prerank.serving.ray_metrics import Export
from prerank.serving.request_ids import REQUEST_ID
from prerank.serving.served_log import served_log_of
from prerank.serving.shards import NotLoadedError, Part, Shard, Shards, Task
from prerank.serving.tracing import tracing_of_environment

WRITER_THREADS = 32
OPEN_EVERY_S = 1.0
ACKNOWLEDGE_S = 5.0
"""How long events wait for their writer, which may have to start, and for a lease to end."""
LOAD_S, LOAD_EVERY_S = 60.0, 0.25
"""How long a front waits for its shards to load a version, and how often it asks anew."""
SPARE_SLOTS = 64
"""Requests that Serve admits beyond the lanes' places, and again how many wait for a slot."""
DRAIN_S = 35.0
"""In which Serve ends a replica: half a minute while proxies forget it, and what is going on then.
A body that is still arriving comes on top."""
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


@serve.deployment(logging_config=QUIET)
class IndexShard:
    """The vectors of some of the items, and a thread that scores them."""

    def __init__(self, config: dict[str, Any], shard: int) -> None:
        import torch

        torch.set_num_threads(1)
        settled = ServeConfig(**config)
        if settled.log_format == "json":
            json_lines()
        self._shard = Shard(settled.home_folder(), shard, settled.shards)
        self._scoring, self._loading = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    async def load(self, version: Version) -> bool:
        """Load a model version; true once it is there.

        Raises:
            PrerankError: it cannot be served.
        """
        here = asyncio.get_running_loop()
        await here.run_in_executor(self._loading, self._shard.load, version)
        return True

    async def score(self, task: Task) -> Part:
        """The best of its items.

        Raises:
            NotLoadedError: it has not the version that the task names, and loads it now.
        """
        here = asyncio.get_running_loop()
        try:
            return await here.run_in_executor(self._scoring, self._shard.score, task)
        except NotLoadedError:
            self._loading.submit(self._shard.load, task.version)
            raise


def shards_of(handles: list[DeploymentHandle[Any]], timeout_s: float) -> Shards:
    """The front's side of shards, each behind a handle."""

    def load(version: Version) -> None:
        until = time.monotonic() + LOAD_S
        for shard, handle in enumerate(handles):
            try:
                # None answers while none has started.
                while not handle.broadcast("load", version).results(timeout_s=LOAD_S):
                    if time.monotonic() > until:
                        raise NotReadyError(f"shard {shard} of the index has not started")
                    time.sleep(LOAD_EVERY_S)
            except RayTaskError as error:
                # Without the text of the other process's traceback.
                raise error.cause from None
            except TimeoutError:
                raise NotReadyError(
                    f"shard {shard} of the index has not loaded model version {version}"
                ) from None

    return Shards([handle.score.remote for handle in handles], load, timeout_s)


@serve.deployment(logging_config=QUIET)
class PreRanker:
    """HTTP in, HTTP out; the work is that of ``HttpApi`` and ``Engine``."""

    def __init__(
        self,
        config: dict[str, Any],
        writers: list[DeploymentHandle[Any]],
        shards: list[DeploymentHandle[Any]],
    ) -> None:
        import torch

        # One request is one thread's work; more would only fight over the cores with the others.
        torch.set_num_threads(1)
        self.config, self.writers = ServeConfig(**config), writers
        self.log = served_log_of(self.config)
        timeout_s = self.config.shard_timeout_ms / 1e3
        engine = Engine(self.config, shards_of(shards, timeout_s) if shards else None)
        if self.config.log_format == "json":
            json_lines(lambda: engine.model_version)
        self.http = HttpApi(
            self.config, engine, self._acknowledge, tracing_of_environment(), self.log
        )
        # In a thread: shards are waited for, which an event loop's thread may not do.
        starting = threading.Thread(target=engine.start)
        starting.start()
        starting.join()
        Export(self.http.metrics, self.http.sample).start()

    def reconfigure(self, user_config: Any) -> None:
        """Run the experiment of ``user_config``; requests go on meanwhile, and none waits."""
        self.http.variants.follow(user_config)

    def __del__(self) -> None:
        # Serve calls this before it ends a replica: its last answers are written down, too.
        if self.log is not None:
            self.log.close()

    async def __call__(self, request: Request) -> Response:
        """Answer any route."""
        answer = await self.http.answer(request)
        # Serve adds the header that the request came with.
        if answer.headers[REQUEST_ID] == request.headers.get(REQUEST_ID):
            del answer.headers[REQUEST_ID]
        return answer

    async def _written(self, shard: int, batch: list[Event]) -> Written:
        try:
            async with asyncio.timeout(ACKNOWLEDGE_S):
                return await self.writers[shard].write.remote(batch)
        except TimeoutError:
            raise NotReadyError(
                f"the history writer did not answer within {ACKNOWLEDGE_S:g} s: it starts, or "
                "waits for its users or its journal"
            ) from None

    async def _acknowledge(self, events: list[Event]) -> Written:
        """Send each event to the writer of its user.

        Raises:
            NotReadyError: some were not acknowledged.
        """
        shards: dict[int, list[Event]] = {}
        for event in events:
            shards.setdefault(writer_of(event.user_id, len(self.writers)), []).append(event)
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


def app(args: dict[str, Any]) -> Application:
    """Build the application from the ``args`` of its Serve configuration.

    Raises:
        ConfigError: a key is unknown or a value is wrong; the message names it.
    """
    config = typed(ServeConfig, args, what="args of the prerank application")
    # The replicas' environment may differ from the builder's: the home is settled here.
    settled = asdict(replace(config, home=config.home_folder().place))
    # mypy does not see what a class decorator makes of a class.
    writer: Any = HistoryWriterDeployment
    scorer: Any = PreRanker
    part: Any = IndexShard
    replicas = numbers(config, _cores())
    slots = 2 * config.max_waiting + SPARE_SLOTS
    shards = [
        part.options(name=f"IndexShard-{shard}", max_ongoing_requests=slots, **replicas).bind(
            settled, shard
        )
        for shard in range(config.shards if config.shards > 1 else 0)
    ]
    writers = [
        writer.options(name=f"HistoryWriter-{shard}").bind(settled, shard)
        for shard in range(config.writers)
    ]
    return scorer.options(
        **replicas,
        max_ongoing_requests=slots,
        max_queued_requests=SPARE_SLOTS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        graceful_shutdown_timeout_s=DRAIN_S + config.body_seconds,
    ).bind(settled, writers, shards)


def numbers(config: ServeConfig, cores: float) -> dict[str, Any]:
    """How many replicas Serve runs, and starts before it stops those that they replace.

    Args:
        config: of the deployment.
        cores: of the cluster.

    Returns:
        Options of the scorer's deployment.

    Raises:
        ConfigError: the greatest number is less than the smallest.
    """
    # Two, so that one may die, where they leave as many cores to everything else.
    least = config.replicas or (2 if cores >= 4 else 1)
    most = config.max_replicas or least
    if most < least:
        raise ConfigError(
            f"max_replicas: {most} is less than the {least} of `replicas`; give more, or null"
        )
    # A replica takes a core. Where none is left, one stops before the next one starts. 1 percent is
    # rounded up, to one replica.
    found: dict[str, Any] = {"max_surge_percent": int(most < cores)}
    if config.max_replicas is None:
        return found | {"num_replicas": least}
    scaling = AutoscalingConfig(
        min_replicas=least, max_replicas=most, target_ongoing_requests=config.ongoing_per_replica
    )
    return found | {"autoscaling_config": scaling}


def _cores() -> float:
    if ray.is_initialized():
        return float(ray.cluster_resources().get("CPU", 0))
    return os.cpu_count() or 1

"""The Ray Serve application: ``import_path: prerank.serving.deployment:app``.

``PreRanker`` is the ingress. Scoring is a few milliseconds of compiled code in one thread, so a
replica does one request at a time and more throughput is more replicas. Events go to the writer of
their user (``prerank.serving.writers``).

With ``shards``, ``PreRanker`` is the front of ``prerank.serving.shards`` and ``IndexShard`` scores:
a deployment a shard, with as many replicas.

Serve counts a request from before its body is read, so it is given more slots than the lanes of
``HttpApi`` have places: what finds no place is refused there at once, with the reason, and the
slots left over are for health and readiness.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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

from prerank.core.errors import ConfigError, NotReadyError
from prerank.core.logs import json_lines
from prerank.core.settings import typed
from prerank.registry.bundle import Version
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.serving.http import HttpApi
from prerank.serving.ray_metrics import Export
from prerank.serving.request_ids import REQUEST_ID
from prerank.serving.served_log import served_log_of
from prerank.serving.shard import NotLoadedError, Part, Shard, Task
from prerank.serving.shards import Shards
from prerank.serving.tracing import tracing_of_environment
from prerank.serving.writers import QUIET, HistoryWriterDeployment, Writers

LOAD_S, LOAD_EVERY_S = 60.0, 0.25
"""How long a front waits for its shards to load a version, and how often it asks anew."""
SPARE_SLOTS = 64
"""Requests that Serve admits beyond the lanes' places, and again how many wait for a slot."""
DRAIN_S = 35.0
"""In which Serve ends a replica: half a minute while proxies forget it, and what is going on then.
A body that is still arriving comes on top."""


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
        self.config = ServeConfig(**config)
        self.log = served_log_of(self.config)
        timeout_s = self.config.shard_timeout_ms / 1e3
        engine = Engine(self.config, shards_of(shards, timeout_s) if shards else None)
        if self.config.log_format == "json":
            json_lines(lambda: engine.model_version)
        acknowledge = Writers(writers).acknowledge
        self.http = HttpApi(self.config, engine, acknowledge, tracing_of_environment(), self.log)
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

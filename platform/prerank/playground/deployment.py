"""The playground's Serve application: ``import_path: prerank.playground.deployment:app``.

An application of its own, so a process of its own: what people try here takes neither a thread nor
a place in the line of the replicas that answer live requests, and gives way to them on the
processor. It reads the same home, the same registry and the same online store. Engagements are
posted by the page to the deployment's own ``/v1/events``.
"""

from __future__ import annotations

import os
import threading
from dataclasses import asdict, replace
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import Response

from prerank.core.logs import json_lines
from prerank.core.settings import typed
from prerank.playground.config import PlaygroundConfig
from prerank.playground.http import PlaygroundHttp
from prerank.playground.metrics import METRICS
from prerank.playground.service import Playground
from prerank.serving.ray_metrics import Export

NICENESS = 10
SPARE_SLOTS = 32
"""Requests that Serve admits beyond ``max_waiting``: files of the page, and refusals."""


# It takes no core from the scorers.
@serve.deployment(ray_actor_options={"num_cpus": 0}, logging_config={"enable_access_log": False})
class PlaygroundDeployment:
    """HTTP in, HTTP out; the work is that of ``PlaygroundHttp`` and ``Playground``."""

    def __init__(self, config: dict[str, Any]) -> None:
        import torch

        os.nice(NICENESS)
        torch.set_num_threads(1)
        settled = PlaygroundConfig(**config)
        if settled.log_format == "json":
            json_lines()
        self._playground = Playground(settled)
        self._http = PlaygroundHttp(settled, self._playground)
        # In the background: the page can say what is still missing.
        threading.Thread(target=self._playground.start, name="playground-start").start()
        Export(self._playground.metrics, self._playground.sample, known=METRICS).start()

    async def __call__(self, request: Request) -> Response:
        """Answer any route."""
        return await self._http.answer(request)

    def __del__(self) -> None:
        self._playground.stop()


def app(args: dict[str, Any]) -> Application:
    """Build the application from the ``args`` of its Serve configuration.

    Raises:
        ConfigError: a key is unknown or a value is wrong; the message names it.
    """
    config = typed(PlaygroundConfig, args, what="args of the playground application")
    # The replica's environment may differ from the builder's: the home is settled here.
    settled = asdict(replace(config, home=config.home_folder().place))
    # mypy does not see what a class decorator makes of a class.
    playground: Any = PlaygroundDeployment
    slots = config.max_waiting + SPARE_SLOTS
    return playground.options(max_ongoing_requests=slots).bind(settled)

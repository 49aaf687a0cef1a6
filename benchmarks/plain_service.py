"""The service that a team writes first: FastAPI, uvicorn, pandas, fp32 PyTorch, Redis.

    python benchmarks/plain_service.py HOME REDIS_PORT PORT

Reads the same packed rows and the same history from the same Redis, in one ``MGET``, and answers
the same two forms of ``POST /v1/prerank`` (``served_world``). One process, as one replica of ours
is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from pydantic import BaseModel
from redis import Redis
from scorer_world import SCHEMA, PlainRoute
from served_world import VERSION, K

from interactrank.features.inputs import FeatureInputs, Histories, KeyRows
from interactrank.features.searches import Searches
from interactrank.model.scorer import Scorer
from prerank.core.home import Home
from prerank.registry.bundle import load_bundle
from prerank.registry.index import load_index

WEIGHTS = np.eye(1, len(SCHEMA.heads), dtype=np.float32)[0]


class Body(BaseModel):
    """The JSON form."""

    user_id: str
    query: str
    candidates: list[int]
    k: int = K
    time: int


class Service:
    """The model, its vectors in fp32, and a connection to Redis."""

    def __init__(self, home: Home, redis_port: int) -> None:
        bundle = load_bundle(home.models / VERSION.name)
        index = load_index(home, VERSION, bundle.digest)
        scorer = Scorer(bundle.model, bundle.catalogue, index.ids, index.vectors)
        self.route, self.redis = PlainRoute.of(scorer), Redis(port=redis_port)

    def rank(
        self, user: str, query: str, wanted: NDArray[np.int64], k: int, now: int
    ) -> dict[str, Any]:
        """The best k of the candidates ``wanted``, all of which are known."""
        search = Searches.one(query, {})
        keys = search.keys[0]
        found: Any = self.redis.mget([*(f"row:{key}" for key in keys), f"history:{user}"])
        *stored, past = found
        items, actions, times, _, queries = np.frombuffer(past, np.int64).reshape(5, -1)
        size = np.array([len(row or b"") for row in stored])
        rows = KeyRows(
            np.frombuffer(b"".join(row or b"" for row in stored), np.uint8),
            np.cumsum(size) - size,
            size,
            np.where(size > 0, np.arange(len(size)), -1),
        )
        history = Histories(items, actions, times, queries, np.array([0, len(items)]))
        inputs = FeatureInputs.of(search, np.array([now]), rows, history)
        scores = torch.from_numpy(self.route.score(inputs, wanted, WEIGHTS, query))
        best = torch.topk(scores, min(k, len(scores)))
        ids, told = wanted[best.indices.numpy()].tolist(), best.values.tolist()
        return {"items": [{"id": i, "score": s} for i, s in zip(ids, told, strict=True)]}


def app_of(service: Service) -> FastAPI:
    """The routes."""
    app = FastAPI()

    @app.get("/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/prerank")
    async def prerank(request: Request) -> dict[str, Any]:
        body = await request.body()
        if request.headers["content-type"] == "application/json":
            data = Body.model_validate_json(body)
            wanted = np.array(data.candidates, np.int64)
            return service.rank(data.user_id, data.query, wanted, data.k, data.time)
        asked = request.query_params
        wanted = np.frombuffer(body, "<i8")
        return service.rank(
            asked["user_id"], asked["query"], wanted, int(asked["k"]), int(asked["time"])
        )

    return app


def main() -> None:
    """Serve until it is ended."""
    home, redis_port, port = sys.argv[1:]
    torch.set_num_threads(1)
    app = app_of(Service(Home.at(Path(home)), int(redis_port)))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()

"""Asking a live deployment searches of the log."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.schema import CANDIDATE_PREFIX
from prerank.core.environment import SERVE_PORT, URL_ENV, bearer_token
from prerank.core.errors import NotReadyError, PrerankError
from prerank.serving.fields import time_of
from prerank.serving.retriever import RetrieverFeatures

URL = f"http://127.0.0.1:{SERVE_PORT}"


@dataclass(frozen=True)
class Asked:
    """A search of the log, with what it sends beside its text, and the deployment's answer now."""

    query: str
    user_id: str
    candidates: NDArray[np.int64]
    retriever_features: RetrieverFeatures
    answer: dict[str, Any]

    @property
    def time_us(self) -> int:
        """When the deployment answered, by its clock; microseconds since 1970."""
        return time_of(self.answer["time"], "time")


Sent = tuple[NDArray[np.int64], RetrieverFeatures]
"""Distinct candidates of a search, and what its caller gave of each."""


def open_client(url: str | None = None) -> httpx.Client:
    """A client of the deployment at ``url``; PRERANK_URL's, else `deployments/prerank.yaml`'s.

    Raises:
        ConfigError: PRERANK_TOKEN is set to what is no token.
    """
    token = bearer_token()
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    address = url or os.environ.get(URL_ENV) or URL
    return httpx.Client(base_url=address, headers=headers, timeout=60.0)


def ask(
    client: httpx.Client,
    searches: pa.Table,
    candidates: Sequence[Sent],
    told: Sequence[str],
    until: int,
) -> list[Asked]:
    """Send every search to the deployment; on a replay clock as of ``until``.

    Args:
        client: of the deployment.
        searches: with ``query``, ``user_id`` and, where the log has segments, ``context``.
        candidates: of each search.
        told: names of what is given of each candidate, of ``FeatureSchema.given``.
        until: microseconds since 1970.

    Raises:
        NotReadyError: nobody answers, or the deployment is not ready.
        PrerankError: the deployment refuses a request.
    """
    segmented = "context" in searches.column_names
    contexts = searches["context"].to_pylist() if segmented else [{}] * searches.num_rows
    own = [n.removeprefix(CANDIDATE_PREFIX) for n in told if n.startswith(CANDIDATE_PREFIX)]
    columns = {
        "retriever": ",".join(told[: len(told) - len(own)]),
        "candidate_features": ",".join(own),
    }
    asked = []
    try:
        clock = {"time": str(until)} if health(client)["clock"] == "replay" else {}
        rows = zip(
            searches["query"].to_pylist(),
            searches["user_id"].to_pylist(),
            candidates,
            contexts,
            strict=True,
        )
        for query, user, (ids, said), context in rows:
            fields = {
                "query": query,
                "user_id": user,
                "k": str(max(len(ids), 1)),
                "explain": "true",
                "context": json.dumps(context),
            } | clock
            # The form whose ids are int64 keys, whatever the log's ids are.
            body = ids.astype("<i8").tobytes()
            if said is not None:
                fields |= {name: listed for name, listed in columns.items() if listed}
                body += said.T.astype("<f4").tobytes()
            answer = client.post(
                "/v1/prerank",
                params=fields,
                content=body,
                headers={"Content-Type": "application/octet-stream"},
            )
            asked.append(Asked(query, user, ids, said, _answered(answer)))
    except (httpx.HTTPError, json.JSONDecodeError, KeyError) as error:
        raise _nobody(client, error) from None
    return asked


def health(client: httpx.Client) -> dict[str, Any]:
    """What runs there.

    Raises:
        NotReadyError: nobody answers.
        PrerankError: the deployment refuses.
    """
    try:
        found: dict[str, Any] = _answered(client.get("/health"))
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        raise _nobody(client, error) from None
    return found


def _answered(response: httpx.Response) -> Any:
    """The JSON of a response; a refusal is told in the deployment's words."""
    if response.status_code == 200:
        return response.json()
    where, why = response.url.copy_with(path="/", query=None), _detail(response)
    if response.status_code == 503:
        raise NotReadyError(f"the deployment at {where} is not ready: {why}")
    raise PrerankError(f"{where} answered {response.status_code}: {why}")


def _detail(response: httpx.Response) -> str:
    """What a refusal says; that of a proxy before the deployment need not be a problem."""
    try:
        problem = response.json()
        return f"{problem['field']}: {problem['detail']}"
    except (ValueError, LookupError, TypeError):
        return response.text


def _nobody(client: httpx.Client, error: Exception) -> NotReadyError:
    return NotReadyError(
        f"no deployment answers at {client.base_url} ({error}). Give its --url, or deploy one: "
        "`serve deploy deployments/prerank.yaml`."
    )

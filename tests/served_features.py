"""What a deployment served, beside what training makes of the same requests."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load

from interactrank.features.batch import RequestArrays
from interactrank.features.inputs import FeatureInputs
from interactrank.features.schema import FeatureSchema
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.served import REQUESTS, requests_folder
from prerank.dataset.candidates import Candidates, shown_candidates
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.examples import request_arrays
from prerank.dataset.requests import read_requests
from prerank.features.offline import offline_inputs

OF_LABELS = ("labels", "weights")
"""What a deployment cannot know yet."""


def answers_of(home: Home) -> dict[str, dict[str, Any]]:
    """Rows of the served log (``REQUESTS``) by their request."""
    files = sorted(requests_folder(home).glob("day=*/*.parquet"))
    rows = [row for file in files for row in pq.read_table(file, schema=REQUESTS).to_pylist()]
    found = {row["request_id"]: row for row in rows}
    assert len(found) == len(rows), "an answer was written twice"
    return found


def requests_of(home: Home, day: str = "*") -> pa.Table:
    """The requests of a day's events, as training reads them; of every day without one."""
    files = sorted(home.events.glob(f"day={day}/*.parquet"))
    return read_requests(files, LogManifest.load(home))


def served_is_joined(home: Home, requests: pa.Table) -> int:
    """All that a model reads of ``requests`` was served to the bit as training joins it.

    That is the candidates, their cross features, and of the request its text, statistics, segments,
    history and the query's top items. Returns how many cross features are not 0.

    Args:
        home: with the served log.
        requests: of ``requests_of``, all of them answered.
    """
    answers, joined = answers_of(home), offline_inputs(home, requests)
    schema, catalogue = LogManifest.load(home).schema, load_catalogue(home)
    table, found = catalogue.table(), 0
    for n, request in enumerate(requests.to_pylist()):
        answer = answers[request["request_id"]]
        inputs = FeatureInputs.restored(load(answer["inputs"]))
        of_log = joined.slice(n, n + 1)
        served, trained = (
            request_arrays(schema, [query], read, candidates, catalogue, table)
            for query, read, candidates in (
                (answer["query"], inputs, _candidates(schema, answer)),
                (request["query"], of_log, shown_candidates(requests.slice(n, 1))),
            )
        )
        for name in (f.name for f in fields(RequestArrays) if f.name not in OF_LABELS):
            one, other = getattr(served, name), getattr(trained, name)
            # As bytes: what is missing is NaN in both.
            same = one.dtype == other.dtype and one.tobytes() == other.tobytes()
            assert same, (request["request_id"], name, one, other)
        found += int((served.x != 0).sum())
    return found


def _candidates(schema: FeatureSchema, answer: dict[str, Any]) -> Candidates:
    """What was answered, in the order of the answer."""
    ids, said = np.array(list(map(int, answer["items"]))), dict(answer["retriever"])
    given, none = [said[name] for name in schema.given], np.zeros(len(ids), np.float32)
    return Candidates(
        ids,
        np.array([0, len(ids)]),
        np.zeros(len(ids), np.int64),
        none,
        none,
        np.zeros(1, np.int64),
        np.array(given, np.float32).T if given else None,
    )

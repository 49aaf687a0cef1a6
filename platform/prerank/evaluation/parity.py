"""`prerank parity`: does a live deployment serve the features and scores that training saw?

Searches of the log are asked again of the deployment, with `explain`. The other side is computed
here: the as-of join at the time up to which the online store was filled, events that were
acknowledged since from the journal, and the training-side forward pass of the version that
answered.

An online store holds the latest snapshot only, so a search cannot be asked as of its own time. On
a replay clock it is asked as of the fill; on a wall clock as of now, and the answer says when that
was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.inputs import FeatureInputs
from interactrank.features.schema import LEVELS, REQUEST_NUMERIC
from prerank.core.errors import StateError
from prerank.core.feature_sets import manifest_of_log, online_state, tables_of_log
from prerank.core.graphs import Graphs
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import micros
from prerank.dataset.candidates import sampled_candidates, shown_candidates
from prerank.dataset.requests import event_days, requests_between
from prerank.evaluation.live import Asked, Sent, ask, health
from prerank.evaluation.parity_report import Parity
from prerank.evaluation.training_side import BY_CANDIDATE, Expected, training_side
from prerank.features.asof import as_of
from prerank.features.offline import offline_inputs
from prerank.online.history import (
    HISTORY_FIELDS,
    NO_HISTORY,
    Event,
    History,
    HistoryTable,
    as_histories,
    merged,
)
from prerank.online.logs import acknowledged_events
from prerank.online.reader import visible
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import load_bundle
from prerank.registry.delta import all_others

MAX_CANDIDATES = 200
FEATURE_TOLERANCE = 1e-5
"""Of a cross feature or request statistic: both sides run the same kernel in float32."""
DOT_TOLERANCE = 1e-2
"""Of a dot of unit vectors: the index keeps bf16, training float32."""
CROSS_SCORE_TOLERANCE = 1e-3
"""Of g(x): equal features, summed in another order."""
FILLED = (*(f"{level.prefix}:" for level in LEVELS if level.prefix != "a"), "user:")
"""Features that are about this query or this user; the others are never empty."""


def check_parity(home: Home, client: httpx.Client, requests: int = 100, seed: int = 0) -> Parity:
    """Compare a deployment with the offline tables under ``home``.

    Args:
        home: of the deployment.
        client: of the deployment (``live.open_client``).
        requests: how many searches to sample from the log's latest days.
        seed: of the sample.

    Raises:
        NotReadyError: the deployment does not answer.
        StateError: the log was not ingested or its features are not online, or the deployment
            serves a version of another feature schema.
        PrerankError: the deployment refuses a request.
    """
    manifest = LogManifest.load(home)
    log = manifest.schema.hash()
    served = health(client).get("schema_hash")
    if served not in (None, log):
        raise StateError(
            f"the deployment serves a version of feature schema {served}, the log has {log} now: "
            "its searches are not what that version was made for. Promote a version that was "
            "trained on this log, then ask again."
        )
    until = online_state(home, log)["until_us"]
    searches = _sample(home, manifest, requests, seed)
    # What is online was joined at the fill's time, whatever the request's.
    stamp = pa.array([until] * searches.num_rows, pa.timestamp("us", tz="UTC"))
    at = searches.column_names.index("request_time")
    searches = searches.set_column(at, "request_time", stamp)
    inputs = offline_inputs(home, searches)
    candidates = _candidates(home, manifest, searches, inputs)
    asked = ask(client, searches, candidates, manifest.schema.given, until)
    return compared(home, searches, inputs, asked)


def compared(
    home: Home, searches: pa.Table, inputs: FeatureInputs, asked: Sequence[Asked]
) -> Parity:
    """Compare what a deployment ``asked`` answered with what offline tables give.

    Items that were added to a version's index are not compared: training knows them not, or
    otherwise.

    Args:
        home: of the deployment.
        searches: as they were asked, with the time of the fill as ``request_time``.
        inputs: of the searches, joined offline as of that time.
        asked: the searches with their answers.
    """
    inputs = _as_seen(home, LogManifest.load(home), searches, inputs, asked)
    found = Parity()
    versions = sorted({a.answer["model_version"] for a in asked})
    tracking.use(home)
    for version in versions:
        registered = registry.version_of(version)
        bundle = load_bundle(registry.download(home, registered))
        home.fetch(home.index / registered.name)
        others = all_others(home.index / registered.name)
        added = np.zeros(0, np.int64) if others is None else others.ids
        sent = [(a.candidates, a.retriever_features) for a in asked]
        expected = training_side(bundle, searches["query"].to_pylist(), inputs, sent)
        for request, values in zip(asked, expected, strict=True):
            if request.answer["model_version"] == version:
                _compare(found, _answered_without(request, added), _rows_without(values, added))
    return found


def _answered_without(asked: Asked, items: NDArray[np.int64]) -> Asked:
    """The same search with no answer for ``items``."""
    gone = set(items.tolist())
    answered = [item for item in asked.answer["items"] if int(item["id"]) not in gone]
    return dataclasses.replace(asked, answer=asked.answer | {"items": answered})


def _rows_without(expected: Expected, items: NDArray[np.int64]) -> Expected:
    """``expected`` less the rows of ``items``: they took part, as an anchor of others may."""
    kept = ~np.isin(expected["ids"], items)
    return {name: v[kept] if name in BY_CANDIDATE else v for name, v in expected.items()}


def _sample(home: Home, manifest: LogManifest, count: int, seed: int) -> pa.Table:
    """Some of the log's latest searches."""
    tables: list[pa.Table] = []
    for files in reversed(event_days(home)):
        tables.append(requests_between(files, manifest, 0, 1 << 62))
        if sum(t.num_rows for t in tables) >= count:
            break
    if not tables:
        raise StateError(f"{home.events} holds no event. Run `prerank ingest`.")
    searches = pa.concat_tables(tables)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(searches.num_rows)[:count]
    return searches.take(pa.array(np.sort(chosen)))


def _candidates(
    home: Home, manifest: LogManifest, searches: pa.Table, inputs: FeatureInputs
) -> list[Sent]:
    """Candidates of each search: as shown, else as training samples them."""
    from prerank.dataset.catalogue import load_catalogue

    if manifest.has_impressions:
        found = shown_candidates(searches)
    else:
        table = load_catalogue(home).table()
        found = sampled_candidates(manifest.schema, searches, inputs, table)
    said = found.retriever_features
    bounds = ((low, min(high, low + MAX_CANDIDATES)) for low, high in pairwise(found.offsets))
    return [(found.ids[low:high], None if said is None else said[low:high]) for low, high in bounds]


def _as_seen(
    home: Home,
    manifest: LogManifest,
    searches: pa.Table,
    inputs: FeatureInputs,
    asked: Sequence[Asked],
) -> FeatureInputs:
    """``inputs`` at the time of each answer, with what the journal acknowledged since the fill."""
    tables = tables_of_log(home)
    filled = as_of(
        tables / "user_history",
        "user_id",
        searches["user_id"],
        searches["request_time"].combine_chunks(),
        HISTORY_FIELDS,
    )
    columns = [filled.values[name].to_pylist() for name in HISTORY_FIELDS]
    journaled = _journaled(home, manifest, {a.user_id for a in asked})
    seen = []
    for request, row in zip(asked, filled.index, strict=True):
        of_log = History.from_lists(c[row] for c in columns) if row >= 0 else NO_HISTORY
        whole = merged(of_log, journaled.get(request.user_id, NO_HISTORY))
        seen.append(visible(whole, request.time_us))
    live = dataclasses.replace(
        inputs,
        time=np.array([a.time_us for a in asked], np.int64),
        **as_histories(seen)._asdict(),
    )
    if not manifest.schema.graph or not len(searches):
        return live
    # Of what the user did since, other items are near; the snapshots are those of the fill.
    graphs = Graphs.of(tables, manifest_of_log(home)["lag_minutes"])
    return graphs.published_by(int(micros(searches["request_time"])[0])).with_near(
        manifest.schema, live
    )


def _journaled(home: Home, manifest: LogManifest, users: Iterable[str]) -> dict[str, History]:
    """Engagements of ``users`` that live writers acknowledged."""
    wanted, found = set(users), list[Event]()
    for batch in acknowledged_events(home):
        found += [event for event in batch if event.user_id in wanted]
    return HistoryTable.of(manifest.schema).histories(found)


def _compare(found: Parity, asked: Asked, expected: Expected) -> None:
    """Note how far an answer is from what is ``expected``."""
    served = {int(item["id"]): item for item in asked.answer["items"]}
    where = f"user {asked.user_id!r}, query {asked.query!r}"
    ids = expected["ids"].tolist()
    filled = [n.startswith(FILLED) for n in expected["names"]]
    full = bool((expected["x"][:, filled] != 0).any())
    if asked.answer["degraded"] or set(ids) != set(served):
        what = f"degraded {asked.answer['degraded']}" if asked.answer["degraded"] else "items"
        found.note({what: (float("inf"), 1.0)}, full, where)
        return
    names = expected["names"]
    x = as_numbers([[served[i]["features"].get(n, 0.0) for n in names] for i in ids])
    statistics = asked.answer["request_features"]
    request = as_numbers([statistics.get(n, 0.0) for n in REQUEST_NUMERIC])
    dot, cross_score = DOT_TOLERANCE * expected["slope"], CROSS_SCORE_TOLERANCE * expected["slope"]
    tolerances = {
        "dot": dot,
        "cross_score": cross_score,
        "score": dot * expected["scale"] + cross_score,
    }
    gaps = {
        **dict(zip(names, gaps_of(x.reshape(expected["x"].shape), expected["x"]), strict=True)),
        **dict(
            zip(REQUEST_NUMERIC, gaps_of(request[None], expected["request"][None]), strict=True)
        ),
    }
    differences = {name: (gap, FEATURE_TOLERANCE) for name, gap in gaps.items()}
    for name, tolerance in tolerances.items():
        online = np.array([served[i][name] for i in ids])
        gap = float(np.abs(online - expected[name]).max(initial=0))
        differences[name] = gap, tolerance
    found.note(differences, full, where)


def as_numbers(values: list[Any]) -> NDArray[np.float32]:
    """Answered numbers as an array; JSON has null for NaN, which a missing statistic is."""
    return np.array(values, np.float32)


def gaps_of(served: NDArray[np.float32], expected: NDArray[np.float32]) -> list[float]:
    """Largest difference of each column; two missing values agree, one makes the difference NaN."""
    both = np.isnan(served) & np.isnan(expected)
    found: list[float] = np.where(both, 0.0, np.abs(served - expected)).max(0, initial=0).tolist()
    return found

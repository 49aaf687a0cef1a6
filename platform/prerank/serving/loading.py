"""How a version is made ready, beside the one that is served: loaded, warmed, and put to the gate.

The gate: its features are online, it scores its golden requests as training did, and fast enough.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from prerank.core.errors import NotReadyError, PrerankError, StateError
from prerank.core.home import Home
from prerank.online.reader import OnlineFeatures
from prerank.registry import versions as registry
from prerank.registry.bundle import Version, load_bundle
from prerank.registry.delta import INDEX_META, POINTER, load_delta
from prerank.registry.golden import Replay, load_golden, replay
from prerank.registry.index import load_index, scorer_of
from prerank.serving.answer import Loaded, OfIndex, Stamp, answer
from prerank.serving.api import Limits, PrerankRequest
from prerank.serving.shards import Shards

WARM_CANDIDATES = 1_000

logger = logging.getLogger(__name__)


def load(
    home: Home,
    wanted: registry.Wanted,
    of_log: Limits,
    golden_ms: float,
    shards: Shards | None = None,
) -> Loaded:
    """Load a version and send requests through it, before anybody sees it.

    Args:
        home: of the deployment.
        wanted: the version.
        of_log: what a request may hold, by the log's schema.
        golden_ms: what a golden request may take in the median, in milliseconds.
        shards: of the index, which load it as well; None where this process scores by itself.

    Raises:
        NotReadyError: the version has no item index, cannot be fetched, or is too slow.
        StateError: its features are not online, its files are damaged or not of one version, or it
            does not score as it did at training.
    """
    version = wanted.version
    logger.info("looking at model version %s", version)
    # What needs no large file read comes first.
    folder = registry.servable(home, version)
    logger.info("loading model version %s", version)
    # Before it is read: what changes meanwhile is noticed afterwards.
    built = stamp(home.index / version.name / INDEX_META)
    bundle = load_bundle(folder)
    golden = load_golden(folder, bundle.schema, bundle.meta)
    index = load_index(home, version, bundle.digest)
    scorer, note = scorer_of(bundle, index).record(), ""
    if golden is None:
        note = (
            f"model version {version} was registered without golden requests: whether it scores as "
            "it did at training was not checked. A version that is trained with this release has "
            "them."
        )
        logger.warning(note)
    else:
        _check_time(replay(golden, scorer, version, index.others), version, golden_ms)
    limits = dataclasses.replace(of_log, schema=bundle.schema)
    with ExitStack() as unless_loaded:
        features = OnlineFeatures(home, bundle.schema, timeout_s=of_log.timeout_ms / 1e3)
        unless_loaded.callback(features.close)
        features.look()
        if shards is not None:
            shards.load(version)
        loaded = Loaded(wanted, scorer, limits, features, note, OfIndex(built), shards)
        loaded = join(home, loaded)
        for request in _warm_requests(home, loaded):
            answer(request, loaded)
        unless_loaded.pop_all()
    return loaded


def _check_time(found: Replay, version: Version, golden_ms: float) -> None:
    logger.info(
        "model version %s scores %d golden requests as training did, one in %.2f ms",
        version,
        found.requests,
        found.median_ms,
    )
    if found.median_ms > golden_ms:
        raise NotReadyError(
            f"model version {version} is too slow: one of its golden requests takes "
            f"{found.median_ms:.1f} ms in the median, and golden_ms allows {golden_ms:g}. It is "
            "tried again; if the machine is not merely busy, raise golden_ms or promote another "
            "version."
        )


def rebuilt(home: Home, loaded: Loaded) -> bool:
    """Whether another index stands where that of ``loaded`` stood."""
    now = stamp(home.index / loaded.wanted.version.name / INDEX_META)
    return now is not None and now != loaded.index.built


def join(home: Home, loaded: Loaded) -> Loaded:
    """The same version with what was added to its index since; itself where nothing was.

    The model and the index stay loaded. What cannot be read leaves what joined before, and
    ``index.problem`` says so.
    """
    version, index = loaded.wanted.version, loaded.index
    folder = home.index / version.name
    now = stamp(folder / POINTER)
    if now == index.added:
        return loaded
    if now is None:  # somebody removed it, as they were told to
        return dataclasses.replace(loaded, index=OfIndex(index.built))
    try:
        home.fetch(folder)
        delta = load_delta(folder)
        if loaded.shards is not None:
            raise StateError(
                "an index with `shards` takes none. Run `prerank index`, which builds it with them."
            )
        scorer = loaded.scorer if delta is None else loaded.scorer.joined(delta.added)
    except (PrerankError, ValueError) as error:
        problem = f"items that were added to model version {version} are not scored: {error}"
        logger.error(problem)
        return dataclasses.replace(loaded, index=OfIndex(index.built, now, problem))
    if delta is not None:
        logger.info("model version %s scores %d items that were added", version, len(delta.items))
    return dataclasses.replace(loaded, scorer=scorer, index=OfIndex(index.built, now))


def stamp(path: Path) -> Stamp:
    """Tells one content of a file from another; None where there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


def _warm_requests(home: Home, loaded: Loaded) -> list[PrerankRequest]:
    """The log's latest requests over some of the index: kernels compile, pages are read."""
    files = home.files(home.events)
    if not files:
        return []
    home.fetch(files[-1])
    table = pq.read_table(
        files[-1], columns=["query", "user_id", "request_time"], partitioning=None
    )
    weights = np.zeros(len(loaded.limits.schema.heads), np.float32)
    weights[0] = 1.0
    keys = loaded.scorer.table.ids[:WARM_CANDIDATES]
    return [
        PrerankRequest(
            request_id="warm-up",
            user_id=row["user_id"],
            query=row["query"],
            keys=keys,
            originals=None,
            k=10,
            weights=weights,
            explain=True,
            time_us=int(row["request_time"].timestamp() * 1e6)
            if loaded.limits.replay
            else time.time_ns() // 1000,
        )
        for row in table.slice(max(len(table) - 20, 0)).to_pylist()
    ]

"""`prerank check`: a window of the log against what the model was trained on.

The window's requests get their candidates and features as the training set's did, by the same
functions; both are samples of at most SAMPLE requests.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.schema import REQUEST_NUMERIC
from prerank.checks.drift import Drift, drift
from prerank.checks.findings import SCORE, Findings, Limits
from prerank.checks.leaks import find_leaks
from prerank.checks.log import busy_users, clock, missing_days
from prerank.checks.schema import Change, changes, days_of, files_of
from prerank.core.errors import ConfigError, DataError
from prerank.core.feature_sets import require_features
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import DAY_US
from prerank.dataset.candidates import sampled_candidates, shown_candidates
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.examples import read_split, request_arrays, split_sizes, to_arrays
from prerank.dataset.requests import event_days, requests_between
from prerank.features.offline import offline_inputs
from prerank.ingest.mapping import LogMapping

SAMPLE = 4_000
DEFAULT_LIMITS = Limits()
Score = Callable[[RequestArrays, list[str]], NDArray[np.float32]]


def check(
    home: Home,
    since: datetime | None = None,
    limits: Limits = DEFAULT_LIMITS,
    score: Score | None = None,
    version: str = "",
    now: datetime | None = None,
    events: str | Path | None = None,
) -> Findings:
    """Compare the requests from ``since`` on (default: the log's last 24 hours) with training's.

    ``score`` gives the scores [N] of the N candidates of requests, of model ``version``; it is told
    no query texts, which a trained model does not need. ``events`` (absolute path, glob or URI) are
    raw files, such as those of a day that is to be ingested, whose columns are compared too.

    Raises:
        StateError: there is no log, no features or no training set.
        DataError: the window holds no request; the features are of another log; or ``events``
            cannot be read.
        ConfigError: the window begins before the training data ends.
    """
    home = home.pin()
    home.fetch(home.log)
    manifest = LogManifest.load(home)
    require_features(home, manifest)
    training = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    until = manifest.last_us + 1
    begin = until - DAY_US if since is None else round(since.timestamp() * 1e6)
    ends = training["splits"]["validation_from"]
    if begin < ends:
        raise ConfigError(
            f"--since {_iso(begin)} is before {_iso(ends)}, when the training data ends: the log "
            "would be compared with itself. Give a later time."
        )
    train, later = _trained(home, manifest), _later(home, manifest, begin, until)
    names = [*manifest.schema.cross, *(f"request:{name}" for name in REQUEST_NUMERIC)]
    found = drift(names[: train.x.shape[1]], train.x, later.x)
    found += drift(names[train.x.shape[1] :], train.request, later.request)
    if score is not None:
        found += drift([SCORE], score(train, [])[:, None], score(later, [])[:, None])
    missing, thin = missing_days(manifest.requests_per_day)
    return Findings(
        manifest.dataset,
        version,
        _iso(begin),
        _iso(until),
        len(train),
        len(later),
        tuple(sorted(found, key=_largest)),
        tuple(missing),
        tuple(thin),
        clock(home, manifest, begin, until, now or datetime.now(UTC)),
        tuple(busy_users(home, manifest, begin, until, limits.per_minute, limits.per_day)),
        limits,
        tuple(_schema(home, manifest, limits, events)),
        find_leaks(home, manifest),
    )


def _schema(
    home: Home, manifest: LogManifest, limits: Limits, events: str | Path | None
) -> list[Change]:
    found = changes(days_of(home, manifest), limits.missing)
    if events is not None:
        mapping = LogMapping.model_validate(manifest.mapping)
        # The team's names of the log's actions; where none is renamed, they are its own.
        known = mapping.actions or manifest.actions
        with TemporaryDirectory(prefix="prerank-check-") as scratch:
            found += changes(files_of(events, mapping, Path(scratch)), limits.missing, [*known])
    return found


def _largest(one: Drift) -> float:
    return -one.psi


def _iso(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="seconds")


def _trained(home: Home, manifest: LogManifest) -> RequestArrays:
    """Training requests, evenly over the time."""
    step = max(1, -(-sum(split_sizes(home, "train")) // SAMPLE))
    tables = [
        table.take(pa.array(range(0, len(table), step))) for table in read_split(home, "train")
    ]
    return to_arrays(pa.concat_tables(tables), len(manifest.schema.cross), len(REQUEST_NUMERIC))


def _later(home: Home, manifest: LogManifest, begin: int, until: int) -> RequestArrays:
    """The window's requests, evenly over the time, with their features as of then."""
    requests = pa.concat_tables(
        requests_between(files, manifest, begin, until) for files in event_days(home, begin, until)
    )
    if not len(requests):
        raise DataError(f"the log has no request from {_iso(begin)} on. Give an earlier --since.")
    requests = requests.take(pa.array(range(0, len(requests), -(-len(requests) // SAMPLE))))
    schema, catalogue = manifest.schema, load_catalogue(home)
    table, inputs = catalogue.table(), offline_inputs(home, requests)
    if manifest.has_impressions:
        candidates = shown_candidates(requests)
    else:
        candidates = sampled_candidates(schema, requests, inputs, table)
    queries = requests["query"].to_pylist()
    return request_arrays(schema, queries, inputs, candidates, catalogue, table)

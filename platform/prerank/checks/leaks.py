"""Do the features know what comes after a request, or what was done in it? The log itself is asked.

    future     events are planted after a time T: features of requests before T must not change
    shuffled   what was done in a request happens to others of its items: a model that is fitted on
               features of that log must not order items better than chance, since all it could
               know of a label is the label itself
    stamps     no row says that it was there before what it counts, and no example has engagements
               of its user from after its request

The first two copy the latest days of the log, at most MAX_EVENTS events, change them and build
features from them as those of the home were built.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.metrics.ranking import request_metrics
from prerank.core.feature_sets import manifest_of_log, tables_of_log
from prerank.core.files import linked
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.sql import connection
from prerank.core.times import DAY_US, micros, utc
from prerank.dataset.candidates import Candidates, sampled_candidates, shown_candidates
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.examples import request_arrays
from prerank.dataset.requests import requests_between
from prerank.evaluation.baselines.linear import solve
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.features.offline import offline_inputs

MAX_EVENTS = 100_000
"""Few enough that features are built in this process."""
REQUESTS = 500
FIT_REQUESTS = 3_000
LEAST_REQUESTS = 50
"""Requests with a label and without, for an AUC of which anything can be said."""
RIDGE = 1e-3
SEED = 7


@dataclass(frozen=True)
class Leaks:
    """What was found.

    Attributes:
        events: of the copy.
        compared: requests before T whose features were compared.
        changed: of them, those whose features changed when later events were planted.
        auc, error: on shuffled labels, mean over requests, and its standard error; None where the
            log has too few requests with an engagement, or no impressions.
        early_rows, early_histories: rows stamped before their cutoff; histories stamped before
            their last engagement.
        late_examples: training examples with an engagement of the user from after the request.
    """

    events: int
    compared: int
    changed: int
    auc: float | None
    error: float | None
    early_rows: int
    early_histories: int
    late_examples: int


def find_leaks(home: Home, manifest: LogManifest) -> Leaks:
    """Look for leaks in the features of ``home``, which is not changed.

    Raises:
        StateError: the features were not built.
    """
    rows, histories, examples = stamps(home)
    events = _latest(home)
    with TemporaryDirectory(prefix="prerank-check-") as name:
        compared, changed = _planted(home, manifest, events, Path(name))
        told = None
        if manifest.has_impressions:
            told = _shuffled(home, manifest, events, Path(name))
    auc, error = told or (None, None)
    return Leaks(len(events), compared, changed, auc, error, rows, histories, examples)


def stamps(home: Home) -> tuple[int, int, int]:
    """Early rows, early histories and late examples, as in ``Leaks``."""
    tables = tables_of_log(home)
    home.fetch(tables / "engagement", tables / "user_history", home.training_set)

    def count(files: Iterable[Path], wrong: str) -> int:
        places = sorted(map(str, files))
        if not places:
            return 0
        with connection(threads=2) as db:
            rows = db.execute(f"SELECT count(*) FROM read_parquet(?) WHERE {wrong}", [places])
            return int(rows.fetchall()[0][0])

    return (
        count((tables / "engagement").glob("*.parquet"), "event_timestamp < cutoff"),
        count(
            (tables / "user_history").glob("*.parquet"),
            "list_max(times) >= epoch_us(event_timestamp)",
        ),
        count(
            home.training_set.glob("*/*.parquet"),
            "len(hist_times) > 0 AND list_max(hist_times) >= time",
        ),
    )


def _latest(home: Home) -> pa.Table:
    """Events of the latest days, MAX_EVENTS of them at most, whole requests as far as can be."""
    found: list[pa.Table] = []
    room = MAX_EVENTS
    for folder in sorted(home.events.glob("day=*"), reverse=True):
        files = sorted(folder.glob("*.parquet"))
        rows = pa.concat_tables(pq.read_table(f, partitioning=None) for f in files)
        rows = rows.sort_by([("request_time", "descending"), ("request_id", "ascending")])
        found.append(rows.slice(0, room))
        room -= len(rows)
        if room <= 0:
            break
    return pa.concat_tables(found)


def _copy(home: Home, manifest: LogManifest, events: pa.Table, root: Path) -> Home:
    """A home with ``events`` as its log, and features of them as those of ``home``."""
    copy = Home.at(root)
    days = micros(events["request_time"]) // DAY_US
    for day in np.unique(days).tolist():
        folder = copy.events / f"day={np.datetime64(day, 'D')}"
        folder.mkdir(parents=True)
        pq.write_table(events.filter(pa.array(days == day)), folder / "part-0.parquet")
    for name in (home.items, home.catalogue):
        linked(name, copy.items.parent / name.name)
    last = utc(int(micros(events["event_time"]).max())).replace(tzinfo=None).isoformat()
    replace(manifest, events=len(events), last_time=f"{last}Z", fingerprint=root.name).save(copy)
    made = manifest_of_log(home)
    if home.flags.exists():
        linked(home.flags, copy.flags)
    config = FeatureConfig(made["cadence_hours"], made["lag_minutes"], made.get("user_cap"))
    build_features(copy, config)
    return copy


def _planted(home: Home, manifest: LogManifest, events: pa.Table, root: Path) -> tuple[int, int]:
    """Requests that were compared, and those whose features changed."""
    time = int(np.median(micros(events["request_time"])))
    before = _copy(home, manifest, events, root / "before")
    requests = _requests(before, manifest, 0, time)
    requests = requests.slice(max(len(requests) - REQUESTS, 0))
    if not len(requests):
        return 0, 0
    extra = _future(events, requests, manifest, time)
    after = _copy(home, manifest, pa.concat_tables([events, extra]), root / "after")
    candidates = _candidates(before, manifest, requests)
    old, new = (_arrays(copy, manifest, requests, candidates) for copy in (before, after))
    return len(requests), int(_differ(old, new).sum())


def _requests(home: Home, manifest: LogManifest, low: int, high: int) -> pa.Table:
    files = [str(file) for file in sorted(home.events.glob("*/*.parquet"))]
    return requests_between(files, manifest, low, high)


def _future(events: pa.Table, requests: pa.Table, manifest: LogManifest, time: int) -> pa.Table:
    """Engagements from ``time`` on, by the requests' own users with their items and queries."""
    mine = pc.is_in(events["request_id"], requests["request_id"].combine_chunks())
    rows = events.filter(mine)
    rng = np.random.default_rng(SEED)
    later = time + rng.integers(0, DAY_US, len(rows))
    stamp = pa.array(later, pa.int64()).cast(events.schema.field("event_time").type)
    engaged = next(a for a in manifest.actions if a not in manifest.passive)
    ids = rng.integers(-(2**62), 2**62, len(rows))
    changed = {
        "request_id": pa.array([f"planted-{n}" for n in range(len(rows))]),
        "event_id": pa.array(ids),
        "action": pa.repeat(pa.scalar(engaged), len(rows)),
        **dict.fromkeys(("request_time", "event_time", "known_time"), stamp),
    }
    for name, column in changed.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows.cast(events.schema)


def _candidates(home: Home, manifest: LogManifest, requests: pa.Table) -> Candidates:
    if manifest.has_impressions:
        return shown_candidates(requests)
    table = load_catalogue(home).table()
    return sampled_candidates(manifest.schema, requests, offline_inputs(home, requests), table)


def _arrays(
    home: Home, manifest: LogManifest, requests: pa.Table, candidates: Candidates
) -> RequestArrays:
    catalogue = load_catalogue(home)
    inputs, queries = offline_inputs(home, requests), requests["query"].to_pylist()
    table = catalogue.table()
    return request_arrays(manifest.schema, queries, inputs, candidates, catalogue, table)


def _differ(old: RequestArrays, new: RequestArrays) -> NDArray[np.bool_]:
    """Which requests [B] of the same candidates have other features."""
    differs = np.zeros(len(old), bool)
    for rows, bounds in (("x", "offsets"), ("request", None), ("hist_items", "hist_offsets")):
        ours, theirs = getattr(old, rows), getattr(new, rows)
        one_each = np.arange(len(old) + 1)
        at, of = (getattr(arrays, bounds) if bounds else one_each for arrays in (old, new))
        for b in range(len(old)):
            own, other = ours[at[b] : at[b + 1]], theirs[of[b] : of[b + 1]]
            differs[b] |= not np.array_equal(own, other, equal_nan=True)
    return differs


def _shuffled(
    home: Home, manifest: LogManifest, events: pa.Table, root: Path
) -> tuple[float, float] | None:
    """AUC on labels that mean nothing, and its standard error; None where too few requests tell."""
    copy = _copy(home, manifest, shuffled(events), root / "shuffled")
    requests = _requests(copy, manifest, 0, 1 << 62)
    # The first ones have few counts, which tell nothing either way.
    requests = requests.slice(len(requests) // 3)
    requests = requests.slice(max(len(requests) - FIT_REQUESTS, 0))
    half = len(requests) // 2
    if not half:
        return None
    fit, held = (
        _arrays(copy, manifest, part, shown_candidates(part))
        for part in (requests.slice(0, half), requests.slice(half))
    )
    return auc_of_linear(fit, held)


def shuffled(events: pa.Table) -> pa.Table:
    """Events whose engagements happen, within each request, to others of the items it showed.

    What happened to an item happens to one and the same other.
    """
    frame = events.to_pandas()
    shown = frame.loc[frame["action"] == "impression", ["request_id", "item_id"]].drop_duplicates()
    rng = np.random.default_rng(SEED)
    drawn = shown.assign(draw=rng.random(len(shown))).sort_values(["request_id", "draw"])
    places = shown.sort_values(["request_id", "item_id"])
    other = dict(
        zip(
            zip(places["request_id"], places["item_id"], strict=True),
            drawn["item_id"],
            strict=True,
        )
    )
    pairs = zip(frame["request_id"], frame["item_id"], frame["action"], strict=True)
    items = [i if a == "impression" else other.get((r, i), i) for r, i, a in pairs]
    at = events.schema.get_field_index("item_id")
    return events.set_column(at, "item_id", pa.array(items, pa.int64()))


def auc_of_linear(fit: RequestArrays, held: RequestArrays) -> tuple[float, float] | None:
    """AUC within requests of a linear model of x, fitted on other requests; its standard error.

    None where too few of the requests have items with a label and items without.
    """
    std = np.nan_to_num(fit.x, nan=0.0).std(axis=0)
    std = np.where(std > 1e-9, std, 1.0).astype(np.float32)
    clean = replace(fit, x=np.nan_to_num(fit.x, nan=0.0))
    weights = solve(clean, std, 0.0, RIDGE) / std
    scores = (np.nan_to_num(held.x, nan=0.0) @ weights).astype(np.float64)
    found = request_metrics(scores, held.labels & 1 > 0, held.offsets)["auc"]
    found = found[~np.isnan(found)]
    if len(found) < LEAST_REQUESTS:
        return None
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))

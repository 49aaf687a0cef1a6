"""The training set: one row per request, a pure function of the log, split by time."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank.features.batch import RequestArrays
from interactrank.features.schema import REQUEST_NUMERIC
from prerank.core.errors import DataError, StateError
from prerank.core.feature_sets import tables_of_log
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.build import build_training_set
from prerank.dataset.candidates import sampled_candidates, shown_candidates
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.examples import read_split, request_arrays, to_arrays, to_table
from prerank.dataset.requests import event_days, read_requests, requests_between
from prerank.dataset.splits import plan_splits
from prerank.features.offline import offline_inputs
from prerank.training.reader import Reader

BuildHome = Callable[..., Home]
US = pd.Timedelta(microseconds=1)


def manifest_of(home: Home) -> LogManifest:
    return LogManifest.load(home)


def all_requests(home: Home) -> pa.Table:
    return read_requests(sorted(home.events.glob("day=*/*.parquet")), manifest_of(home))


def arrays_of(home: Home, requests: pa.Table) -> RequestArrays:
    """What ``prerank.dataset.build`` makes of ``requests``, in one go."""
    manifest = manifest_of(home)
    catalogue, inputs = load_catalogue(home), offline_inputs(home, requests)
    table = catalogue.table()
    candidates = (
        shown_candidates(requests)
        if manifest.has_impressions
        else sampled_candidates(manifest.schema, requests, inputs, table)
    )
    queries = requests["query"].to_pylist()
    return request_arrays(manifest.schema, queries, inputs, candidates, catalogue, table)


def split(home: Home, name: str) -> pa.Table:
    return pa.concat_tables(read_split(home, name))


def by_id(table: pa.Table) -> dict[str, pa.Table]:
    return {r: table.slice(i, 1) for i, r in enumerate(table["request_id"].to_pylist())}


def bits(table: pa.Table) -> str:
    """Every value of a one-row table, NaN and all."""
    flat = [
        np.asarray(c.combine_chunks().flatten()) if pa.types.is_large_list(c.type) else c.to_numpy()
        for c in table.columns
    ]
    parts = [f.tobytes() if f.dtype != object else str(f.tolist()).encode() for f in flat]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def digests(home: Home) -> dict[str, str]:
    return {
        str(path.relative_to(home.training_set)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.training_set.rglob("*"))
        if path.is_file()
    }


def private(home: Home, root: Path) -> Home:
    """A copy of ``home`` that a test may change."""
    shutil.copytree(home.root, root / "home")
    return Home.at(root / "home")


# ---- The table and its arrays ----------------------------------------------------------------


def test_table_and_arrays_round_trip(tiny_world: Home) -> None:
    requests = all_requests(tiny_world).slice(280, 40)
    arrays = arrays_of(tiny_world, requests)
    ids = requests["request_id"].to_pylist()
    table = to_table(ids, arrays)
    assert table["request_id"].to_pylist() == ids
    back = to_arrays(table, arrays.x.shape[1], len(REQUEST_NUMERIC))
    for field in fields(RequestArrays):
        before, after = getattr(arrays, field.name), getattr(back, field.name)
        assert before.dtype == after.dtype, field.name
        np.testing.assert_array_equal(before, after, err_msg=field.name)
    assert len(arrays.hist_items) > 0
    assert np.abs(arrays.x).sum() > 0


def test_arrays_are_safe_to_give_to_torch(tiny_world: Home) -> None:
    """torch.from_numpy warns of a read-only array, which torch could write to all the same."""
    crosses = len(manifest_of(tiny_world).schema.cross)
    arrays = to_arrays(split(tiny_world, "train").slice(0, 4), crosses, len(REQUEST_NUMERIC))
    assert arrays.x.flags.writeable
    assert arrays.request.flags.writeable


def test_arrays_of_a_slice_are_the_arrays_of_its_rows(tiny_world: Home) -> None:
    """Batches are slices and shuffles of a file's table; offsets must start over."""
    table = split(tiny_world, "train")
    order = np.random.default_rng(0).permutation(len(table))[:50]
    shuffled = table.take(pa.array(order)).slice(10, 20)
    crosses = len(manifest_of(tiny_world).schema.cross)
    arrays = to_arrays(shuffled, crosses, len(REQUEST_NUMERIC))
    for b, row in enumerate(order[10:30].tolist()):
        lo, hi = arrays.offsets[b : b + 2]
        one = table.slice(row, 1)
        np.testing.assert_array_equal(arrays.candidates[lo:hi], one["candidates"].to_pylist()[0])
        np.testing.assert_array_equal(
            arrays.x[lo:hi].ravel(), np.array(one["x"].to_pylist()[0], np.float32)
        )
        assert arrays.time[b] == one["time"].to_pylist()[0]


# ---- A pure function of the log ---------------------------------------------------------------


def test_an_example_does_not_depend_on_its_task(tiny_world: Home) -> None:
    stored = by_id(split(tiny_world, "train")) | by_id(split(tiny_world, "validation"))
    requests = all_requests(tiny_world)
    order = np.random.default_rng(1).permutation(len(requests))
    seen = 0
    for size in (1, 7, 60):
        for start in range(0, 3 * size, size):
            some = requests.take(pa.array(order[start : start + size]))
            ids = some["request_id"].to_pylist()
            for name, row in by_id(to_table(ids, arrays_of(tiny_world, some))).items():
                if name in stored:
                    assert bits(row) == bits(stored[name]), name
                    seen += 1
    assert seen > 100


def test_a_rebuilt_training_set_is_the_same(tiny_world: Home, tmp_path: Path) -> None:
    again = private(tiny_world, tmp_path)
    shutil.rmtree(again.training_set)
    build_training_set(again)
    assert len(digests(tiny_world)) > 2
    assert digests(again) == digests(tiny_world)


def test_features_of_another_log_are_refused(
    tiny_world: Home,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    build_home: BuildHome,
    tmp_path: Path,
) -> None:
    other = build_home(tmp_path, tiny_log.head(-1), tiny_items, features=None)
    with pytest.raises(StateError, match="Run `prerank features` first"):
        build_training_set(other)
    shutil.copytree(tables_of_log(tiny_world), tables_of_log(other))
    with pytest.raises(StateError, match=r"a log that was replaced\. Run `prerank features`"):
        build_training_set(other)
    # Of this log, before it grew.
    path = tables_of_log(other) / "manifest.json"
    write_json(path, other.read_json(path, "") | {"log_id": other.log_id})
    with pytest.raises(DataError, match=r"another log\. Run `prerank features` again"):
        build_training_set(other)
    assert not other.training_set.exists()


# ---- Which requests, in which split -----------------------------------------------------------


def test_splits_are_by_time_disjoint_and_whole(tiny_world: Home) -> None:
    manifest = manifest_of(tiny_world)
    splits = plan_splits(tiny_world, manifest)
    requests = all_requests(tiny_world)
    time = requests["request_time"].cast(pa.int64()).to_numpy()
    train, validation = split(tiny_world, "train"), split(tiny_world, "validation")
    assert max(train["time"].to_pylist()) < min(validation["time"].to_pylist())
    assert max(validation["time"].to_pylist()) < splits.test_from
    wanted = {
        "train": (0, splits.validation_from),
        "validation": (splits.validation_from, splits.test_from),
    }
    for name, (low, high) in wanted.items():
        ids = requests.filter(pa.array((time >= low) & (time < high)))["request_id"].to_pylist()
        assert sorted(split(tiny_world, name)["request_id"].to_pylist()) == sorted(ids)
    eligible = int((time < splits.closed_before).sum())
    assert len(train) == pytest.approx(0.7 * eligible, abs=2)
    assert len(validation) == pytest.approx(0.1 * eligible, abs=2)
    assert {splits.split_of(int(t)) for t in train["time"].to_pylist()} == {"train"}


def test_without_the_catalogue_s_arrays_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"catalogue\.safetensors is missing.*--replace"):
        load_catalogue(Home.at(tmp_path))


def test_day_groups_hold_every_request_once(tiny_world: Home) -> None:
    manifest, groups = manifest_of(tiny_world), event_days(tiny_world, per_task=50)
    assert len(groups) > 5
    tables = [requests_between(files, manifest, 0, 1 << 62) for files in groups]
    found = pa.concat_tables(tables)["request_id"].to_pylist()
    assert found == all_requests(tiny_world)["request_id"].to_pylist()


def test_open_label_windows_are_left_out(
    tiny_log: pd.DataFrame, tiny_items: pd.DataFrame, build_home: BuildHome, tmp_path: Path
) -> None:
    """Closed means: the log goes on for a whole window after the request."""
    hours = 10 * 24
    home = build_home(tmp_path, tiny_log, tiny_items, training_set=True, label_window_hours=hours)
    splits = plan_splits(home, manifest_of(home))
    end = tiny_log["event_time"].max()
    asked = tiny_log.drop_duplicates("request_id")
    closed = asked["request_time"] + pd.Timedelta(hours=hours) <= end
    assert 100 < closed.sum() < 500
    assert splits.closed_before == asked.loc[closed, "request_time"].max().value // 1000 + 1
    kept = {r for s in ("train", "validation") for r in split(home, s)["request_id"].to_pylist()}
    assert kept <= set(asked.loc[closed, "request_id"])
    assert len(kept) == pytest.approx(0.8 * closed.sum(), abs=2)


def test_too_short_a_log_is_named(
    tiny_log: pd.DataFrame, tiny_items: pd.DataFrame, build_home: BuildHome, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="0 requests have a closed label window"):
        build_home(tmp_path, tiny_log, tiny_items, training_set=True, label_window_hours=9_999)


def test_a_request_without_impressions_is_history_only(
    tiny_log: pd.DataFrame, tiny_items: pd.DataFrame, build_home: BuildHome, tmp_path: Path
) -> None:
    engaged = tiny_log[tiny_log["action"] != "impression"]
    bare = set(engaged["request_id"].unique()[20:60])
    log = tiny_log[(tiny_log["action"] != "impression") | ~tiny_log["request_id"].isin(bare)]
    home = build_home(tmp_path, log, tiny_items, training_set=True)
    kept = {r for s in ("train", "validation") for r in split(home, s)["request_id"].to_pylist()}
    assert len(kept) > 300
    assert not kept & bare
    assert not bare & set(all_requests(home)["request_id"].to_pylist())
    one = engaged[engaged["request_id"].isin(bare)].iloc[0]
    probe = pa.Table.from_pandas(
        pd.DataFrame(
            [
                {
                    "query": one["query"],
                    "user_id": one["user_id"],
                    "request_time": one["event_time"] + US,
                }
            ]
        )
    )
    assert one["item_id"] in offline_inputs(home, probe).hist_items


# ---- Logs without impressions -----------------------------------------------------------------


@pytest.fixture(scope="module")
def bare_world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    build_home: BuildHome,
) -> Home:
    log = tiny_log[tiny_log["action"] != "impression"]
    return build_home(tmp_path_factory.mktemp("bare"), log, tiny_items, training_set=True)


def test_negatives_are_sampled_where_nothing_was_shown(
    bare_world: Home, tiny_log: pd.DataFrame, tiny_items: pd.DataFrame
) -> None:
    summary = bare_world.read_json(bare_world.training_set / "manifest.json", "training-set")
    assert summary["candidates"] == "sampled"
    catalogue = set(tiny_items["item_id"])
    log = tiny_log[tiny_log["action"] != "impression"]
    positives = log.groupby("request_id")["item_id"].agg(set)
    for row in split(bare_world, "train").to_pylist():
        candidates, labels = row["candidates"], np.array(row["labels"])
        engaged = positives[row["request_id"]]
        assert len(set(candidates)) == len(candidates), "a candidate is listed twice"
        assert {c for c, lab in zip(candidates, labels, strict=True) if lab} == engaged
        assert set(candidates) <= catalogue
        assert (labels == 0).sum() >= 32
        # Who is a candidate for certain has probability 1; who was drawn has less.
        log_q = np.array(row["log_q"])
        assert (log_q <= 0).all()
        assert (log_q[labels > 0] == 0).all()
        assert (log_q < 0).any()


def test_sampling_depends_on_the_request_alone(bare_world: Home) -> None:
    stored = by_id(split(bare_world, "train"))
    requests = all_requests(bare_world)
    picked = np.random.default_rng(2).permutation(len(requests))[:25]
    for group in (picked, picked[:1], picked[3:9]):
        some = requests.take(pa.array(group))
        rows = by_id(to_table(some["request_id"].to_pylist(), arrays_of(bare_world, some)))
        for name in rows.keys() & stored.keys():
            assert bits(rows[name]) == bits(stored[name]), name
    first, second = (stored[n]["candidates"].to_pylist()[0] for n in list(stored)[-2:])
    assert set(first) != set(second), "every request drew the same items"


def test_a_shuffled_epoch_is_whole_and_reads_a_file_when_it_is_needed(
    tiny_world: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, whole = private(tiny_world, tmp_path), split(tiny_world, "train")
    for path in (home.training_set / "train").glob("*.parquet"):
        path.unlink()
    cuts = np.linspace(0, len(whole), 6).astype(int)
    for i, (start, end) in enumerate(itertools.pairwise(cuts)):
        pq.write_table(whole[start:end], home.training_set / "train" / f"part-{i:05}.parquet")
    plain = np.concatenate([b.x.numpy() for b in Reader(home).split("train", 16)])
    read: list[Path] = []
    real = pq.read_table

    def recorded(path: Path) -> pa.Table:
        read.append(path)
        return real(path)

    monkeypatch.setattr(pq, "read_table", recorded)
    epochs = []
    for seed in (1, 2):
        read.clear()
        batches = Reader(home).split("train", 16, seed)
        first = next(batches)
        of_train = [p for p in read if p.parent.name == "train"]
        assert len(of_train) == 1
        epochs.append(np.concatenate([b.x.numpy() for b in (first, *batches)]))
        assert len({p for p in read if p.parent.name == "train"}) == 5
        np.testing.assert_array_equal(np.sort(epochs[-1], axis=0), np.sort(plain, axis=0))
    assert not np.array_equal(epochs[0], epochs[1])

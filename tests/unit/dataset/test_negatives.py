"""Sampled candidates: reproducible, own request only, and with the right probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from tests.plain_requests import Request, as_inputs
from tests.samples import CATALOGUE

from interactrank.features.id_table import IdTable
from interactrank.features.inputs import FeatureInputs
from interactrank.features.packed_rows import pack
from interactrank.features.schema import LEVELS, FeatureSchema
from interactrank.training.trainer import TrainConfig
from prerank.dataset.examples import Order
from prerank.dataset.negatives import FAR, HARD, NEAR, sample_candidates
from prerank.training.reader import Reader

SCHEMA = FeatureSchema(("click",), (), ("engagement",))
TABLE = IdTable(np.arange(1000, 1400)[::-1].copy())


def block(ids: list[int], counts: list[float]) -> bytes:
    columns = SCHEMA.columns(LEVELS[0])
    held = np.array(sorted(ids), np.int64)
    count = np.array(counts, np.float64)[np.argsort(ids)]
    return pack(held, np.repeat(count[:, None], len(columns), 1), columns, LEVELS[0])


def inputs(rows: list[bytes | None], histories: list[list[int]]) -> FeatureInputs:
    """One q: row and one history a request."""
    return as_inputs(
        [
            Request({"q:x": row}, [(item, 0, 0, 0) for item in history])
            for row, history in zip(rows, histories, strict=True)
        ]
    )


def sampled(
    rows: list[bytes | None],
    histories: list[list[int]],
    seeds: list[int],
    positives: list[list[int]],
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    ids, log_q, offsets = sample_candidates(
        SCHEMA,
        inputs(rows, histories),
        np.array(seeds, np.int64),
        np.array([p for own in positives for p in own], np.int64),
        np.cumsum([0] + [len(own) for own in positives]).astype(np.int64),
        TABLE,
    )
    bounds = offsets[1:-1]
    return list(zip(np.split(ids, bounds), np.split(log_q, bounds), strict=True))


def requests(n: int) -> tuple[list[bytes | None], list[list[int]], list[int], list[list[int]]]:
    rng = np.random.default_rng(n)
    rows: list[bytes | None] = [None]
    for size in rng.integers(0, 120, n - 1):
        ids = rng.choice(np.arange(990, 1410), size, replace=False).tolist()
        rows.append(block(ids, rng.integers(0, 30, size).tolist()))
    histories = [rng.integers(990, 1410, rng.integers(0, 30)).tolist() for _ in range(n)]
    positives = [
        rng.choice(np.arange(1000, 1400), rng.integers(0, 5), replace=False).tolist()
        for _ in range(n)
    ]
    return rows, histories, rng.integers(0, 2**32 - 1, n).tolist(), positives


def test_a_request_draws_the_same_alone_and_among_others() -> None:
    rows, histories, seeds, positives = requests(12)
    together = sampled(rows, histories, seeds, positives)
    backwards = sampled(rows[::-1], histories[::-1], seeds[::-1], positives[::-1])[::-1]
    for b, (ids, log_q) in enumerate(together):
        alone, alone_q = sampled([rows[b]], [histories[b]], [seeds[b]], [positives[b]])[0]
        assert ids.tolist() == alone.tolist() == backwards[b][0].tolist()
        assert log_q.tolist() == alone_q.tolist() == backwards[b][1].tolist()


def test_another_seed_draws_others() -> None:
    rows, histories, _, positives = requests(3)
    first = sampled(rows, histories, [1, 2, 3], positives)
    second = sampled(rows, histories, [4, 5, 6], positives)
    assert all(
        set(a.tolist()) != set(b.tolist()) for (a, _), (b, _) in zip(first, second, strict=True)
    )


def test_positives_come_first_and_nothing_repeats() -> None:
    rows, histories, seeds, positives = requests(20)
    for own, (ids, log_q) in zip(
        positives, sampled(rows, histories, seeds, positives), strict=True
    ):
        assert ids[: len(own)].tolist() == own
        assert not log_q[: len(own)].any()
        assert len(set(ids.tolist())) == len(ids)
        assert set(ids.tolist()) <= set(TABLE.ids.tolist())
        assert (log_q <= 0).all()
        assert len(ids) <= len(own) + HARD + NEAR + FAR


def test_repeated_and_unknown_positives_count_once_and_never() -> None:
    ids, _ = sampled([None], [[]], [0], [[1005, 1005, 7, 1006]])[0]
    assert ids[:2].tolist() == [1005, 1006]
    assert sorted(set(ids.tolist())) == sorted(ids.tolist())
    assert 7 not in ids


def test_a_small_catalogue_is_taken_whole() -> None:
    table = IdTable(np.arange(20))
    ids, log_q, offsets = sample_candidates(
        SCHEMA, inputs([None], [[]]), np.array([3]), np.array([4]), np.array([0, 1]), table
    )
    assert sorted(ids.tolist()) == list(range(20))
    assert not log_q.any()
    assert offsets.tolist() == [0, 20]


def test_hard_are_the_items_the_row_speaks_for_most() -> None:
    items = list(range(1000, 1100))
    counts = [float(1 + (i * 37) % 100) for i in range(100)]
    best = {i for i, c in zip(items, counts, strict=True) if c > 100 - HARD}
    for seed in range(5):
        ids, log_q = sampled([block(items, counts)], [[]], [seed], [[]])[0]
        assert set(ids[:HARD].tolist()) == best
        assert not log_q[:HARD].any()


def test_a_recently_touched_item_is_hard() -> None:
    items = list(range(1000, 1100))
    ids, _ = sampled([block(items, [1.0] * 100)], [[1300, 1301]], [1], [[]])[0]
    assert {1300, 1301} <= set(ids[:HARD].tolist())


def test_log_q_is_the_share_of_draws_that_hold_the_item() -> None:
    items = list(range(1000, 1100))
    row = block(items, [float(i) for i in range(1, 101)])
    draws, positives = 6000, [1350, 1040]
    found = sampled([row] * draws, [[]] * draws, list(range(draws)), [positives] * draws)
    held = np.zeros(400)
    claimed = np.full(400, np.nan)
    for ids, log_q in found:
        held[ids - 1000] += 1
        before = claimed[ids - 1000]
        assert (np.isnan(before) | np.isclose(before, log_q)).all()
        claimed[ids - 1000] = log_q
    share, expected = held / draws, np.exp(claimed)
    error = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(share - expected) <= 5 * error + 1e-9).all()
    near, far = 100 - HARD - 1, 300 - 1
    assert sorted(set(np.round(expected, 5).tolist())) == pytest.approx(
        sorted([1.0, NEAR / near, FAR / far]), abs=1e-4
    )


def test_the_latest_batches_are_the_last_of_the_split() -> None:
    class Numbers(Reader):
        def __init__(self) -> None: ...

        def tables(self, name: str, order: Order = iter) -> Iterator[pa.Table]:
            for i in order(range(3)):
                read.append(5 * i)
                yield pa.table({"n": range(5 * i, 5 * i + 5)})

        def batch(self, table: pa.Table, negatives: Any = None) -> Any:
            return table["n"].to_pylist()

    read: list[int] = []
    assert Numbers().latest("train", 3, 3) == [[8, 9], [10, 11, 12], [13, 14]]
    assert read == [10, 5], "older files are of no use"
    assert len(Numbers().latest("train", 3, 99)) == 6


def test_larger_steps_leave_the_fits_of_the_fusion_as_they_are() -> None:
    class Numbers(Reader):
        def __init__(self) -> None: ...

        def tables(self, name: str, order: Order = iter) -> Iterator[pa.Table]:
            for i in order(range(3)):
                yield pa.table({"n": range(9_000 * i, 9_000 * (i + 1))})

        def sizes(self, name: str) -> list[int]:
            return [9_000] * 3

        def batch(self, table: pa.Table, negatives: Any = None) -> Any:
            return table["n"].to_pylist()

    def of(requests: int) -> tuple[Any, Any]:
        config = TrainConfig(batch_requests=requests)
        return Numbers().held_out(config), Numbers().auxiliary(config)

    assert of(512) == of(4096) == of(256)
    assert max(map(len, of(64)[0])) == 64, "smaller steps have smaller fits"


def test_a_spread_sample_is_from_all_over_the_split_and_repeats_by_seed() -> None:
    class Numbers(Reader):
        def __init__(self) -> None: ...

        def tables(self, name: str, order: Order = iter) -> Iterator[pa.Table]:
            yield from (pa.table({"n": range(a, a + 100)}) for a in range(0, 1_000, 100))

        def sizes(self, name: str) -> list[int]:
            return [100] * 10

        def batch(self, table: pa.Table, negatives: Any = None) -> Any:
            return table["n"].to_pylist()

    found: list[Any] = Numbers().spread("train", 20, 5, seed=1)
    drawn = [n for batch in found for n in batch]
    assert [len(batch) for batch in found] == [20] * 5
    assert drawn == sorted(set(drawn))
    assert np.bincount(np.array(drawn) // 100).tolist() == [10] * 10
    assert Numbers().spread("train", 20, 5, seed=1) == found != Numbers().spread("train", 20, 5, 2)
    whole: list[Any] = Numbers().spread("train", 20, 999, seed=1)
    assert sum(map(len, whole)) == 1_000


def test_random_items_join_training_batches_only_where_impressions_were_logged() -> None:
    reader = Reader.__new__(Reader)
    reader.catalogue = CATALOGUE
    for reader.shown in (True, False):
        found = reader.negatives(np.random.default_rng(1), 5000)
        assert (found is not None) == reader.shown
        assert reader.negatives(np.random.default_rng(1), 0) is None
        if found is not None:
            assert sorted(set(found.tolist())) == list(range(len(CATALOGUE)))
            assert len(found) == 5000

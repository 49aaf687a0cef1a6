"""A version replayed on what was served: itself changes nothing, another is told apart."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests import online_log, samples
from tests.http_calls import no_writers
from tests.object_stores import nodes
from tests.served_logs import send
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from interactrank.model.scorer import Scorer
from prerank.core.errors import DamagedError, DataError
from prerank.core.home import Home
from prerank.core.served import REQUESTS, requests_folder
from prerank.evaluation.replay import ALL, Replayed, replay
from prerank.serving.config import ServeConfig
from prerank.serving.http import HttpApi
from prerank.serving.served_log import LogConfig, ServedLog

ITEMS, REQUESTS_SENT, KEPT_ITEMS = samples.CATALOGUE.ids.tolist(), 12, 12


def other_scorer() -> Scorer:
    """The same items by another model."""
    torch.manual_seed(5)
    model = samples.new_model(samples.SHIPPED)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        vectors = samples.item_vectors(model, samples.CATALOGUE)[1:].to(torch.bfloat16)
    return Scorer(model, samples.CATALOGUE, samples.CATALOGUE.ids, vectors)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """With a dozen answers of version 1, a third of them degraded."""
    found = Home.at(tmp_path / "home")
    found.create()
    served(found)
    return found


def served(found: Home) -> None:
    replace(online_log.MANIFEST, ids="integer").save(found)
    log = ServedLog(found, LogConfig(1.0, KEPT_ITEMS, None), time.time)
    engine: Any = SmallEngine(SAMPLE, sample_scorer())
    api = HttpApi(ServeConfig(), engine, no_writers, log=log)
    rng = np.random.default_rng(2)
    for n in range(REQUESTS_SENT):
        engine.store.degraded = () if n % 3 else ("history",)
        asked = [{"id": i, "score": i / 8, "rank": r} for r, i in enumerate(rng.permutation(ITEMS))]
        body = {"user_id": "u", "query": "red shoe", "request_id": f"r{n}"}
        plain = [{k: v.item() if hasattr(v, "item") else v for k, v in c.items()} for c in asked]
        send(api, "/v1/prerank", body | {"candidates": plain[: 20 if n % 2 else KEPT_ITEMS]})
    log.close()


def replayed(home: Home, scorer: Scorer, limit: int = 1_000) -> Replayed:
    return replay(home, requests_folder(home), scorer, "2", limit)


def test_the_version_that_answered_changes_nothing(home: Home) -> None:
    found = replayed(home, sample_scorer())
    whole = found.slices[ALL]
    assert whole.answers == REQUESTS_SENT
    assert whole.overlap == {"5": 1.0, "10": 1.0, "cut": 1.0}
    assert (whole.moved, whole.first, whole.same) == (0.0, 0.0, 1.0)
    assert whole.shift == pytest.approx(0.0, abs=1e-6)
    assert found.served_by == {"1": REQUESTS_SENT}
    assert found.cut_off == 0.5
    assert found.slices["degraded"].answers == 4
    assert found.slices["new user"].answers == REQUESTS_SENT
    assert found.slices["tail query"].answers == REQUESTS_SENT
    assert "head query" not in found.slices


def test_another_version_is_told_by_what_its_own_order_would_be(home: Home) -> None:
    found, scorer = replayed(home, other_scorer()), other_scorer()
    rows = [
        row
        for file in requests_folder(home).rglob("*.parquet")
        for row in pq.read_table(file, schema=REQUESTS, partitioning=None).to_pylist()
    ]
    from safetensors.numpy import load

    from interactrank.features.inputs import FeatureInputs
    from prerank.serving.fields import weights_of

    tops, moved = [], []
    for row in rows:
        ids, said = np.array(list(map(int, row["items"]))), dict(row["retriever"])
        given = np.array([said[name] for name in samples.SCHEMA.given], np.float32).T
        inputs = FeatureInputs.restored(load(row["inputs"]))
        weights = weights_of(None, samples.SCHEMA)
        scores = scorer.score(row["query"], inputs, ids, weights, given).scores
        order = sorted(ids.tolist(), key=lambda i: -scores[ids.tolist().index(i)])
        tops.append(len({*order[:5]} & {*ids[:5].tolist()}) / 5)
        moved.append(np.mean([abs(order.index(i) - n) for n, i in enumerate(ids.tolist())]))
    assert found.slices[ALL].overlap["5"] == pytest.approx(np.mean(tops))
    assert found.slices[ALL].moved == pytest.approx(np.mean(moved))
    assert 0 < found.slices[ALL].overlap["5"] < 1
    assert "version 2 on answers from" in found.table()
    assert "50% of the answers were written down in part" in found.table()


def test_a_sample_is_drawn_where_there_are_more(home: Home) -> None:
    assert replayed(home, sample_scorer(), 5).slices[ALL].answers == 5


def test_answers_of_other_features_are_counted_and_left_out(home: Home) -> None:
    (file, *_) = requests_folder(home).rglob("*.parquet")
    table = pq.read_table(file, schema=REQUESTS, partitioning=None)
    broken = pa.array([b"no tensors", *table["inputs"].to_pylist()[1:]], pa.binary())
    at = table.column_names.index("inputs")
    pq.write_table(table.set_column(at, "inputs", broken), file)
    found = replayed(home, sample_scorer())
    assert sum(found.skipped.values()) == 1
    assert found.slices[ALL].answers == REQUESTS_SENT - 1
    assert "not scored: 1 x its inputs are not of the version's features" in found.table()


def test_a_log_that_is_empty_or_damaged_is_named(home: Home, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no answer. With `log_share` above 0"):
        replay(home, tmp_path / "none", sample_scorer(), "2", 10)
    (file, *_) = requests_folder(home).rglob("*.parquet")
    file.write_bytes(b"torn")
    with pytest.raises(DamagedError, match=f"{file.name} cannot be read"):
        replayed(home, sample_scorer())


def test_a_node_replays_what_replicas_of_others_sent_to_the_store(tmp_path: Path) -> None:
    with nodes(tmp_path) as store:
        with store.node("replica") as replica:
            served(replica)
        with store.node("pod") as home:
            # As the command does.
            home.look(home.served, deep=True)
            assert replayed(home, sample_scorer()).served_by == {"1": REQUESTS_SENT}

"""benchmarks/capacity.py: more of anything never needs less, and the table has its keys."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def capacity(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import capacity

    yield capacity
    for name in ("capacity", "printed"):
        sys.modules.pop(name, None)


def test_a_small_catalogue_is_in_each_process_and_a_large_one_in_shards(capacity: Any) -> None:
    m, nodes = capacity.Measured(), capacity.Nodes()
    small = capacity.plan(10_000_000, 1000, 10_000, m, nodes)
    large = capacity.plan(1_000_000_000, 1000, 10_000, m, nodes)
    assert (small.shards, small.shard_processes) == (1, 0)
    # 2^25 slots of 16 bytes and 8 bytes an id; 128 bytes a vector.
    assert small.front_gb == pytest.approx((2**25 * 16 + 8e7) / 1e9)
    assert small.mapped_gb == pytest.approx(1.28)
    assert large.shards > 1
    assert large.shards * large.shard_gb == pytest.approx(144.0)
    assert large.shard_processes >= large.shards


def test_more_never_needs_less(capacity: Any) -> None:
    m, nodes = capacity.Measured(), capacity.Nodes()
    least = capacity.plan(10_000_000, 1000, 10_000, m, nodes)
    for more in ((100_000_000, 1000, 10_000), (10_000_000, 9000, 10_000), (10**7, 1000, 100_000)):
        assert capacity.plan(*more, m, nodes).nodes >= least.nodes
    assert capacity.plan(10**9, 1000, 10_000, m, capacity.Nodes(memory_gb=16)) is None


def test_costs_are_read_from_what_was_measured(capacity: Any, tmp_path: Path) -> None:
    def row(n: int, ms: float) -> dict[str, Any]:
        own = {"score": ms, "both": ms + 1, "keys": 12, "bytes": 50_000}
        cores = {"service_cores": 0.4, "redis_cores": 0.01, "saturation": 100}
        return {"candidates": n, "form": "int64", "service": "ours", "in_process": own} | cores

    file = tmp_path / "measured.json"
    file.write_text(json.dumps({"found": [row(1000, 2.1), row(11_000, 4.1)]}))
    found = capacity.measured(file)
    assert found.candidate_us == pytest.approx(0.2)
    assert found.fixed_ms == pytest.approx(1.9)
    assert found.front_ms == pytest.approx(8.0 - 2.1)
    assert (found.keys, found.read_kb, found.redis_ms) == (12, 50.0, pytest.approx(0.2))

"""How much a catalogue and a rate of requests need: shards, cores, memory, Redis, network.

    python benchmarks/capacity.py [--measured over_http.json] [--node-gb 128]

A calculation, not a measurement. What it starts from was measured on one replica, by
`benchmarks/over_http.py --json`, or is the default of an argument below, which names its source.
Cores and Redis are taken to scale with their number, which was not measured beyond one machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from printed import markdown, show

from interactrank.features.id_table import table_bits

ITEMS = (10_000_000, 100_000_000, 1_000_000_000)
RATES, CANDIDATES = (1_000, 10_000), (10_000, 100_000)
MAX_SHARDS = 128
ID, CREATED, SLOT, BF16 = 8, 8, 16, 2
"""Bytes: of an item's id and age, of a slot of the table of ids, of a number of a vector."""
GB, MB = 1e9, 1e6


@dataclass(frozen=True)
class Measured:
    """What a request costs; milliseconds of a core unless said otherwise.

    Attributes:
        fixed_ms, candidate_us: of scoring in process, by benchmarks/scorer.py (docs/serving.md):
            3.99 ms with 10,000 candidates and 18.38 ms with 100,000.
        query_ms: of it the request's side of the model, which a front computes once.
        front_ms: of HTTP, proxy, parsing and the read, by benchmarks/over_http.py.
        call_ms: of a call of a shard through Ray Serve, both ends together: 43.5 requests per
            second of 1,000 candidates with two shards and 141 without, on the same two cores.
        keys, read_kb: of a request in Redis, with rows as long as a busy log's.
        redis_ms: of Redis's one core, per request.
        answer_kb: of an answer with 100 items. Assumed.
    """

    fixed_ms: float = 2.39
    candidate_us: float = 0.160
    query_ms: float = 1.0
    front_ms: float = 4.0
    call_ms: float = 16.0
    keys: float = 16.0
    read_kb: float = 100.0
    redis_ms: float = 0.2
    answer_kb: float = 5.0


@dataclass(frozen=True)
class Nodes:
    """What is bought, and how full it may get.

    Attributes:
        cores, memory_gb: of a node; ``share`` of its memory is for the index.
        use: share of a core or of Redis that requests may take, so that p99 stays bounded.
        score_ms: in which a process must score its part of a request, at most.
        width: of an item vector, bf16.
    """

    cores: int = 16
    memory_gb: float = 128.0
    share: float = 0.5
    use: float = 0.5
    score_ms: float = 25.0
    width: int = 64

    @property
    def index_gb(self) -> float:
        """Of a node, for the index."""
        return self.memory_gb * self.share


@dataclass(frozen=True)
class Plan:
    """What a catalogue and a rate need. Processes have a core each; ``front_gb`` and ``shard_gb``
    are of one process, ``mapped_gb`` is shared by those of a node.
    """

    shards: int
    mapped_gb: float
    front_gb: float
    shard_gb: float
    fronts: int
    shard_processes: int
    nodes: int
    redis_keys: float
    redis_mb: float
    redis_cores: int
    callers_mb: float
    shards_mb: float


def plan(items: int, rate: float, candidates: int, m: Measured, nodes: Nodes) -> Plan | None:
    """The number of shards that needs the fewest nodes; None where a front fits on none."""
    found = [with_shards(n, items, rate, candidates, m, nodes) for n in range(1, MAX_SHARDS + 1)]
    return min((p for p in found if p), key=lambda p: p.nodes, default=None)


def with_shards(
    shards: int, items: int, rate: float, candidates: int, m: Measured, nodes: Nodes
) -> Plan | None:
    """What ``shards`` of ``items`` need; None where they do not fit, or are too slow."""
    alone, sweep_ms = shards == 1, candidates * m.candidate_us / 1e3
    vectors_gb = items * nodes.width * BF16 / GB
    # The same table as in every replica: a power of two, at most half full.
    front_gb = (SLOT * (1 << int(table_bits(items))) + items * ID) / GB
    shard_gb = 0.0 if alone else (vectors_gb + items * (ID + CREATED) / GB) / shards
    mapped_gb = vectors_gb if alone else 0.0
    # What a shard does whatever its share of the candidates: x of those that stand in a row.
    each_ms = m.fixed_ms - m.query_ms
    if each_ms + sweep_ms / shards + (m.query_ms if alone else 0.0) > nodes.score_ms:
        return None
    front_ms = m.front_ms + m.query_ms
    front_ms += each_ms + sweep_ms if alone else shards * m.call_ms / 2
    shard_ms = 0.0 if alone else shards * (each_ms + m.call_ms / 2) + sweep_ms

    def processes(ms: float) -> int:
        return math.ceil(rate * ms / 1e3 / nodes.use)

    def places(gb: float) -> int:
        return min(nodes.cores, int((nodes.index_gb - mapped_gb) / gb)) if gb else nodes.cores

    fronts, others = processes(front_ms), max(processes(shard_ms), 0 if alone else shards)
    if places(front_gb) < 1 or places(shard_gb) < 1:
        return None
    body_kb = candidates * ID / 1e3
    return Plan(
        shards=shards,
        mapped_gb=mapped_gb,
        front_gb=front_gb,
        shard_gb=shard_gb,
        fronts=fronts,
        shard_processes=others,
        nodes=math.ceil(fronts / places(front_gb)) + math.ceil(others / places(shard_gb)),
        redis_keys=rate * m.keys,
        redis_mb=rate * m.read_kb / 1e3,
        redis_cores=processes(m.redis_ms),
        callers_mb=rate * (body_kb + m.answer_kb) / 1e3,
        shards_mb=0.0 if alone else rate * (body_kb + shards * m.read_kb) / 1e3,
    )


def measured(path: Path | None) -> Measured:
    """The costs in a file of ``over_http.py --json``, the defaults where it tells nothing."""
    m = Measured()
    if path is None:
        return m
    rows: list[dict[str, Any]] = json.loads(path.read_text())["found"]
    ours = {r["candidates"]: r for r in rows if r["service"] == "ours" and r["form"] == "int64"}
    if len(ours) < 2:
        raise SystemExit(f"{path} needs two numbers of candidates as int64 at least")
    (few, low), *_, (many, high) = sorted(ours.items())
    told = low["in_process"], high["in_process"]
    slope = (told[1]["score"] - told[0]["score"]) / (many - few)
    rate = low["saturation"] / 2
    return replace(
        m,
        fixed_ms=told[0]["score"] - few * slope,
        candidate_us=1e3 * slope,
        # All of the service's processes, less what scoring takes.
        front_ms=max(1e3 * low["service_cores"] / rate - told[0]["score"], 0.5),
        keys=told[0]["keys"],
        read_kb=told[0]["bytes"] / 1e3,
        redis_ms=max(1e3 * low["redis_cores"] / rate, 0.01),
    )


HEAD = (
    "items",
    "requests /s",
    "candidates",
    "shards",
    "mapped per node, GB",
    "front process, GB",
    "shard process, GB",
    "fronts",
    "shard processes",
    "nodes",
    "Redis keys /s",
    "Redis MB/s",
    "Redis cores",
    "callers MB/s",
    "to shards MB/s",
)


def table(m: Measured, nodes: Nodes) -> str:
    """A row per catalogue, rate and number of candidates."""
    rows = []
    for items, rate, candidates in itertools.product(ITEMS, RATES, CANDIDATES):
        row = [f"{items // 1_000_000:,}M", f"{rate:,}", f"{candidates:,}"]
        p = plan(items, rate, candidates, m, nodes)
        if p is None:
            rows.append([*row, *["no such node"] * (len(HEAD) - len(row))])
            continue
        sizes = [f"{gb:,.1f}" if gb else "" for gb in (p.mapped_gb, p.front_gb, p.shard_gb)]
        numbers = [p.fronts, p.shard_processes, p.nodes, p.redis_keys, p.redis_mb, p.redis_cores]
        numbers += [p.callers_mb, p.shards_mb]
        rows.append([*row, str(p.shards), *sizes, *(f"{n:,.0f}" if n else "" for n in numbers)])
    return markdown(HEAD, rows)


def main() -> None:
    """Print what was started from, and the table."""
    shown_as_is = argparse.RawDescriptionHelpFormatter
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=shown_as_is)
    ask.add_argument("--measured", type=Path, help="JSON of benchmarks/over_http.py")
    ask.add_argument("--node-cores", type=int, default=Nodes.cores, help="of a node")
    ask.add_argument("--node-gb", type=float, default=Nodes.memory_gb, help="memory of a node")
    ask.add_argument("--share", type=float, default=Nodes.share, help="of it for the index")
    ask.add_argument("--use", type=float, default=Nodes.use, help="of a core, at most")
    ask.add_argument("--score-ms", type=float, default=Nodes.score_ms, help="for scoring, at most")
    ask.add_argument("--width", type=int, default=Nodes.width, help="of an item vector")
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    m = measured(args.measured)
    nodes = Nodes(args.node_cores, args.node_gb, args.share, args.use, args.score_ms, args.width)
    costs = ", ".join(f"{name} {value:.3g}" for name, value in vars(m).items())
    bought = ", ".join(f"{name} {value:g}" for name, value in vars(nodes).items())
    show(f"Costs: {costs}.\nNodes: {bought}.\n\n{table(m, nodes)}\n", args.out)


if __name__ == "__main__":
    main()

"""A synthetic index and requests for the scorer's benchmark, and the routes it is compared with.

A request has packed rows of every level, as long as a busy log's, and a history. Their items are
drawn from the whole catalogue by Zipf's law, and so are half of the candidates: most candidates of
a large catalogue stand nowhere, some in many rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from tempfile import NamedTemporaryFile

import numba as nb
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from interactrank.features.catalogue import Catalogue
from interactrank.features.engagement import FRESH_DAYS, SPARSE_QUERY, SPARSE_USER
from interactrank.features.id_table import IdTable
from interactrank.features.inputs import FeatureInputs, Histories, KeyRows
from interactrank.features.levels import SCALE, SCALE_ALL, SMOOTHING, SMOOTHING_ALL
from interactrank.features.packed_rows import pack, unpack
from interactrank.features.prefetch import prefetch
from interactrank.features.schema import HISTORY_LENGTH, LEVELS, REQUEST_NUMERIC, FeatureSchema
from interactrank.features.searches import Searches
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.model.scorer import Scorer

SCHEMA = FeatureSchema(
    ("click", "impression", "long_click", "save"),
    ("impression",),
    ("engagement", "save", "long_click"),
)
QUERY = "red canvas shoes"
NOW, DAY = 1_700_000_000_000_000, 86_400_000_000
AT_ONCE = 1 << 18
KNOWN = 2_000
"""Items that the model's own catalogue has; the index has as many as is asked for."""
SHARE = {"q": 1.0, "c": 1.0, "t": 1.0, "g": 0.6, "a": 1.0, "s": 0.0}
"""How full a row is, of its level's cap."""


def scorer_of(items: int, config: ModelConfig, rng: np.random.Generator) -> Scorer:
    """A scorer of an untrained model with an index of ``items`` random vectors, bf16."""
    ids = np.unique(rng.integers(0, 1 << 60, items + items // 100))[:items]
    rng.shuffle(ids)
    catalogue = Catalogue.build(
        ids[:KNOWN],
        ["red shoe"] * KNOWN,
        [""] * KNOWN,
        np.zeros((KNOWN, 0), np.float32),
        np.zeros(KNOWN, np.int64),
    )
    torch.manual_seed(0)
    model = InteractRank(config, SCHEMA, catalogue).eval()
    if model.fusion.crosses:
        model.fusion.fit(torch.rand(500, len(SCHEMA.cross)), torch.randn(500, len(REQUEST_NUMERIC)))
    scorer = Scorer(model, catalogue, ids, mapped_vectors(items, config.width))
    scorer.created[:] = NOW - rng.integers(1, 2000 * DAY, items)
    scorer.created[rng.random(items) < 0.1] = 0
    return scorer.record()


def mapped_vectors(items: int, width: int) -> torch.Tensor:
    """Random unit vectors, bf16 [items, width], in a file that is mapped as an index's is."""
    with NamedTemporaryFile() as file:
        for begin in range(0, items, AT_ONCE):
            drawn = torch.randn(min(AT_ONCE, items - begin), width)
            part = torch.nn.functional.normalize(drawn, dim=1).to(torch.bfloat16)
            file.write(part.view(torch.int16).numpy().tobytes())
        file.flush()
        size, bf16 = items * width, torch.bfloat16
        # The file has no name from here on, and goes with the mapping.
        mapped = torch.from_file(file.name, shared=False, size=size, dtype=bf16)
    return mapped.view(items, width)


def zipf(n: int, items: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Distinct rows of the catalogue, the first ones often."""
    drawn = np.unique((rng.zipf(1.2, 4 * n) * 7919) % items)
    return rng.permutation(drawn)[:n]


def request(ids: NDArray[np.int64], rng: np.random.Generator) -> FeatureInputs:
    """A request's packed rows and history."""
    search = Searches.one(QUERY, {})
    rows = []
    for level_code in search.key_levels():
        level = LEVELS[level_code]
        columns, n = SCHEMA.columns(level), int(SHARE[level.prefix] * level.cap)
        held = np.sort(ids[zipf(n, len(ids), rng)])
        counts = rng.geometric(0.2, (len(held), len(columns))).astype(np.float64)
        rows.append(np.frombuffer(pack(held, counts, columns, level), np.uint8))
    size = np.array([len(r) for r in rows])
    keys = KeyRows(np.concatenate(rows), np.cumsum(size) - size, size, np.arange(len(rows)))
    keys.blocks.flags.writeable = False
    times = NOW - np.sort(rng.integers(1, 90 * DAY, HISTORY_LENGTH))[::-1]
    history = Histories(
        ids[zipf(HISTORY_LENGTH, len(ids), rng)][:HISTORY_LENGTH],
        np.zeros(HISTORY_LENGTH, np.int64),
        times.copy(),
        np.zeros(HISTORY_LENGTH, np.int64),
        np.array([0, HISTORY_LENGTH]),
    )
    return FeatureInputs.of(search, np.array([NOW]), keys, history)


def candidates(n: int, ids: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Distinct candidates: half as the rows' items are drawn, half from the whole catalogue."""
    often = ids[zipf(n // 2, len(ids), rng)]
    rest = ids[rng.integers(0, len(ids), 2 * n)] if n < len(ids) // 2 else rng.permutation(ids)
    distinct = pd.unique(np.concatenate((often, rest)))[:n]
    return rng.permutation(distinct)


@nb.njit(nogil=True, fastmath=True)
def _floor(rows: NDArray[np.int64], vectors: NDArray[np.uint16]) -> int:
    total, width = 0, vectors.shape[1]
    for i in range(rows.size):
        if i + 64 < rows.size:
            for at in range(0, width, 32):
                prefetch(vectors, rows[i + 64] * width + at)
        for d in range(width):
            total += vectors[rows[i], d]
    return total


def floor(table: IdTable, vectors: NDArray[np.uint16], wanted: NDArray[np.int64]) -> int:
    """What cannot be saved: slot and key of each candidate are read, and its vector summed."""
    return int(_floor(table.rows(wanted), vectors))


@dataclass(frozen=True)
class PlainRoute:
    """The same ranking as a team writes it first: pandas frames joined on the id, fp32 PyTorch."""

    scorer: Scorer
    index: pd.Index
    vectors: torch.Tensor

    @classmethod
    def of(cls, scorer: Scorer) -> PlainRoute:
        """With the index's ids and vectors."""
        return cls(scorer, pd.Index(scorer.table.ids), scorer.vectors.float())

    def features(self, inputs: FeatureInputs, wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        """X of the candidates, one join per row and for the history."""
        frame = pd.DataFrame(0.0, index=wanted, columns=list(SCHEMA.cross), dtype=np.float32)
        totals, rows = {}, []
        for key, block in enumerate(inputs.key_block):
            start, size = inputs.block_start[block], inputs.block_size[block]
            level = LEVELS[inputs.key_level[key]]
            columns = SCHEMA.columns(level)
            if columns:
                row = unpack(inputs.blocks[start : start + size].tobytes(), columns)
                rows.append((level, columns, row))
                totals[len(rows) - 1] = row.totals[len(level.windows) - 1]
        total_all = max(t for i, t in totals.items() if rows[i][0].prefix == "a")
        total_query = max(t for i, t in totals.items() if rows[i][0].prefix == "q")
        weight = {
            i: max(1 - np.log(1 + t) / np.log(2 + total_all), 0.05) for i, t in totals.items()
        }
        of_level: dict[str, float] = {}
        for i, (level, *_) in enumerate(rows):
            of_level[level.prefix] = of_level.get(level.prefix, 0.0) + weight[i]
        for i, (level, columns, row) in enumerate(rows):
            popular = level.prefix == "a"
            scale, smoothing = (SCALE_ALL, SMOOTHING_ALL) if popular else (SCALE, SMOOTHING)
            counts = pd.DataFrame(row.counts, index=row.ids).reindex(wanted).to_numpy()
            residual = row.truncated / max(row.distinct - len(row.ids), 1)
            counts = np.where(np.isnan(counts), residual, counts)
            share = np.log1p(scale * counts / (row.totals + smoothing)) / np.log1p(scale)
            names = [f"{level.prefix}:{c}" for c in columns]
            frame[names] += weight[i] / of_level[level.prefix] * share
        self._add_history(frame, inputs, wanted)
        self._add_items(frame, wanted, total_all, total_query)
        return frame.to_numpy(np.float32)

    def _add_history(
        self, frame: pd.DataFrame, inputs: FeatureInputs, wanted: NDArray[np.int64]
    ) -> None:
        past = pd.DataFrame(
            {
                "item": inputs.hist_items[::-1],
                "hours": (NOW - inputs.hist_times[::-1]) / 3.6e9,
                "place": np.arange(len(inputs.hist_items)) + 1.0,
            }
        )
        last = past.drop_duplicates("item").set_index("item").reindex(wanted)
        known = last["hours"].notna().to_numpy()
        frame["user:touched"] = known.astype(np.float32)
        frame["user:rank_recency"] = (1 / last["place"]).fillna(0).to_numpy()
        for name, per in (("1h", 1), ("1d", 24), ("30d", 720)):
            frame[f"user:decay_{name}"] = np.exp(-last["hours"] / per).fillna(0).to_numpy()
        frame["user:count"] = np.log1p(past["item"].value_counts().reindex(wanted).fillna(0))
        frame["user:touched:click"] = known.astype(np.float32)

    def _add_items(
        self, frame: pd.DataFrame, wanted: NDArray[np.int64], total_all: float, total_query: float
    ) -> None:
        created = self.scorer.created[self.index.get_indexer(pd.Index(wanted))]
        known = (created > 0) & (created <= NOW)
        days = np.where(known, (NOW - created) / DAY, 0.0)
        frame["item:log_age_days"], frame["item:age_unknown"] = np.log1p(days), ~known
        ratio = np.expm1(frame["a:engage:all"] * np.log1p(SCALE_ALL)) / SCALE_ALL
        frame["item:log_popularity"] = np.log1p(ratio * (total_all + SMOOTHING_ALL))
        sparse = SPARSE_QUERY / (total_query + SPARSE_QUERY)
        frame["sparse:g:engage:all"] = sparse * frame["g:engage:all"]
        sparse = SPARSE_USER / (total_query + SPARSE_USER)
        frame["sparse:user:rank_recency"] = sparse * frame["user:rank_recency"]
        fresh = known & (days < FRESH_DAYS)
        frame["fresh:q:engage:30d"] = np.where(fresh, frame["q:engage:30d"], 0.0)

    @torch.inference_mode()
    def score(
        self,
        inputs: FeatureInputs,
        wanted: NDArray[np.int64],
        weights: NDArray[np.float32],
        query: str = QUERY,
    ) -> NDArray[np.float32]:
        """Scores [n] of known candidates."""
        side = self.scorer.query_side(query, inputs, weights)
        rows = torch.from_numpy(self.index.get_indexer(pd.Index(wanted)))
        dots = self.vectors[rows] @ side.query
        x = torch.from_numpy(self.features(inputs, wanted))
        of = torch.zeros(len(wanted), dtype=torch.int64)
        g = self.scorer.model.fusion.cross_score(x, side.coefficients, of)
        found: NDArray[np.float32] = (side.scale * dots + side.cross * g + side.constant).numpy()
        return found

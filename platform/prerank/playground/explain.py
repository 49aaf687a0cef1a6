"""Why an item has its score: the dot product, each feature's part, and the counts behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interactrank.features.inputs import FeatureInputs
from interactrank.features.packed_rows import unpack
from interactrank.features.schema import LEVELS, REQUEST_NUMERIC, FeatureSchema, Level
from interactrank.features.searches import Searches, level_code
from interactrank.model.candidates import Found
from interactrank.model.contributions import contributions
from prerank.core.times import iso
from prerank.evaluation.baselines.ranker import Explained
from prerank.playground.ranking import arrays_of, found_of
from prerank.playground.words import about, level_title
from prerank.serving.answer import Loaded, sound
from prerank.serving.api import PrerankRequest, named
from prerank.serving.fields import RequestError, shown

Row = dict[str, Any]
LEAST_PART = 1e-4
"""Parts of a score below it are left out: no bar could be seen."""


def explain(request: PrerankRequest, key: int, loaded: Loaded) -> Row:
    """The parts of the score of one candidate by a model version.

    ``score`` is ``dot_part`` + ``typical`` + all ``parts`` + ``together``; see
    ``interactrank.model.contributions``. Each part has the feature's value and what it means.

    Raises:
        RequestError: the item is none of the candidates.
    """
    return _told(request, key, loaded, _parts)


def explain_baseline(request: PrerankRequest, key: int, ranker: Explained, loaded: Loaded) -> Row:
    """The parts of the score of one candidate by a baseline: ``base`` + all ``parts``.

    Raises:
        RequestError: the item is none of the candidates.
    """
    return _told(request, key, loaded, partial(_baseline_parts, ranker)) | {"baseline": ranker.name}


def _told(
    request: PrerankRequest,
    key: int,
    loaded: Loaded,
    parts: Callable[[PrerankRequest, int, Loaded, FeatureInputs], Row],
) -> Row:
    """``parts`` of a score, with the counts behind them, and how the features were read."""
    read = loaded.features.read(
        request.query, request.user_id, request.time_us, request.context, request.deadline
    )
    found, read = sound(read, lambda inputs: parts(request, key, loaded, inputs))
    return found | {
        "version": loaded.wanted.version.number,
        "time": iso(request.time_us),
        "degraded": list(read.degraded),
        "snapshot_cutoff": iso(read.cutoff_us),
        "counts": counts_of(loaded.limits.schema, request, read.inputs, key),
    }


def _parts(request: PrerankRequest, key: int, loaded: Loaded, inputs: FeatureInputs) -> Row:
    scorer, schema = loaded.scorer, loaded.limits.schema
    side = scorer.query_side(request.query, inputs, request.weights)
    candidates = found_of(request, loaded, inputs)
    at = _place(candidates, key)
    # Of all candidates: a feature may depend on where the others stand in the retriever's list.
    scored = scorer.score_found(side, inputs, candidates)
    (x,) = candidates.x(at)
    found = contributions(scorer.model, side, x)
    values = dict(zip(schema.cross, x.tolist(), strict=True))
    dot = float(scored.dots[at[0]])
    return {
        "score": float(scored.scores[at[0]]),
        "dot": dot,
        "scale": side.scale,
        "dot_part": side.scale * dot,
        "typical": found.typical + side.constant,
        "parts": _largest_first(values, dict(zip(found.names, found.parts, strict=True))),
        "together": found.together,
        "additive": found.additive,
        "features": {n: v for n, v in values.items() if v},
        "request": named(REQUEST_NUMERIC, side.request),
        "indexed": bool(candidates.rows[at[0]] >= 0),
    }


def _baseline_parts(
    ranker: Explained, request: PrerankRequest, key: int, loaded: Loaded, inputs: FeatureInputs
) -> Row:
    candidates = found_of(request, loaded, inputs)
    at = _place(candidates, key)
    arrays = arrays_of(request, loaded, inputs, candidates, at)
    found = ranker.parts(arrays)
    values = dict(zip(found.names, found.values[0].tolist(), strict=True))
    return {
        "score": float(ranker.score(arrays, [request.query])[0]),
        "base": found.base,
        "parts": _largest_first(values, dict(zip(found.names, found.parts[0], strict=True))),
        "features": {n: v for n, v in values.items() if v},
        "indexed": bool(candidates.rows[at[0]] >= 0),
    }


def _place(candidates: Found, key: int) -> NDArray[np.int64]:
    """Where the item stands among the candidates: int64 [1]."""
    at = np.flatnonzero(candidates.ids == key)
    if not len(at):
        raise RequestError("item", f"{shown(str(key))} is none of the candidates of this ranking")
    return at


def _largest_first(values: Mapping[str, float], parts: Mapping[str, Any]) -> list[Row]:
    rows = [
        {"feature": name, "value": values[name], "part": float(part), "about": about(name)}
        for name, part in parts.items()
        if abs(part) >= LEAST_PART
    ]
    return sorted(rows, key=lambda row: -abs(row["part"]))


def counts_of(
    schema: FeatureSchema, request: PrerankRequest, inputs: FeatureInputs, key: int
) -> list[Row]:
    """What the request's rows count of an item, by key, from the exact query to all queries.

    A row that does not hold the item tells only its totals; of those, the query's own and that of
    all queries are listed.
    """
    keys = Searches.one(request.query, request.context).keys[0]
    found = []
    for at, text in enumerate(keys):
        level = LEVELS[level_code(text)]
        counts = row_counts(schema, inputs, at, level)
        if counts is None:
            continue
        ids, of_items, totals = counts
        place = np.flatnonzero(ids == key)
        if not len(place) and level.prefix not in ("q", "a"):
            continue
        own = of_items[place[0]] if len(place) else np.zeros_like(totals)
        names = schema.columns(level)
        found.append(
            {
                "level": level_title(level.prefix),
                "key": text.partition(":")[2],
                "counts": by_column(names, own),
                "totals": by_column(names, totals),
            }
        )
    return found


def row_counts(
    schema: FeatureSchema, inputs: FeatureInputs, at: int, level: Level
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]] | None:
    """Items int64 [K], counts float32 [K, F] and totals [F] of the row of the request's key ``at``;
    None where it has no row.
    """
    block = int(inputs.key_block[at])
    if block < 0:
        return None
    start, size = int(inputs.block_start[block]), int(inputs.block_size[block])
    row = unpack(inputs.blocks[start : start + size].tobytes(), schema.columns(level))
    return row.ids, row.counts, row.totals


def by_column(names: tuple[str, ...], counts: NDArray[np.float32]) -> dict[str, float]:
    """Counts by column. A row keeps them within 2e-4: what is that near to a whole number is one.

    Others are possible: users that are trusted less count less.
    """
    counts = np.where(np.abs(counts - np.rint(counts)) <= 3e-4 * counts, np.rint(counts), counts)
    return {name: round(float(count), 2) for name, count in zip(names, counts, strict=True)}

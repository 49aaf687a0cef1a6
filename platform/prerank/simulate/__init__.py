"""A simulated pin board with a known truth: logs for demos, scale tests and known answers.

    simulate(out_dir, "demo")  →  out_dir/events/part-*.parquet     the event log
                                  out_dir/items.parquet             the item catalogue
                                  out_dir/hidden/                   the oracles' scores
                                  out_dir/truth/spammers.parquet    who spams, in some worlds
                                  out_dir/summary.json              marginals, written last
    load_oracles(out_dir)      →  {"oracle_relevance": Oracle, "oracle_log": Oracle}

A log of which `rows` or `days` are given, and one of the preset "stream", has a file per day,
events/2025-01-01.parquet. Only an evaluation may read hidden/ and truth/; no feature, label or
model may depend on them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prerank.simulate.log import write_log
from prerank.simulate.oracles import Oracle, load_oracles
from prerank.simulate.pace import Pace
from prerank.simulate.presets import (
    PRESETS,
    InvalidSizeError,
    MissingSimulationError,
    Motion,
    NotImpressedError,
    OutputExistsError,
    Preset,
    Sessions,
    SimulationError,
    UnknownFormatError,
    UnknownPresetError,
    UnknownRequestError,
    preset_named,
)
from prerank.simulate.summary import SimulationSummary
from prerank.simulate.world import build_world
from prerank.simulate.writers import FORMATS, format_named

__all__ = [
    "FORMATS",
    "PRESETS",
    "InvalidSizeError",
    "MissingSimulationError",
    "Motion",
    "NotImpressedError",
    "Oracle",
    "OutputExistsError",
    "Preset",
    "Sessions",
    "SimulationError",
    "SimulationSummary",
    "UnknownFormatError",
    "UnknownPresetError",
    "UnknownRequestError",
    "load_oracles",
    "simulate",
]

MOST_SPAMMERS = 0.5  # of all accounts


def simulate(
    out_dir: Path,
    preset: str | Preset = "demo",
    seed: int = 7,
    *,
    requests: int | None = None,
    rows: int | None = None,
    days: int | None = None,
    spammers: float | None = None,
    full_ranker: float | None = None,
    file_format: str = "parquet",
    progress: bool = True,
) -> SimulationSummary:
    """Write a simulated log under `out_dir` and return its marginals.

    The same arguments write the same data. Each option takes the place of what the preset says:

    requests or rows: size of the log, whose rows are met to within a few requests. The world and
    its time span stay, so a larger log is a denser one; memory does not grow with it.
    days: span of the log. spammers: share of all accounts that boost items, 0 to 0.5.
    full_ranker: deviation of the scores of a full ranker, which the log then has of each row.
    file_format: "parquet", "csv", "jsonl" or "ubi" (`prerank.simulate.ubi`).
    progress: show a bar on stderr.

    Raises `UnknownPresetError`, `UnknownFormatError`, `InvalidSizeError` (requests, rows or days
    below 1, both requests and rows, spammers or full_ranker out of range) and `OutputExistsError`
    (out_dir already holds a simulation, whole or broken off).
    """
    size = preset_named(preset) if isinstance(preset, str) else preset
    form = format_named(file_format)
    for name, given in (("requests", requests), ("rows", rows), ("days", days)):
        if given is not None and given < 1:
            raise InvalidSizeError(f"{name}={given}: a log needs at least one")
    if requests is not None and rows is not None:
        raise InvalidSizeError(f"requests={requests} and rows={rows}: give one of them")
    if spammers is not None:
        size = replace(size, spammers=spammers)
    if not 0 <= size.spammers <= MOST_SPAMMERS:
        raise InvalidSizeError(
            f"spammers={size.spammers}: give a share of all accounts, 0 to {MOST_SPAMMERS}"
        )
    if full_ranker is not None:
        size = replace(size, full_ranker=full_ranker)
    if not 0.0 <= (size.full_ranker or 0.0) < float("inf"):
        raise InvalidSizeError(f"full_ranker={size.full_ranker}: give a deviation, 0 or more")
    if rows is not None or days is not None:
        size = replace(size, daily=True, days=days or size.days)
    out = Path(out_dir)
    if any((out / name).exists() for name in (*form.events, "hidden")):
        raise OutputExistsError(f"{out} already holds a simulation; name an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    world = build_world(size, seed)
    count = size.requests if requests is None else requests
    summary = write_log(world, out, Pace(world, count, rows), form, progress=progress)
    summary.write(out / "summary.json")
    return summary

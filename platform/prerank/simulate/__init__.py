"""A simulated pin board with a known truth: logs for demos, scale tests and known answers.

    simulate(out_dir, "demo")  →  out_dir/events/part-*.parquet   the event log
                                  out_dir/items.parquet           the item catalogue
                                  out_dir/hidden/                 the oracles' scores
                                  out_dir/summary.json            marginals, written last
    load_oracles(out_dir)      →  {"oracle_relevance": Oracle, "oracle_log": Oracle}

Only an evaluation may read hidden/; no feature, label or model may depend on it.
"""

from __future__ import annotations

from pathlib import Path

from prerank.simulate.log import write_log
from prerank.simulate.oracles import Oracle, load_oracles
from prerank.simulate.presets import (
    PRESETS,
    InvalidSizeError,
    MissingSimulationError,
    NotImpressedError,
    OutputExistsError,
    Preset,
    SimulationError,
    UnknownPresetError,
    UnknownRequestError,
    preset_named,
)
from prerank.simulate.summary import SimulationSummary
from prerank.simulate.world import build_world

__all__ = [
    "PRESETS",
    "InvalidSizeError",
    "MissingSimulationError",
    "NotImpressedError",
    "Oracle",
    "OutputExistsError",
    "Preset",
    "SimulationError",
    "SimulationSummary",
    "UnknownPresetError",
    "UnknownRequestError",
    "load_oracles",
    "simulate",
]


def simulate(
    out_dir: Path,
    preset: str = "demo",
    seed: int = 7,
    *,
    requests: int | None = None,
    progress: bool = True,
) -> SimulationSummary:
    """Write a simulated log under `out_dir` and return its marginals.

    The same (preset, seed, requests) writes the same data. `requests` overrides the preset's
    number of requests and leaves world and time span alone, so a larger log is a denser one;
    memory does not grow with it. `progress` shows a bar on stderr.

    Raises `UnknownPresetError`, `InvalidSizeError` (requests < 1) and `OutputExistsError`
    (out_dir already holds a simulation, whole or broken off).
    """
    size = preset_named(preset)
    count = size.requests if requests is None else requests
    if count < 1:
        raise InvalidSizeError(f"requests={count}: a log needs at least one request")
    out = Path(out_dir)
    if (out / "events").exists() or (out / "hidden").exists():
        raise OutputExistsError(f"{out} already holds a simulation; name an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    summary = write_log(build_world(size, seed), out, count, progress=progress)
    summary.write(out / "summary.json")
    return summary

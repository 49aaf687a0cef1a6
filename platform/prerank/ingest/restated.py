"""A log as it would be had nobody been late: what a restated history of features is built from.

A published row never changes, so a late event, or a flag that is told late, counts from when it
became known on (``prerank.ingest.existing``, ``prerank.core.trust``). A restated log gives each
event its own time, and each flagged user the weight of now from the beginning on. It is the log of
a home of its own, ``restated/<label>/`` of the home that it was made of, and its manifest holds
the label; nothing of the home itself changes.
"""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prerank.core.errors import ConfigError
from prerank.core.files import locked, write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.trust import Flags, add_flags
from prerank.ingest.rewritten import rewritten_log

FOLDER = "restated"


def restate_log(home: Home, label: str) -> tuple[Home, int]:
    """Write the restated log of ``home``.

    Args:
        home: with a log; an ingest waits meanwhile.
        label: of the history, which must be new.

    Returns:
        The home of the restated log, and how many events were late.

    Raises:
        ConfigError: the label cannot name a folder, or has a history, or the home is itself one.
        StateError: there is no log.
        OSError: the disk refuses; there is no such history then.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", label):
        raise ConfigError(
            f"--restate {label!r}: a label is up to 64 letters, digits, dots, dashes and "
            "underscores, and begins with a letter or a digit."
        )
    target = Home.at(f"{home.place}/{FOLDER}/{label}")
    late = 0

    def on_time(file: Path) -> pa.Table | None:
        nonlocal late
        times = pq.read_table(file, columns=["event_time", "known_time"], partitioning=None)
        moved = pc.sum(pc.greater(times["known_time"], times["event_time"])).as_py()
        if not moved:
            return None
        late += moved
        rows = pq.read_table(file, partitioning=None)
        at = rows.schema.get_field_index("known_time")
        return rows.set_column(at, rows.schema.field(at), rows["event_time"])

    with locked(home.root / "ingest"):
        home = home.pin()
        home.fetch(home.log, home.flags)
        if made_of := LogManifest.load(home).restated:
            raise ConfigError(
                f"{home.place} is the restated history {made_of!r}. Restate the home that it was "
                "made of."
            )
        target.create()
        target.look()
        if target.pointer.exists():
            raise ConfigError(
                f"{target.place} is there already, and a history does not change. Give --restate "
                "another label, or remove that one."
            )
        # Before there is anything, so that nobody who was forgotten is overlooked there.
        write_json(home.root / FOLDER / f"{label}.json", {"restated": target.place})
        with rewritten_log(home, target, on_time, label):
            # Its flags first: what is published counts by them.
            _flags_of_now(home, target)
    return target, late


def histories_of(home: Home) -> list[str]:
    """Labels of the restated histories that were begun of a home."""
    home.look(home.root / FOLDER)
    return sorted(path.stem for path in (home.root / FOLDER).glob("*.json"))


def _flags_of_now(home: Home, target: Home) -> None:
    """Give each flagged user the weight of now, from the beginning on."""
    weights: dict[str, float] = {}
    flags = Flags.load(home)
    # Of lines that are known at the same time, the last one counts.
    for at in sorted(range(len(flags.users)), key=lambda at: (flags.known_us[at], at)):
        weights[flags.users[at]] = float(flags.weights[at])
    if weights:
        add_flags(target, [*weights], [*weights.values()], [0] * len(weights))

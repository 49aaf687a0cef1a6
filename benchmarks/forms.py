"""Whether a log gives the same tables in every form and from every place.

    python benchmarks/forms.py LOG … [--worlds tiny priced] [--rows 60000] [--out TABLE.md]

LOG is a folder with ``events.parquet`` and ``items.parquet``; ``--worlds`` adds simulated ones,
each also as a UBI export. Of a log that has more rows than ``--rows``, those of its first searches
are taken, by time. The log is written as Parquet, CSV and JSON lines, the latter two as two
programs write them (DuckDB and pandas), to a folder and to an S3 server on loopback (moto). Of each
form and place ``inspect`` proposes a mapping, and ingest, features and training set are made with
it (a snapshot a day). They are compared with those of Parquet on disk:

    mapping      what inspect proposes
    report       the manifest: counts, actions, ids, fingerprint
    catalogue    ``items.parquet`` and the arrays, byte by byte
    events, rows, histories, examples    row by row, sorted by their ids

"same bytes" says that also the files of events have the same bytes, and so rows in the same order.
UBI says less than a log can: an export is compared with the log of the same world without event
ids, whose impressions are at their request's time and whose positions count from 0.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from printed import markdown, show

from prerank.core.feature_sets import tables_of_log
from prerank.core.home import Home
from prerank.core.ray_tasks import start_local
from prerank.dataset.build import build_training_set
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.ingest.inspection.look import inspect
from prerank.ingest.inspection.proposal import proposal
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest
from prerank.simulate import simulate

HEAD = ("log", "form", "place", "rows", "quarantined", "tables")
BUCKET = "bucket"
DAILY = FeatureConfig(cadence_hours=24)
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
Write = Callable[[Path, Path], None]
"""(Parquet file, file to write)."""


def as_it_is(source: Path, out: Path) -> None:
    shutil.copyfile(source, out)


def by_duckdb(options: str) -> Write:
    def write(source: Path, out: Path) -> None:
        duckdb.execute(f"COPY (FROM read_parquet('{source}')) TO '{out}' {options}")

    return write


def csv_by_pandas(source: Path, out: Path) -> None:
    pd.read_parquet(source).to_csv(out, index=False)


def lines_by_pandas(source: Path, out: Path) -> None:
    plain = out.with_suffix("")
    frame = pd.read_parquet(source)
    frame.to_json(plain, orient="records", lines=True, date_format="iso", date_unit="us")
    with pa.output_stream(str(out), compression="zstd") as compressed:
        compressed.write(plain.read_bytes())
    plain.unlink()


FORMS: dict[str, tuple[str, Write]] = {
    "Parquet": ("parquet", as_it_is),
    "CSV": ("csv.gz", by_duckdb("(FORMAT csv, COMPRESSION gzip)")),
    "CSV, pandas": ("csv.gz", csv_by_pandas),
    "JSON lines": ("jsonl.zst", by_duckdb("(FORMAT json, COMPRESSION zstd)")),
    "JSON lines, pandas": ("jsonl.zst", lines_by_pandas),
}


@dataclass(frozen=True)
class Made:
    """What was made of a log. Tables are sorted; ``bytes_of_events`` are those of its files."""

    mapping: dict[str, Any]
    report: dict[str, Any]
    catalogue: bytes
    bytes_of_events: bytes
    tables: dict[str, pa.Table]


KEYS = {
    "events": ["event_id"],
    "rows": ["engagement_key", "event_timestamp"],
    "histories": ["user_id", "event_timestamp"],
    "examples": ["request_id"],
}


def made_of(events: str, items: str, home: Home, change: Callable[[dict[str, Any]], None]) -> Made:
    """Make all tables of a log; ``change`` may change the mapping that inspect proposes."""
    settings = proposal(inspect(events, items)).settings
    change(settings)
    report = ingest(events, items, home, LogMapping.model_validate(settings)).manifest
    build_features(home, DAILY)
    build_training_set(home)
    tables = tables_of_log(home)
    found = {
        "events": home.events,
        "rows": tables / "engagement",
        "histories": tables / "user_history",
        "examples": home.training_set / "train",
    }
    read = {name: pads.dataset(str(folder)).to_table() for name, folder in found.items()}
    files = sorted(home.events.glob("day=*/*.parquet"))
    # Of the files that were read, what is said must differ.
    facts = {k: v for k, v in asdict(report).items() if k not in ("notices", "mapping")}
    return Made(
        settings,
        facts,
        home.items.read_bytes() + home.catalogue.read_bytes(),
        b"".join(file.read_bytes() for file in files),
        {
            name: table.sort_by([(key, "ascending") for key in KEYS[name]])
            for name, table in read.items()
        },
    )


def differences(found: Made, expected: Made) -> str:
    """What of two logs is not the same, in words."""
    odd = []
    if found.mapping != expected.mapping:
        keys = {*found.mapping, *expected.mapping}
        of = sorted(k for k in keys if found.mapping.get(k) != expected.mapping.get(k))
        odd.append(f"mapping: {', '.join(of)}")
    of = sorted(k for k in expected.report if found.report.get(k) != expected.report[k])
    if of:
        odd.append(f"report: {', '.join(of)}")
    if found.catalogue != expected.catalogue:
        odd.append("catalogue")
    for name, table in expected.tables.items():
        if of_table := _of_table(found.tables[name], table):
            odd.append(f"{name}: {of_table}")
    if odd:
        return "; ".join(odd)
    return "same bytes" if found.bytes_of_events == expected.bytes_of_events else "same rows"


def _of_table(found: pa.Table, expected: pa.Table) -> str:
    if len(found) != len(expected):
        return f"{len(found):,} rows, not {len(expected):,}"
    if found.schema != expected.schema:
        return "other columns"
    names = expected.column_names
    return ", ".join(c for c in names if not _same(_whole(found[c]), _whole(expected[c])))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _same(one: pa.Array, other: pa.Array) -> bool:
    """Whether two arrays are equal, floats to the bit: what is missing is NaN in both."""
    kind = one.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = [pc.list_value_length(array) for array in (one, other)]
        return lengths[0].equals(lengths[1]) and _same(one.flatten(), other.flatten())
    if not pa.types.is_floating(kind):
        return bool(one.equals(other))
    missing = [array.is_null() for array in (one, other)]
    values = [array.fill_null(0.0).to_numpy(zero_copy_only=False) for array in (one, other)]
    return missing[0].equals(missing[1]) and values[0].tobytes() == values[1].tobytes()


def sampled(log: Path, rows: int, out: Path) -> Path:
    """The first searches of a log, of at most so many rows, as ``events`` and ``items``."""
    out.mkdir(parents=True)
    shutil.copyfile(log / "items.parquet", out / "items.parquet")
    events = log / "events.parquet"
    source = f"read_parquet('{events if events.exists() else log / 'events' / '*.parquet'}')"
    names = duckdb.sql(f"FROM {source} LIMIT 0").columns
    at = next(name for name in ("request_time", "timestamp") if name in names)
    duckdb.execute(
        f"""COPY (FROM {source} WHERE "{at}" < coalesce(
                (SELECT "{at}" FROM {source} ORDER BY 1 OFFSET {rows} LIMIT 1), 'infinity'))
            TO '{out / "events.parquet"}' (FORMAT parquet)"""
    )
    return out


def ubi_twin(world: Path, out: Path) -> None:
    """A simulated log as far as UBI can say it."""
    out.mkdir(parents=True)
    shutil.copyfile(world / "items.parquet", out / "items.parquet")
    duckdb.execute(
        f"""COPY (SELECT * EXCLUDE (event_id, country, device) REPLACE (
                CASE WHEN action = 'impression' THEN request_time ELSE event_time END AS event_time,
                position - 1 AS position)
            FROM read_parquet('{world}/events/*.parquet'))
            TO '{out / "events.parquet"}' (FORMAT parquet)"""
    )


def ubi_forms(world: Path, out: Path) -> dict[str, tuple[Path, Path]]:
    """Form -> events and items of a UBI export: as it is written, compressed, and as Parquet."""
    found = {"UBI": (world, world / "items.jsonl")}
    packed, tables = out / "packed" / world.name, out / "parquet" / world.name
    for half in ("ubi_queries", "ubi_events"):
        (packed / half).mkdir(parents=True)
        tables.mkdir(parents=True, exist_ok=True)
        for file in sorted((world / half).glob("*.jsonl")):
            with gzip.open(packed / half / f"{file.name}.gz", "wb") as compressed:
                compressed.write(file.read_bytes())
        duckdb.execute(
            f"COPY (FROM read_json('{world / half}/*.jsonl')) TO '{tables / half}.parquet'"
        )
    found["UBI, gz"] = packed, world / "items.jsonl"
    found["UBI, Parquet"] = tables, world / "items.jsonl"
    return found


@contextmanager
def s3() -> Iterator[pafs.S3FileSystem]:
    """An S3 server on loopback, named by the environment."""
    from moto.server import ThreadedMotoServer

    # A line of each call would hide the table.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ |= VARIABLES | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        system = pafs.S3FileSystem(
            endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True
        )
        system.create_dir(BUCKET)
        yield system
    finally:
        server.stop()


class Comparison:
    """Makes each form of some logs once, and keeps the lines of the table."""

    def __init__(self, work: Path, system: pafs.S3FileSystem) -> None:
        self.lines: list[tuple[str, ...]] = []
        self._work, self._system, self._homes = work, system, 0

    def add(
        self,
        log: str,
        form: str,
        place: str,
        where: tuple[str, str],
        expected: Made | None,
        change: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Made:
        """Make the tables of a form, and say how they differ from those expected."""
        self._homes += 1
        home = Home.at(self._work / f"home-{self._homes}")
        made = made_of(*where, home, change)
        shutil.rmtree(home.root)
        rows = made.report["rows"]
        told = differences(made, expected) if expected else "(what the others are compared with)"
        line = (log, form, place, f"{rows['out']:,}", str(rows["quarantined"]), told)
        self.lines.append(line)
        print(" | ".join(line), flush=True)
        return made

    def stored(self, path: Path, name: str) -> str:
        """Copy a file or folder to the object store; its URI."""
        to = f"{BUCKET}/{name}"
        if path.is_dir():
            pafs.copy_files(str(path), to, destination_filesystem=self._system)
        else:
            with self._system.open_output_stream(to, compression=None) as out:
                out.write(path.read_bytes())
        return f"s3://{to}"

    def forms(self, name: str, log: Path) -> None:
        """All forms of a log of which ``events.parquet`` and ``items.parquet`` are there."""
        expected: Made | None = None
        for form, (suffix, write) in FORMS.items():
            folder = self._work / "forms" / name / form.replace(", ", "-").replace(" ", "-")
            folder.mkdir(parents=True)
            files = [folder / f"{half}.{suffix}" for half in ("events", "items")]
            for half, file in zip(("events", "items"), files, strict=True):
                write(log / f"{half}.parquet", file)
            made = self.add(name, form, "disk", (str(files[0]), str(files[1])), expected)
            expected = expected or made
            uris = [self.stored(f, f"{name}/{folder.name}/{f.name}") for f in files]
            self.add(name, form, "S3", (uris[0], uris[1]), expected)

    def ubi(self, name: str, preset: str, world: Path) -> None:
        """A world's UBI export, beside what its log says of the same."""
        twin, export = self._work / "twins" / name, self._work / "exports" / name
        ubi_twin(world, twin)
        simulate(export, preset, file_format="ubi", progress=False)

        def as_ubi(settings: dict[str, Any]) -> None:
            settings["name"] = name
            settings.pop("events", None)
            settings.pop("label_window_hours", None)

        where = str(twin / "events.parquet"), str(twin / "items.parquet")
        expected = self.add(f"{name} as UBI", "Parquet", "disk", where, None, as_ubi)
        for form, (events, items) in ubi_forms(export, self._work / "ubi" / name).items():
            local = str(events), str(items)
            self.add(f"{name} as UBI", form, "disk", local, expected, as_ubi)
            uri = self.stored(events, f"{name}/ubi/{events.parent.name}/{events.name}")
            of_items = self.stored(items, f"{name}/ubi/{items.name}")
            self.add(f"{name} as UBI", form, "S3", (uri, of_items), expected, as_ubi)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("logs", type=Path, nargs="*")
    parser.add_argument("--worlds", nargs="*", default=["tiny", "priced"])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ["PRERANK_PROGRESS"] = "0"
    with tempfile.TemporaryDirectory(prefix="forms-") as folder, s3() as system:
        work = Path(folder)
        start_local()
        comparison = Comparison(work, system)
        for log in args.logs:
            comparison.forms(log.name, sampled(log, args.rows, work / "logs" / log.name))
        for preset in args.worlds:
            world = work / "worlds" / preset
            simulate(world, preset, progress=False)
            comparison.forms(preset, sampled(world, args.rows, work / "logs" / preset))
            if not pq.read_schema(next((world / "events").glob("*"))).names.count("price"):
                comparison.ubi(preset, preset, world)
        show(markdown(HEAD, comparison.lines), args.out)


if __name__ == "__main__":
    main()

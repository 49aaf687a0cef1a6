"""A log gives the same tables in whatever form it is written, and no line of it is lost unsaid."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from prerank.core.errors import ConfigError, DataError
from prerank.core.home import Home
from prerank.ingest.report import IngestReport

Ingested = Callable[..., tuple[IngestReport, Home]]
Write = Callable[[pd.DataFrame, Path], None]

SEGMENTS = ("country", "zone")
ITEMS = pd.DataFrame(
    {
        "item_id": range(7),
        "title": ['Red "shoe", 1', "two\nlines", "", None, "é漢字", "x" * 10_000, "plain"],
        "price": [1.1, None, 3, 4.25, 5, 6, 7],
        "vec": [[0.1, 2.0], None, [3.0, 4.5], [1, 1], [0, 0], [5, 6], [7, 8]],
    }
)


def log(rows: int = 24) -> pd.DataFrame:
    """Two rows a request, over three days, with what is hard to write."""
    at = pd.Series(range(rows))
    start = pd.Timestamp("2024-03-01T23:59:00.123456Z")
    asked = start + pd.to_timedelta(at // 2 * 4, unit="h")
    queries = [
        'a "b", c',
        "two\nlines",
        "semi;colon\ttab|",
        "x" * 10_000,
        "É漢字 'q'",
        "12.0",
        "a\r\nb",
    ]
    gap = pd.Series([None if i % 5 == 0 else i for i in at], dtype="float64")
    return pd.DataFrame(
        {
            "request_id": "r" + (at // 2).astype(str),
            "request_time": asked,
            "event_time": asked + pd.to_timedelta(at % 2 * 5, unit="s"),
            "user_id": at // 2 % 3 + 10,
            "query": [queries[i // 2 % len(queries)] for i in at],
            "item_id": at % 7,
            "action": ["impression" if i % 2 == 0 else "click" for i in at],
            "position": gap,
            "country": ["de" if i % 3 else None for i in at],
            # Integers with gaps, which pandas holds as floats.
            "zone": gap,
            "retriever_score": np.float32(0.1) * at.astype("float32"),
        }
    )


def csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False)


def tsv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, sep="\t")


def spreadsheet(frame: pd.DataFrame, path: Path) -> None:
    """As spreadsheets write it in many countries: a byte-order mark, semicolons, CRLF."""
    frame.to_csv(path, index=False, sep=";", encoding="utf-8-sig", lineterminator="\r\n")


def database(frame: pd.DataFrame, path: Path) -> None:
    duckdb.execute(f"COPY (FROM frame) TO '{path}' (FORMAT csv, FORCE_QUOTE *)")


def json_lines(frame: pd.DataFrame, path: Path) -> None:
    """What is missing is left out, as most programs do; times are ISO 8601."""
    rows = [
        {k: v for k, v in row.items() if not isinstance(v, float | None) or pd.notna(v)}
        for row in frame.to_dict("records")
    ]
    path.write_text("\n".join(json.dumps(row, default=_iso) for row in rows))


def _iso(value: Any) -> Any:
    return value.isoformat() if isinstance(value, pd.Timestamp) else value.item()


def gzipped(write: Write) -> Write:
    def go(frame: pd.DataFrame, path: Path) -> None:
        plain = path.with_suffix("")
        write(frame, plain)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()

    return go


def zstd(write: Write) -> Write:
    def go(frame: pd.DataFrame, path: Path) -> None:
        plain = path.with_suffix("")
        write(frame, plain)
        with pa.output_stream(str(path), compression="zstd") as out:
            out.write(plain.read_bytes())
        plain.unlink()

    return go


FORMS: dict[str, tuple[str, Write]] = {
    "csv": ("csv", csv),
    "csv.zst": ("csv.zst", zstd(csv)),
    "spreadsheet": ("csv", spreadsheet),
    "database": ("csv", database),
    "json": ("json", json_lines),
    "jsonl.gz": ("jsonl.gz", gzipped(json_lines)),
}


def canonical(home: Home) -> pa.Table:
    return pads.dataset(str(home.events)).to_table().sort_by("event_id")


def facts(report: IngestReport) -> dict[str, Any]:
    return asdict(report.manifest) | {"notices": None}


MAPPING: dict[str, Any] = {
    "segments": SEGMENTS,
    "items": {"numeric": ["price"], "embedding": "vec"},
}


@pytest.fixture(scope="module")
def as_parquet(
    tmp_path_factory: pytest.TempPathFactory, ingested: Ingested
) -> tuple[IngestReport, Home]:
    """What comes of the log as Parquet."""
    root = tmp_path_factory.mktemp("parquet")
    log().to_parquet(root / "events.parquet")
    ITEMS.to_parquet(root / "items.parquet")
    return ingested(root / "events.parquet", root / "items.parquet", **MAPPING)


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """The catalogue as Parquet."""
    ITEMS.to_parquet(tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


def same(found: tuple[IngestReport, Home], expected: tuple[IngestReport, Home]) -> None:
    assert facts(found[0]) == facts(expected[0])
    assert canonical(found[1]).equals(canonical(expected[1]))
    assert found[1].items.read_bytes() == expected[1].items.read_bytes()
    assert found[1].catalogue.read_bytes() == expected[1].catalogue.read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_tables_of_parquet(
    tmp_path: Path, ingested: Ingested, as_parquet: tuple[IngestReport, Home], form: str
) -> None:
    suffix, write = FORMS[form]
    events, items = tmp_path / f"e.{suffix}", tmp_path / f"i.{suffix}"
    write(log(), events)
    write(ITEMS, items)
    same(ingested(events, items, **MAPPING), as_parquet)


def test_a_folder_may_change_its_form_and_the_order_of_its_columns_from_day_to_day(
    tmp_path: Path, items: Path, ingested: Ingested, as_parquet: tuple[IngestReport, Home]
) -> None:
    frame, folder = log(), tmp_path / "log" / "2024"
    folder.mkdir(parents=True)
    csv(frame.iloc[:6], folder / "1.csv")
    frame.iloc[6:12].to_parquet(folder / "2.parquet")
    gzipped(json_lines)(frame.iloc[12:18], folder / "3.jsonl.gz")
    tsv(frame.iloc[18:][frame.columns[::-1]], folder / "4.tsv")
    (folder / "_SUCCESS").touch()
    (folder / "README.txt").touch()
    report, home = ingested(tmp_path / "log", items, **MAPPING)
    same((report, home), as_parquet)
    ignored = f"files of events ignored, whose names say no format: 1, such as {folder}/README.txt"
    assert ignored in str(report)
    same(ingested(tmp_path / "log" / "*" / "*", items, **MAPPING), as_parquet)


def test_times_as_numbers_in_text_need_the_unit_and_may_be_mixed_with_iso(
    tmp_path: Path, items: Path, ingested: Ingested, as_parquet: tuple[IngestReport, Home]
) -> None:
    frame = log()
    micros = {n: frame[n].astype("int64") // 1_000 for n in ("request_time", "event_time")}
    mixed = frame.assign(
        **{
            n: v.astype(object).where(frame.index % 3 > 0, frame[n].astype(str))
            for n, v in micros.items()
        }
    )
    csv(mixed, tmp_path / "e.csv")
    with pytest.raises(ConfigError, match=r"holds numbers\. Set `time_unit: us`"):
        ingested(tmp_path / "e.csv", items, **MAPPING)
    found = ingested(tmp_path / "e.csv", items, time_unit="us", **MAPPING)
    assert canonical(found[1]).equals(canonical(as_parquet[1]))


def damaged(tmp_path: Path, name: str, spoil: Callable[[list[bytes]], list[bytes]]) -> Path:
    """The log, its lines spoiled; line 1 of a CSV is the header."""
    frame = log().assign(query="q", country="de")
    (json_lines if ".jsonl" in name else csv)(frame, tmp_path / name)
    lines = (tmp_path / name).read_bytes().splitlines()
    (tmp_path / name).write_bytes(b"\n".join(spoil(lines)) + b"\n")
    ITEMS.to_parquet(tmp_path / "items.parquet")
    return tmp_path / name


def replaced(at: int, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [*lines[: at - 1], new, *lines[at:]]


FIELDS, UTF8 = "the line has not as many fields as the header", "the line is not valid UTF-8"
DAMAGES: dict[str, tuple[str, bytes, str]] = {
    "a field less": ("e.csv", b"r1,2024-03-01,u", FIELDS),
    "a field more": ("e.csv", b"," * 30 + b"x", FIELDS),
    "bytes that are no text": ("e.csv", b"r1,\xff\xfe", UTF8),
    "a broken object": ("e.jsonl", b'{"request_id": "r1", ', "the line is broken JSON"),
    "no object": ("e.jsonl", b"null", "the line is not a JSON object"),
    "an array": ("e.jsonl", b"[1, 2]", "the line is not a JSON object"),
    "bytes that are no text, in JSON": ("e.jsonl", b'{"user_id": "\xff"}', UTF8),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_line_that_is_no_row_is_quarantined_by_its_number(
    tmp_path: Path, ingested: Ingested, damage: str
) -> None:
    name, line, reason = DAMAGES[damage]
    report, home = ingested(damaged(tmp_path, name, replaced(6, line)), tmp_path / "items.parquet")
    rows = report.manifest.rows
    assert rows == {"in": 24, "out": 23, "quarantined": 1, "duplicates": 0}
    assert report.reasons == {reason: 1}
    (bad,) = pads.dataset(str(home.quarantine)).to_table().to_pylist()
    assert bad == {"reason": reason, "row": line.decode(errors="replace"), "source": f"{name}:6"}


def test_a_bad_row_of_text_is_named_by_the_line_at_which_it_begins(
    tmp_path: Path, ingested: Ingested
) -> None:
    frame = log()
    frame.loc[5, "user_id"] = None
    csv(frame, tmp_path / "e.csv")
    json_lines(frame, tmp_path / "e.jsonl")
    ITEMS.to_parquet(tmp_path / "items.parquet")
    # Two queries before it take two lines, one of them by CRLF.
    for name, line in (("e.csv", 9), ("e.jsonl", 6)):
        report, home = ingested(tmp_path / name, tmp_path / "items.parquet")
        assert report.reasons == {"user_id is missing": 1}
        (bad,) = pads.dataset(str(home.quarantine)).to_table().to_pylist()
        assert bad["source"] == f"{name}:{line}"
        assert json.loads(bad["row"])["zone"] is None
        assert "__line" not in bad["row"]


def test_a_log_whose_every_line_is_bad_keeps_the_evidence(
    tmp_path: Path, ingested: Ingested
) -> None:
    path = damaged(tmp_path, "e.jsonl", lambda lines: [b"{"] * 5)
    home = Home.at(tmp_path / "home")
    with pytest.raises(
        DataError, match=r"All 5 rows of the log are bad: 5 x the line is broken JSON"
    ):
        ingested(path, tmp_path / "items.parquet", home)
    assert pads.dataset(str(home.refused)).count_rows() == 5


def test_bad_lines_of_a_catalogue_are_said_and_kept(tmp_path: Path, ingested: Ingested) -> None:
    log().to_parquet(tmp_path / "events.parquet")
    (tmp_path / "items.csv").write_text("item_id,title\n1,a\n2\n3,c\n")
    report, home = ingested(tmp_path / "events.parquet", tmp_path / "items.csv")
    assert f"1 x {FIELDS}" in str(report)
    (bad,) = pads.dataset(str(home.quarantine)).to_table().to_pylist()
    assert bad["source"] == "items.csv:3"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


REFUSED: dict[str, tuple[str, Callable[[Path], object], type[Exception], str]] = {
    "cut short": (
        "e.csv.gz",
        cut_short,
        DataError,
        r"e\.csv\.gz cannot be read after line .*Trunc",
    ),
    "cut short, JSON": ("e.jsonl.gz", cut_short, DataError, r"e\.jsonl\.gz cannot be read after"),
    "not compressed": (
        "e.csv.gz",
        lambda p: p.write_text("a,b\n"),
        DataError,
        r"e\.csv\.gz cannot be read after line 0",
    ),
    "no header": ("e.csv", lambda p: p.write_text(""), DataError, r"e\.csv has no header"),
    "a column twice": ("e.csv", lambda p: p.write_text("a,a\n1,2\n"), DataError, "'a' twice"),
    "UTF-16": ("e.csv", lambda p: p.write_bytes("a,b".encode("utf-16")), DataError, "UTF-16"),
    "an open quote": (
        "e.csv",
        lambda p: p.write_text(p.read_text() + 'r1,"x\n2\n3\n'),
        DataError,
        "a quote is not closed",
    ),
    "one JSON array": ("e.jsonl", lambda p: p.write_text("[{}]"), DataError, "one JSON array.*jq"),
    "a mapped column missing": (
        "e.csv",
        lambda p: p.write_text(p.read_text().replace("query", "terms", 1)),
        ConfigError,
        r"e\.csv has no column 'query' \(needed as query\)",
    ),
    "unknown name": ("e.xls", lambda p: None, ConfigError, r"e\.xls does not say its format"),
    "dates of two readings": (
        "e.csv",
        lambda p: csv(log().assign(request_time="03/04/2018"), p),
        ConfigError,
        r"'request_time' holds dates such as '03/04/2018'.*2018-04-03",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_damaged_as_a_whole_is_named_and_nothing_is_done(
    tmp_path: Path, ingested: Ingested, case: str
) -> None:
    name, spoil, error, message = REFUSED[case]
    path = tmp_path / name
    write = json_lines if ".jsonl" in name else csv
    (gzipped(write) if name.endswith(".gz") else write)(log(), path)
    spoil(path)
    ITEMS.to_parquet(tmp_path / "items.parquet")
    home = Home.at(tmp_path / "home")
    with pytest.raises(error, match=f"(?s){message}"):
        ingested(path, tmp_path / "items.parquet", home)
    assert {p.name for p in home.root.iterdir()} <= {".ingest.lock"}


def test_an_id_is_one_as_12_and_as_a_text_and_as_a_float(
    tmp_path: Path, items: Path, ingested: Ingested, as_parquet: tuple[IngestReport, Home]
) -> None:
    frame, folder = log(), tmp_path / "log"
    folder.mkdir()
    for at, form in enumerate((int, float, str)):
        part = frame.iloc[at * 8 : at * 8 + 8]
        json_lines(
            part.assign(item_id=part["item_id"].map(form).astype(object)), folder / f"{at}.jsonl"
        )
    found = ingested(folder, items, **MAPPING)
    assert canonical(found[1]).equals(canonical(as_parquet[1]))


def test_text_ids_keep_their_point_and_zero(tmp_path: Path, ingested: Ingested) -> None:
    frame = log().assign(item_id=lambda f: "v" + f["item_id"].astype(str))
    frame.loc[0, "item_id"] = "12.0"
    csv(frame, tmp_path / "e.csv")
    pd.DataFrame({"item_id": ["v1", "12.0"], "title": "x"}).to_csv(tmp_path / "i.csv", index=False)
    report, home = ingested(tmp_path / "e.csv", tmp_path / "i.csv")
    assert report.manifest.ids == "string"
    assert report.manifest.items_absent == 6
    refs = pa.parquet.read_table(home.items)["item_ref"].to_pylist()
    assert "12.0" in refs
    assert "12" not in refs


def test_values_inside_json_objects_are_named_by_their_path(
    tmp_path: Path, items: Path, ingested: Ingested, as_parquet: tuple[IngestReport, Home]
) -> None:
    what: list[Any] = [{"object": {"id": int(i)}, "n": None} for i in log()["item_id"]]
    inner = log().assign(what=what)
    json_lines(inner.drop(columns="item_id"), tmp_path / "e.jsonl")
    mapping = {**MAPPING, "events": {"item_id": "what.object.id"}}
    found = ingested(tmp_path / "e.jsonl", items, **mapping)
    assert canonical(found[1]).equals(canonical(as_parquet[1]))
    mapping["events"] = {"item_id": "what.object.ids"}
    with pytest.raises(ConfigError, match=r"no column 'what\.object\.ids'"):
        ingested(tmp_path / "e.jsonl", items, **mapping)

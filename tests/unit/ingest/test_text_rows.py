"""Whatever text a CSV or JSON lines file holds comes back as it was, with the line it stands at."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prerank.core.errors import DataError
from prerank.ingest.csv_rows import FIELDS, csv_blocks
from prerank.ingest.json_rows import BROKEN, json_blocks
from prerank.ingest.lines import LINE, NOT_UTF8, Opener, Rejected

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
HARD = st.lists(st.sampled_from([*'",;\t|\n', "\r\n", "", "é", "12.0", "\ufeff"]), max_size=6)
VALUE = st.none() | TEXT | HARD.map("".join)


def opener(data: bytes) -> Opener:
    return lambda: pa.input_stream(io.BytesIO(data))


def read_csv(data: bytes) -> tuple[list[dict[str, object]], list[Rejected]]:
    blocks = list(csv_blocks(opener(data), "f.csv"))
    return [r for b in blocks for r in b.rows.to_pylist()], [r for b in blocks for r in b.rejected]


def read_json(data: bytes, *nested: str) -> tuple[list[dict[str, object]], list[Rejected]]:
    blocks = list(json_blocks(opener(data), "f.jsonl", nested))
    return [r for b in blocks for r in b.rows.to_pylist()], [r for b in blocks for r in b.rejected]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(VALUE, VALUE), max_size=8),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_comes_back_as_it_was(
    rows: list[tuple[str | None, str | None]], delimiter: str, end: str
) -> None:
    def field(value: str | None) -> str:
        return "" if value is None else '"' + value.replace('"', '""') + '"'

    lines = [delimiter.join(("b", "a")), *(delimiter.join(map(field, row)) for row in rows)]
    found, rejected = read_csv((end.join(lines) + end).encode())
    starts = [1 + sum(line.count("\n") + 1 for line in lines[1:at]) for at in range(1, len(lines))]
    assert found == [
        {"b": b, "a": a, LINE: 1 + start}
        for (b, a), start in zip(rows, starts, strict=True)
        if (b, a) != (None, None)
    ]
    assert rejected == []


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b/~", 'c"', "d.e", ""]), VALUE), max_size=8))
def test_json_lines_come_back_as_they_were(rows: list[dict[str, str | None]]) -> None:
    data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    found, rejected = read_json(data.encode())
    names = {key for row in rows for key in row}
    # A block has the keys that were met so far.
    assert [dict.fromkeys(names) | row for row in found] == [
        dict.fromkeys(names) | row | {LINE: at} for at, row in enumerate(rows, 1)
    ]
    assert rejected == []


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["1,2", '"x\ny",2', "1", "1,2,3", "", ",", "\xff,1", "1,\xff,3"])))
def test_csv_lines_are_counted_whatever_lies_between(rows: list[str]) -> None:
    data = b"a,b\n" + b"".join(row.encode("latin-1") + b"\n" for row in rows)
    found, rejected = read_csv(data)
    line, good, bad = 2, [], []
    for row in rows:
        if "\xff" in row:
            bad.append((line, NOT_UTF8))
        elif row.replace("x\ny", "x").count(",") == 1:
            good += [line] * (row != ",")
        elif row:
            bad.append((line, FIELDS))
        line += row.count("\n") + 1
    assert [row[LINE] for row in found] == good
    assert [(r.line, r.reason) for r in rejected] == bad


def test_values_of_json_are_the_text_that_json_writes() -> None:
    row = b'{"i": 12, "f": 12.50, "t": true, "n": null, "o": {"p": {"q": 3}}, "l": [1, "x"]}'
    (found,), _ = read_json(row, "o.p.q", "o.x", "i.j")
    assert found == {
        "i": "12",
        "f": "12.5",
        "t": "true",
        "n": None,
        "o": '{"p":{"q":3}}',
        "l": '[1,"x"]',
        "o.p.q": "3",
        LINE: 1,
    }


def test_not_a_number_is_null_as_pandas_writes_it() -> None:
    found, rejected = read_json(b'{"a": NaN, "b": "NaN, not a number"}\n{"a": -Infinity}\n{"a": N}')
    assert [row["a"] for row in found] == [None, None]
    assert found[0]["b"] == "NaN, not a number"
    assert rejected == [Rejected(3, BROKEN, '{"a": N}')]


def test_the_lines_of_a_csv_count_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prerank.ingest.csv_rows.BLOCK_BYTES", 1000)
    rows = [f'{i},"x\n{i}"' if i % 7 else f"{i}" for i in range(500)]
    found, rejected = read_csv(("a,b\n" + "\n".join(rows)).encode())
    assert [(r[LINE], r["a"]) for r in found] + [(r.line, r.text) for r in rejected] == [
        *((2 + 2 * i - -(-i // 7), f"{i}") for i in range(500) if i % 7),
        *((2 + 2 * i - -(-i // 7), f"{i}") for i in range(0, 500, 7)),
    ]


def test_a_file_that_no_quote_ends_is_refused() -> None:
    for tail in ('1,"x\n2,3\n', '"x\n2,3\n'):
        with pytest.raises(DataError, match="a quote is not closed"):
            read_csv(b"a,b\n" + tail.encode())
    assert len(read_csv(b'a,b\n1,"x\n2"\n')[0]) == 1

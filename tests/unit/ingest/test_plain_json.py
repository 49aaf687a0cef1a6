"""Lines that are scanned have the values that parsing gives; what programs write is scanned."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prerank.ingest.json_rows import json_blocks
from prerank.ingest.plain_json import plain_columns

NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-1000, 1000, places=2).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
VALUES = st.one_of(
    NUMBERS,
    st.sampled_from(["null", "true", "false", '""', "{}", "[1]", '{"a": 1}']),
    TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False)),
)
BLANKS = st.sampled_from(["", " ", "\t "])


def columns(data: bytes) -> dict[str, pa.Array] | None:
    return plain_columns(data, np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1)


def read(data: bytes) -> list[dict[str, object]]:
    blocks = json_blocks(lambda: pa.input_stream(io.BytesIO(data)), "f.jsonl")
    return [row for block in blocks for row in block.rows.to_pylist()]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=3), TEXTS, BLANKS)
@example([("0.10", "-0"), ("1e5", "0.0001")], "b", "")
def test_scanned_values_are_those_of_the_parser(
    rows: list[tuple[str, str]], name: str, blank: str
) -> None:
    key = json.dumps("x" + name, ensure_ascii=False)
    lines = [f'{{{blank}"a":{blank}{a},{key}{blank}:{b}{blank}}}\n' for a, b in rows]
    data = "".join(lines).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prerank.ingest.json_rows.plain_columns", lambda *_: None)
        expected = read(data)
    assert read(data) == expected


@pytest.mark.parametrize(
    "value", ['"a"', '""', '"é, {}"', "12", "-7", "0", "1.5", "3.0", "0.25", "true", "null"]
)
def test_what_programs_write_is_scanned(value: str) -> None:
    found = columns(f'{{"a":1,"b": {value}}}\n{{"a": 2, "b":{value}}}\r\n'.encode())
    assert found is not None
    text = None if value == "null" else value.strip('"')
    assert {name: column.to_pylist() for name, column in found.items()} == {
        "a": ["1", "2"],
        "b": [text, text],
    }


@pytest.mark.parametrize(
    "line",
    [
        '{"a":1}',  # a key less
        '{"a":1,"b":2,"c":3}',
        '{"b":1,"a":2}',
        '{"a":1,"b":2,"a":3}',
        '{"a":1,"b":2} x',
        '{"a":1,"b":"x',
        '{"a":1,"b":2',
        '{"a":1,"b":}',
        '{"a":1,"b":01}',
        '{"a":1,"b":nul}',
        '{"a":1,"b":1.50}',
        '{"a":1,"b":-0}',
        '{"a":1,"b":"\\n"}',
        '{"a":1,"b":"\t"}',
        '{"a":1,"b":NaN}',
        "",
    ],
)
def test_one_line_that_is_not_plain_leaves_all_to_the_parser(line: str) -> None:
    plain = '{"a":1,"b":2}\n'
    assert columns(plain.encode()) is not None
    assert columns(f"{plain}{line}\n{plain}".encode()) is None


def test_a_later_block_may_have_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prerank.ingest.json_rows.BLOCK_BYTES", 10)
    rows = read(b'{"b":1}\n{"a":2,"b":3}\n{"a":4}\n')
    assert [{k: v for k, v in row.items() if k != "__line"} for row in rows] == [
        {"b": "1"},
        {"b": "3", "a": "2"},
        {"b": None, "a": "4"},
    ]

"""CSV and TSV, as spreadsheets, databases and pandas write it, to rows of text.

Every value stays text: what it means is read where it is used, by the whole log and not by the
first rows of one file. Between the delimiters nothing is a null and ``""`` is an empty text. A
quoted value may hold delimiters, line breaks and doubled quotes.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from prerank.core.errors import DataError
from prerank.ingest.lines import LINE, NOT_UTF8, Block, Opener, Rejected

BLOCK_BYTES = 4 << 20
HEADER_BYTES = 1 << 20
NO_CHARACTER = "\ufffd"
FIELDS = "the line has not as many fields as the header"
_DELIMITERS = ",;\t|"


def csv_blocks(opener: Opener, name: str) -> Iterator[Block]:
    """The rows of a file, block by block.

    Args:
        opener: opens the file; called twice.
        name: what messages call it.

    Raises:
        DataError: no header, a header that names a column twice, or quotes that do not end.
        OSError: the file ends too early, or cannot be read.
    """
    names, delimiter, header_lines = _header(opener, name)
    skipped: list[pacsv.InvalidRow] = []

    def skip(row: pacsv.InvalidRow) -> str:
        skipped.append(row)
        return "skip"

    lines, ends_in_break = _Lines(header_lines), False
    with opener() as stream:
        text = _Utf8(stream)
        try:
            # One thread: the number of a row that is skipped is else not known.
            batches = pacsv.open_csv(
                pa.PythonFile(text, mode="r"),
                pacsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
                pacsv.ParseOptions(
                    delimiter=delimiter,
                    newlines_in_values=True,
                    ignore_empty_lines=False,
                    invalid_row_handler=skip,
                ),
                pacsv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            for batch in batches:
                ends_in_break = _ends_in_break(batch)
                yield _block(batch, skipped, lines, delimiter, text.is_broken)
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{name} cannot be read as CSV: {error}. The cause is often a quote that is not "
                f"closed, after line {lines.next - 1:,}: a quote inside a quoted value is doubled."
            ) from None
    # What was skipped after the last row; the file may end inside it too.
    ends_in_break |= any("\n" in row.text for row in skipped)
    if ends_in_break and _quotes(opener) % 2:
        raise DataError(
            f"{name} ends inside a quoted value, which takes up its last lines: a quote is not "
            f"closed. A quote inside a quoted value is doubled."
        )
    _, rejected = lines.place(np.zeros(0, np.int64), skipped)
    empty = {n: pa.array([], pa.string()) for n in names} | {LINE: pa.array([], pa.int64())}
    yield Block(pa.table(empty), rejected)


def _header(opener: Opener, name: str) -> tuple[list[str], str, int]:
    """Names of the columns, the delimiter, and how many lines they take."""
    with opener() as stream:
        beginning = stream.read(HEADER_BYTES)
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name} is UTF-16: write it as UTF-8.")
    text = beginning.decode("utf-8-sig", "replace")
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = next(reader, [])
    if not any(n.strip() for n in names):
        raise DataError(f"{name} has no header: its first line must name the columns.")
    twice = next((n for at, n in enumerate(names) if n in names[:at] or n == LINE), None)
    if twice is not None:
        raise DataError(f"The header of {name} names {twice!r} twice: rename one of them.")
    return names, delimiter, reader.line_num


class _Utf8:
    """A file whose bytes that are no UTF-8 read as NO_CHARACTER: the parser takes text alone."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self.is_broken = self.closed = False
        self._stream, self._ready = stream, b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._lenient = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        while len(self._ready) < size:
            chunk = self._stream.read(size)
            before = self._decoder.getstate()
            try:
                text = self._decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError:
                self.is_broken = True
                self._lenient.setstate(before)
                self._decoder = self._lenient
                text = self._decoder.decode(chunk, final=not chunk)
            self._ready += text.encode()
            if not chunk:
                break
        found, self._ready = self._ready[:size], self._ready[size:]
        return found

    def close(self) -> None:
        """The file is closed by who opened it."""
        self.closed = True


def _holds_break(column: pa.Array) -> bool:
    data = column.buffers()[2]
    return data is not None and bool((np.frombuffer(data, np.uint8) == ord("\n")).any())


def _quotes(opener: Opener) -> int:
    with opener() as stream:
        return sum(chunk.count(b'"') for chunk in iter(lambda: stream.read(BLOCK_BYTES), b""))


class _Lines:
    """Turns rows, as the parser counts them, into lines of the file.

    A row takes one line more for each line break that its values hold.
    """

    def __init__(self, header_lines: int) -> None:
        self._row, self.next = 2, header_lines + 1  # The header is the parser's row 1.

    def place(
        self, breaks: NDArray[np.int64], skipped: list[pacsv.InvalidRow]
    ) -> tuple[NDArray[np.int64], list[Rejected]]:
        """Lines int64 [n] of the next rows, and the rows among them that were ``skipped``.

        Args:
            breaks: line breaks in each row, int64 [n]; with none, all that is skipped is taken.
            skipped: what the parser skipped and is not placed yet; what is placed is removed.
        """
        absent = np.array([row.number for row in skipped], dtype=np.int64)
        rows = np.arange(self._row, self._row + len(breaks) + len(skipped))
        rows = rows[~np.isin(rows, absent)][: len(breaks)]
        among = [r for r in skipped if not len(breaks) or r.number < rows[-1]]
        skipped[:] = skipped[len(among) :]
        numbers = np.concatenate((rows, absent[: len(among)]))
        sizes = np.concatenate((breaks, [r.text.count("\n") for r in among])).astype(np.int64) + 1
        order = np.argsort(numbers)
        lines = np.empty(len(numbers), np.int64)
        lines[order] = self.next + np.cumsum(sizes[order]) - sizes[order]
        self._row, self.next = self._row + len(numbers), self.next + int(sizes.sum())
        found = zip(lines[len(breaks) :].tolist(), among, strict=True)
        # A blank line holds nothing to lose.
        bad = [
            Rejected(at, NOT_UTF8 if NO_CHARACTER in row.text else FIELDS, row.text)
            for at, row in found
            if row.text.strip()
        ]
        return lines[: len(breaks)], bad


def _ends_in_break(batch: pa.RecordBatch) -> bool:
    """Whether the last value of the last row has a line break."""
    last = batch.column(batch.num_columns - 1)
    return len(last) > 0 and "\n" in (last[-1].as_py() or "")


def _block(
    batch: pa.RecordBatch,
    skipped: list[pacsv.InvalidRow],
    lines: _Lines,
    delimiter: str,
    is_broken: bool,
) -> Block:
    breaks = np.zeros(len(batch), np.int64)
    broken = set[int]()
    for column in batch.columns:
        if _holds_break(column):
            breaks += np.asarray(pc.count_substring(column, "\n").fill_null(0))
        if is_broken:
            odd = pc.match_substring(column, NO_CHARACTER).fill_null(False)
            broken.update(np.flatnonzero(np.asarray(odd)).tolist())
    at, rejected = lines.place(breaks, skipped)
    for row in sorted(broken):
        values = [v or "" for v in batch.slice(row, 1).to_pylist()[0].values()]
        rejected.append(Rejected(int(at[row]), NOT_UTF8, delimiter.join(values)))
    rows = pa.table([*batch.columns, pa.array(at)], names=[*batch.schema.names, LINE])
    if broken or all(column.null_count for column in batch.columns):
        # A line that is blank, or of delimiters alone, is no row.
        keep = np.zeros(len(rows), np.bool_)
        for column in batch.columns:
            keep |= np.asarray(column.is_valid())
        keep[list(broken)] = False
        rows = rows.filter(pa.array(keep))
    return Block(rows, sorted(rejected))

"""What hashing a title costs: the definition in Python beside the compiled form, in one run.

    python benchmarks/title_hashing.py [--items items.parquet] [--titles 10000] [--out TABLE.md]

Titles are generated, the same in every run: three to twelve words, one title in twenty with letters
outside ASCII. ``--items`` measures those of a catalogue too (column ``title``; missing ones are
left out). The two forms take turns over all titles, after both were checked to give the same; then
over single titles, as a query comes. Times are medians of repeats, with the least and the greatest;
a ratio is that of two neighbouring repeats. One thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from printed import markdown, show

from interactrank.features.text import ragged, ragged_reference

SEED, SINGLE = 7, 1_000
HEAD = (
    "titles",
    "count",
    "characters",
    "definition, µs per title",
    "compiled, µs per title",
    "ratio",
)
LETTERS, FOREIGN = "etaoinshrdlucmfw0123456789", "éüßñçøşğ漢字かなйжщωπ"


def generated(count: int) -> list[str]:
    """Titles of three to twelve words of one to eleven letters."""
    rng = np.random.default_rng(SEED)

    def word(letters: str) -> str:
        return "".join(rng.choice(list(letters), rng.integers(1, 12))).capitalize()

    plain, foreign = [word(LETTERS) for _ in range(5000)], [word(FOREIGN) for _ in range(500)]
    titles = []
    for i in range(count):
        words = list(rng.choice(plain, rng.integers(3, 13)))
        if i % 20 == 0:
            words[1] = str(rng.choice(foreign))
        titles.append(" ".join(words))
    return titles


def catalogue_titles(items: Path, most: int) -> list[str]:
    """The first titles of a catalogue's file."""
    column = pq.read_table(items, columns=["title"])["title"].drop_null()
    return column.slice(0, most).to_pylist()


def timed(work: Callable[[list[str]], object], titles: list[str], alone: bool) -> float:
    """Microseconds per title, of all titles in one call or of a call for each."""
    calls = [[t] for t in titles] if alone else [titles]
    began = time.perf_counter()
    for call in calls:
        work(call)
    return 1e6 * (time.perf_counter() - began) / len(titles)


def spread(found: list[float], digits: int) -> str:
    """Median (least to greatest)."""
    low, middle, high = (f"{v:.{digits}f}" for v in np.quantile(found, (0, 0.5, 1)))
    return f"{middle} ({low} to {high})"


def row(name: str, titles: list[str], repeats: int, alone: bool) -> list[str]:
    """A line of the table."""
    (wanted, wanted_offsets), (values, offsets) = ragged_reference(titles), ragged(titles)
    assert np.array_equal(values, wanted)
    assert np.array_equal(offsets, wanted_offsets)
    slow, fast = [], []
    for _ in range(repeats):
        slow.append(timed(ragged_reference, titles, alone))
        fast.append(timed(ragged, titles, alone))
    ratio = [s / f for s, f in zip(slow, fast, strict=True)]
    characters = np.mean([len(t) for t in titles])
    measured = [spread(slow, 1), spread(fast, 2), spread(ratio, 1)]
    return [name, f"{len(titles):,}", f"{characters:.0f}", *measured]


def main() -> None:
    """Print a row for each set of titles, in one call and one by one."""
    shown_as_is = argparse.RawDescriptionHelpFormatter
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=shown_as_is)
    ask.add_argument("--items", type=Path, help="a catalogue: Parquet with a column `title`")
    ask.add_argument("--titles", type=int, default=10_000, help="at most so many of each kind")
    ask.add_argument("--repeats", type=int, default=9)
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    sets = {"generated": generated(args.titles)}
    if args.items:
        sets["catalogue"] = catalogue_titles(args.items, args.titles)
        if not sets["catalogue"]:
            ask.error(f"{args.items} has no titles")
    rows = []
    for name, titles in sets.items():
        rows.append(row(name, titles, args.repeats, alone=False))
        rows.append(row(f"{name}, one a call", titles[:SINGLE], args.repeats, alone=True))
    text = f"Medians of {args.repeats} repeats (least to greatest)\n\n{markdown(HEAD, rows)}\n"
    show(text, args.out)


if __name__ == "__main__":
    main()

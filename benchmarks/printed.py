"""How benchmarks print: Markdown tables, to the terminal and to a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without a line break at its end."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(text: str, out: Path | None) -> None:
    """Print ``text``, and write it to ``out`` where one is given."""
    print(text)
    if out:
        out.write_text(text)

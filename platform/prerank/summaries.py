"""The last lines of a verb: what it read, what it wrote, how long it took, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LABEL = 7
"""Characters of the column of labels."""


@dataclass(frozen=True)
class Summary:
    """What a verb did. Each text may have several lines; an empty one is left out.

    Attributes:
        read: where from, and how much.
        wrote: where to, and how much.
        then: the command that usually follows.
    """

    read: str = ""
    wrote: str = ""
    then: str = ""

    def text(self, seconds: float) -> str:
        """The summary as aligned lines; ``seconds`` is how long the verb took."""
        rows = [
            ("read", self.read),
            ("wrote", self.wrote),
            ("took", duration(seconds)),
            ("next", self.then),
        ]
        return aligned([(label, text) for label, text in rows if text])


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    """Labels on the left, texts beside them, further lines of a text under its first."""
    width = max(LABEL, *(len(label) + 1 for label, _ in rows))
    lines = []
    for label, text in rows:
        first, *more = text.splitlines()
        lines.append(f"  {label:<{width}}{first}")
        lines += [" " * (width + 2) + line for line in more]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds for people: "0.4 s", "12 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, noun: str) -> str:
    """Number and noun: "1 request", "12,000 requests"."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def size(count_of_bytes: int) -> str:
    """Bytes for people: "0.3 MB", "41.0 MB", "2.1 GB"."""
    megabytes = count_of_bytes / 1e6
    return f"{megabytes:.1f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"

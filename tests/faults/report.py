"""The table of a run of the faults: what each cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.load import Load

COLUMNS = (
    "seconds",
    "sent",
    "2xx",
    "degraded",
    "5xx",
    "not reached",
    "longest wait, s",
    "events acknowledged",
    "lost",
    "wrong",
)


class Report:
    """Rows of a run, written to ``folder`` after each of them: as JSON, and as a table."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[dict[str, Any]] = []

    def add(self, fault: str, test: str, load: Load, lost: int, **notes: Any) -> None:
        """Keep what a fault cost.

        Args:
            fault: in words.
            test: that caused it, ``file::name``.
            load: that was on the deployment meanwhile.
            lost: events that were acknowledged and are not in the journal.
            notes: other figures; in the JSON file only.
        """
        row = {"fault": fault, "test": test} | load.figures() | {"lost": lost}
        self._rows.append(row | {"closed": load.closed, "notes": notes})
        print(row, notes, dict(load.statuses()), dict(load.event_statuses))
        self._folder.mkdir(exist_ok=True)
        (self._folder / "faults.json").write_text(json.dumps(self._rows, indent=2) + "\n")
        (self._folder / "faults.md").write_text(self.table())

    def table(self) -> str:
        """The rows in Markdown."""
        head = ["what goes wrong", *COLUMNS, "test"]
        lines = [head, ["---", *["---:" for _ in COLUMNS], "---"]]
        for row in self._rows:
            lines.append([row["fault"], *(f"{row[c]:,}" for c in COLUMNS), f"`{row['test']}`"])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

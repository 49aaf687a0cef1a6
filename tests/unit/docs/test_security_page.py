"""The tests that the security page names are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_row_names_tests_that_exist() -> None:
    rows = re.findall(r"^\| (?!---|threat)(.+) \|$", (ROOT / "docs/security.md").read_text(), re.M)
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.rpartition(" | ")[2])
        assert named, row
        for path, test in named:
            assert f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"

"""The tests that the security and the reliability page name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("page", ["security", "reliability"])
def test_every_row_names_tests_that_exist(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    rows = re.findall(r"^\| (?!---|threat|what goes wrong)(.+) \|$", text, re.MULTILINE)
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row.rpartition(" | ")[2])
        assert named, row
        for path, test in named:
            # A file alone stands for all of its tests.
            assert f"def {test or 'test_'}" in (ROOT / path).read_text(), f"{path}::{test}"

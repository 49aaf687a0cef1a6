"""docs/model.md: the tests it names exist, and its costs are those that the code gives."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "model.md").read_text()


def test_every_test_it_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    source = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 30
    assert {name for name in named if f"def {name}(" not in source} == set()


def test_it_maps_every_module() -> None:
    modules = {p.name for p in (ROOT / "interactrank").glob("*.py")}
    helpers = {"__init__.py", "catalogue.py", "idtable.py"}
    assert {m for m in modules - helpers if f"`{m}`" not in TEXT} == set()


def test_its_costs_are_what_its_code_prints() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    lines = printed.getvalue().splitlines()
    assert len(lines) == 6
    assert [line for line in lines if line not in TEXT] == []

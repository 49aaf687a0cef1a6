"""docs/model.md: the tests it names exist, and its costs are those that the code gives."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from tests.documented import block

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "model.md").read_text()


def test_every_test_it_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    source = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 30
    assert {name for name in named if f"def {name}(" not in source} == set()


def test_it_maps_every_module() -> None:
    """The table has every module in its package's rows, and no module that is not there."""
    table = re.findall(r"^\| (?:`(\w+)/`|) ?\| ((?:`\w+\.py`(?:, )?)+) \|", TEXT, re.MULTILINE)
    mapped, package = set(), ""
    for named_package, modules in table:
        package = named_package or package
        mapped |= {f"{package}/{name}".lstrip("/") for name in re.findall(r"`(\w+\.py)`", modules)}
    root = ROOT / "interactrank"
    modules_ = {p.relative_to(root).as_posix() for p in root.rglob("*.py")}
    assert {m for m in modules_ if not m.endswith("__init__.py")} == mapped


def test_its_costs_are_what_its_code_prints() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block("costs"), {})
    lines = printed.getvalue().splitlines()
    assert len(lines) == 7
    assert [line for line in lines if line not in TEXT] == []

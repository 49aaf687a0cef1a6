"""The API reference has an entry for each module, and no entry without a module."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_module_has_an_entry() -> None:
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    entries = re.findall(r"^::: ([\w.]+)$", pages, re.M)
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for root, package in ((ROOT, "interactrank"), (ROOT / "platform", "prerank"))
        for path in (root / package).rglob("*.py")
        if not path.stem.startswith("__")
    }
    assert len(entries) == len(set(entries))
    packages = {module.rpartition(".")[0] for module in modules}
    assert modules - set(entries) == set()
    assert set(entries) - modules - packages == set()

"""Who may import whom, checked without importing: `python tests/import_rules.py`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "interactrank": {"ray", "feast", "mlflow", "prerank", "pandas", "pyarrow", "duckdb"},
    "feature_repo": {"prerank", "ray", "mlflow"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of every import in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def violations() -> list[str]:
    """Every broken rule, as a sentence."""
    found = [
        f"{path.relative_to(ROOT)} imports {', '.join(sorted(bad))}"
        for folder, banned in FORBIDDEN.items()
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (bad := imported(path) & banned)
    ]
    if (ROOT / "platform" / "__init__.py").exists():
        found.append("platform/__init__.py exists: it shadows the standard library")
    shadowed = subprocess.run(
        [sys.executable, "-c", "import platform, uuid; platform.system()"], cwd=ROOT, check=False
    )
    if shadowed.returncode:
        found.append("`import platform` from the root is not the standard library's")
    return found


if __name__ == "__main__":
    problems = violations()
    print("\n".join(problems) or "import rules hold")
    sys.exit(bool(problems))

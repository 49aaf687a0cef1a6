"""Import rules that import-linter's contracts (pyproject.toml) cannot state."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", ["interactrank", "prerank"])
def test_no_module_imports_itself_by_any_way(package: str) -> None:
    graph = grimp.build_graph(package, cache_dir=None)
    modules = sorted(graph.modules)
    assert len(modules) > 15
    needs = {m: graph.find_modules_directly_imported_by(m) for m in modules}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_a_planted_circle_is_found() -> None:
    graph = grimp.build_graph("interactrank", cache_dir=None)
    graph.add_import(importer="interactrank.features.schema", imported="interactrank.model.scorer")
    needs = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    with pytest.raises(CycleError):
        TopologicalSorter(needs).prepare()


def test_feast_definitions_know_the_schema_alone() -> None:
    own = {"interactrank", "prerank", "ray", "mlflow"}
    for path in (ROOT / "feature_repo").glob("*.py"):
        found = {name for name in imported(path) if name.split(".")[0] in own}
        assert found <= {"interactrank.features.schema"}, path.name


def test_platform_stays_the_standard_librarys() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import platform; platform.system()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

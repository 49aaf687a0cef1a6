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


PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
IN_FLIGHT = {"platform/prerank/core/ray_tasks.py", "platform/prerank/core/travel.py"}
"""Tasks and results between processes of one job; nothing of it is ever a file."""


def unpickles(call: ast.Call) -> bool:
    """Whether a call reads, or may read, a pickle from a file."""
    name, given = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
    return (
        name.endswith("read_pickle")
        or (name == "torch.load" and given.get("weights_only") != "True")
        or (name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False")
    )


def uses_pickle(source: str) -> bool:
    nodes = list(ast.walk(ast.parse(source)))
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(alias.name for alias in node.names)}
    return bool({n.split(".")[0] for n in names} & PICKLES) or any(
        unpickles(n) for n in nodes if isinstance(n, ast.Call)
    )


def test_no_file_is_a_pickle() -> None:
    folders = ("interactrank", "platform", "feature_repo")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    found = {str(p.relative_to(ROOT)) for p in sources if uses_pickle(p.read_text())}
    assert found == IN_FLIGHT


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "from ray import cloudpickle",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
    ],
)
def test_a_planted_pickle_is_found(source: str) -> None:
    assert uses_pickle(source)


def test_platform_stays_the_standard_librarys() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import platform; platform.system()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

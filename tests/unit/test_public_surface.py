"""The public surface of both packages: these names, each importable, and a cheap import."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import interactrank
import prerank

ROOT = Path(__file__).parents[2]

SURFACE = {
    "interactrank": [
        "Batch",
        "Catalogue",
        "FeatureSchema",
        "InteractRank",
        "LossConfig",
        "ModelConfig",
        "RequestArrays",
        "Scored",
        "Scorer",
        "TrainConfig",
        "Trainer",
        "collate",
    ],
    "prerank": [
        "AsyncClient",
        "Client",
        "ClientError",
        "Event",
        "QueryRequest",
        "RankRequest",
        "RerankRequest",
        "__version__",
    ],
}


@pytest.mark.parametrize("package", SURFACE)
def test_these_names_are_public_and_can_be_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == SURFACE[package]
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        found = getattr(module, name)
        assert getattr(found, "__name__", name) == name


def test_each_public_name_has_its_module() -> None:
    assert sorted(interactrank._MODULE_OF) == interactrank.__all__
    assert sorted([*prerank._MODULE_OF, "__version__"]) == prerank.__all__


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="'interactrank' has no attribute 'Ranker'"):
        _ = interactrank.Ranker
    assert not hasattr(prerank, "main")


def test_importing_the_packages_loads_no_heavy_library() -> None:
    code = (
        "import sys, interactrank, prerank, interactrank.model.config;"
        "print(sorted({m.split('.')[0] for m in sys.modules}"
        " & {'torch', 'numba', 'ray', 'numpy', 'mlflow', 'feast'}))"
    )
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_version_is_written_in_pyproject_and_repeated_in_the_citation() -> None:
    written = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert cited == written
    assert prerank.__version__ == version("interactrank-platform")

"""What was compiled is found again by a copy of the same code, and never run by any other code."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from interactrank.kernels import VERSIONS_KEPT, digest

ROOT = Path(__file__).parents[3]
WORK = """
import numpy as np
from interactrank.kernels import kernel

@kernel
def doubled(value):
    return 2 * value
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one kernel, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    folder = tmp_path / "one" / "tiny"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "sizes.py").write_text("WIDTH = 3\n")
    (folder / "work.py").write_text(WORK)
    return folder


def compiled(package: Path) -> bool:
    """Whether the kernel of a package had to be compiled when a new process called it."""
    spec = importlib.util.spec_from_file_location("tiny.work", package / "work.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.doubled(21) == 42
    return not module.doubled.stats.cache_hits


def copied(package: Path, name: str) -> Path:
    copy = package.parents[1] / name / "tiny"
    shutil.copytree(package, copy)
    return copy


@pytest.mark.compiled
def test_a_copy_of_the_code_compiles_nothing(package: Path) -> None:
    assert compiled(package)
    assert not compiled(copied(package, "job"))


@pytest.mark.compiled
def test_of_processes_that_need_it_at_the_same_time_one_compiles_it(package: Path) -> None:
    # Compiling this takes longer than the three differ in starting.
    (package / "work.py").write_text(WORK.replace("2 * value", "np.median(value) + np.sort(value)"))
    program = """
import sys
import numpy as np
from tiny.work import doubled
print("imported", flush=True)
sys.stdin.readline()
doubled(np.arange(3.0))
print(sum(doubled.stats.cache_misses.values()))
"""
    path = f"{package.parent}:{ROOT}"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "imported\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert sorted(said) == ["0\n", "0\n", "1\n"]


@pytest.mark.compiled
def test_a_change_of_any_module_compiles_anew(package: Path) -> None:
    assert compiled(package)
    changed = copied(package, "changed")
    (changed / "sizes.py").write_text("WIDTH = 4\n")
    assert digest(changed) != digest(package)
    assert compiled(changed)
    assert not compiled(copied(package, "unchanged"))


@pytest.mark.compiled
def test_without_a_cache_folder_numbas_own_is_used(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = package.parent / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert compiled(package)
    assert list((package / "__pycache__").glob("work.doubled-*.nbi"))


@pytest.mark.compiled
def test_the_folder_is_the_users_alone_and_does_not_grow(package: Path, tmp_path: Path) -> None:
    kernels = tmp_path / "cache" / "interactrank" / "kernels"
    for n in range(VERSIONS_KEPT + 5):
        (kernels / f"old-{n}").mkdir(parents=True)
    kernels.chmod(0o755)
    assert compiled(package)
    kept = sorted(folder.name for folder in kernels.iterdir())
    assert len(kept) == VERSIONS_KEPT
    assert digest(package) in kept
    shutil.rmtree(kernels)
    assert compiled(copied(package, "fresh"))
    assert stat.S_IMODE(kernels.stat().st_mode) == 0o700


@pytest.mark.compiled
def test_what_is_no_kernel_is_kept_where_numba_keeps_it(package: Path, tmp_path: Path) -> None:
    plain = WORK.replace("from interactrank.kernels import kernel", "import numba as nb")
    (package / "work.py").write_text(plain.replace("@kernel", "@nb.njit(cache=True)"))
    assert compiled(package)
    assert list((package / "__pycache__").glob("work.doubled-*.nbi"))
    assert not (tmp_path / "cache").exists()

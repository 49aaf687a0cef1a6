"""How many small defects planted in `interactrank.features` and `.metrics` their tests notice.

    .venv/bin/pip install -e ".[mutation]"
    .venv/bin/python benchmarks/mutation.py [--sample 300] [--seed 0] [features/levels …]

cosmic-ray names the defects: another operator, another number, a loop that does not run. Each is
planted alone, in a copy of this checkout, and is killed if the tests of its module fail or take
several times their usual time. The compiled kernels run as plain Python, so that a defect costs
seconds and no compilation; what needs them compiled is left out. Not planted: defects in
annotations and decorators, on which no behaviour depends.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
FEATURES, METRICS = "tests/unit/interactrank/features", "tests/unit/interactrank/metrics"
TESTS = {
    "features/batch": (f"{FEATURES}/test_batch.py",),
    "features/catalogue": (
        f"{FEATURES}/test_catalogue.py",
        f"{FEATURES}/test_text_hash.py::test_a_catalogue_hashes_each_category_as_one",
        f"{FEATURES}/test_batch.py",
    ),
    "features/engagement": (f"{FEATURES}/test_engagement.py", f"{FEATURES}/test_damage.py"),
    "features/given": (f"{FEATURES}/test_given.py",),
    "features/id_table": (f"{FEATURES}/test_id_table.py",),
    "features/inputs": (
        f"{FEATURES}/test_inputs.py",
        f"{FEATURES}/test_searches.py",
        f"{FEATURES}/test_damage.py",
    ),
    "features/levels": (f"{FEATURES}/test_engagement.py",),
    "features/packed_rows": (f"{FEATURES}/test_inputs.py", f"{FEATURES}/test_packed_rows.py"),
    "features/request_statistics": (f"{FEATURES}/test_inputs.py",),
    "features/schema": (f"{FEATURES}/test_schema.py", f"{FEATURES}/test_text.py"),
    "features/searches": (f"{FEATURES}/test_searches.py",),
    "features/text": (f"{FEATURES}/test_text.py",),
    "features/text_hash": (f"{FEATURES}/test_text_hash.py",),
    "features/top_items": (f"{FEATURES}/test_top_items.py",),
    "metrics/calibration": (f"{METRICS}/test_calibration.py",),
    "metrics/ranking": (f"{METRICS}/test_ranking.py",),
    "metrics/recall": (f"{METRICS}/test_recall.py",),
}
"""The tests that the defects of each module have to pass by."""

PYTEST = [
    *("-q", "-x", "--confcutdir=tests/contracts", "-p", "no:cacheprovider"),
    # As plain Python, the hashes' arithmetic warns where it wraps around.
    *("-W", "ignore::RuntimeWarning", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("--hypothesis-profile=ci", "-m", "not compiled"),
]
OUTCOMES = ("killed", "timeout", "survived")
MEMORY = 16 << 30
"""Bytes of address space that tests may take: a defect may ask for any size."""


@dataclass(frozen=True)
class Defect:
    """The ``occurrence``-th place in ``module`` at which cosmic-ray's ``operator`` changes it."""

    module: str
    operator: str
    occurrence: int

    @property
    def path(self) -> Path:
        """The module's file, in the working folder."""
        return Path(f"interactrank/{self.module}.py")


def defects(module: str) -> Iterator[Defect]:
    """All defects of a module, those without behaviour left out."""
    source = Defect(module, "", 0).path.read_text()
    tree, spans = get_ast(source), list(without_behaviour(source))
    for operator in operator_names():
        if operator == "core/NoOp" or (made := get_operator(operator)).arguments():
            continue
        positions = (p for node in ast_nodes(tree) for p in made().mutation_positions(node))
        for occurrence, (start, _) in enumerate(positions):
            if not any(low <= start < high for low, high in spans):
                yield Defect(module, operator, occurrence)


def without_behaviour(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations and decorators begin and end: (line, column) each."""
    for node in ast.walk(ast.parse(source)):
        held = [getattr(node, name, None) for name in ("annotation", "returns")]
        for part in (*held, *getattr(node, "decorator_list", ())):
            if part is not None:
                # One before it, where a decorator's @ is.
                yield (part.lineno, part.col_offset - 1), (part.end_lineno, part.end_col_offset)


def outcome(tests: tuple[str, ...], seconds: int) -> tuple[str, float]:
    """Run ``tests`` for at most ``seconds`` of a processor: what became of them, and the seconds.

    In a fork of this process, which has loaded the libraries and nothing of ours.
    """
    child = os.fork()
    if not child:
        for limited, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, MEMORY)):
            resource.setrlimit(limited, (most, most))
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        import pytest

        os._exit(int(pytest.main([*PYTEST, *tests])))
    _, status, used = os.wait4(child, 0)
    if os.WIFSIGNALED(status):
        late = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        return "timeout" if late else "killed", used.ru_utime
    return "killed" if os.WEXITSTATUS(status) else "survived", used.ru_utime


def measure(modules: list[str], sample: int, seed: int) -> None:
    """Plant ``sample`` defects of the ``modules``, all equally likely, and print their outcomes."""
    every = [defect for module in modules for defect in defects(module)]
    chosen = random.Random(seed).sample(every, min(sample, len(every)))
    print(f"{len(chosen)} of {len(every)} defects, seed {seed}")
    print(f"{'module':27} {'all':>5} {'planted':>8} {'killed':>7} {'timeout':>8} {'survived':>9}")
    sums = dict.fromkeys(OUTCOMES, 0)
    for module in modules:
        sound, used = outcome(TESTS[module], 600)
        if sound != "survived":
            raise SystemExit(f"the tests of {module} fail with no defect planted")
        counts, survivors = dict.fromkeys(OUTCOMES, 0), []
        for defect in (d for d in chosen if d.module == module):
            whole = defect.path.read_text()
            changed = mutate_code(whole, get_operator(defect.operator)(), defect.occurrence)
            defect.path.write_text(changed)
            found, _ = outcome(TESTS[module], int(5 + 3 * used))
            defect.path.write_text(whole)
            counts[found] += 1
            if found == "survived":
                old, new = whole.splitlines(), changed.splitlines()
                survivors += [*difflib.unified_diff(old, new, lineterm="", n=1)][2:]
        total = sum(d.module == module for d in every)
        figures = (total, sum(counts.values()), *counts.values())
        print("{:27} {:5} {:8} {:7} {:8} {:9}".format(module, *figures), *survivors, sep="\n    ")
        sys.stdout.flush()
        sums = {name: sums[name] + counts[name] for name in OUTCOMES}
    print(f"{sums}: {1 - sums['survived'] / max(len(chosen), 1):.1%} noticed")


def main() -> None:
    """Measure in a copy of the checkout, so that no defect stays in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=300, help="how many defects are planted")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of defects")
    parser.add_argument("modules", nargs="*", help="such as features/levels; all if left out")
    args = parser.parse_args()
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    # What every run of the tests would load anew.
    import hypothesis.extra.numpy
    import numba
    import pytrec_eval
    import safetensors.numpy
    import torch

    del hypothesis, numba, pytrec_eval, safetensors
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as folder:
        for name in ("interactrank", "platform", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name)
        shutil.copy(ROOT / "pyproject.toml", folder)
        os.chdir(folder)
        measure(args.modules or list(TESTS), args.sample, args.seed)


if __name__ == "__main__":
    main()

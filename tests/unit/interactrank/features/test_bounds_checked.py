"""The kernels once with numba's own bounds checks, which cost too much to be on otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
FEATURES, METRICS = "tests/unit/interactrank/features", "tests/unit/interactrank/metrics"
TESTS = [
    f"{FEATURES}/test_damage.py",
    f"{FEATURES}/test_engagement.py::test_equals_the_formulas",
    f"{FEATURES}/test_top_items.py::test_equals_a_plain_reading_of_the_rows",
    f"{FEATURES}/test_packed_rows.py::test_a_capped_row_accounts_for_everything_it_cut",
    f"{FEATURES}/test_text_hash.py::test_hard_texts_beside_each_other",
    "tests/unit/dataset/test_negatives.py::test_hard_are_the_items_the_row_speaks_for_most",
    "tests/unit/features/test_snapshots.py::test_an_action_that_the_log_does_not_know_is_refused",
    "tests/unit/features/test_snapshots.py::test_a_daily_level_changes_at_midnight_only",
    "tests/contracts/test_sweep.py::test_blocks_of_every_size",
    f"{METRICS}/test_ranking.py::test_equals_trec_eval_where_nothing_ties",
    f"{METRICS}/test_recall.py::test_any_offsets_are_refused_or_measured",
]
CHECKED = """
import sys
import numpy as np
import pytest
from interactrank.features.packed_rows import row_total
try:
    row_total(np.zeros(8, np.uint8), 0, 0)
except IndexError:
    sys.exit(pytest.main(sys.argv[1:]))
sys.exit("numba checks no bounds")
"""


def test_kernels_stay_within_their_arrays(tmp_path: Path) -> None:
    environment = os.environ | {
        "NUMBA_BOUNDSCHECK": "1",
        # Compiled once and run for a moment: optimising costs more than it saves.
        "NUMBA_OPT": "0",
        # What is compiled with the checks must not be taken for what is compiled without them.
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform"))),
    }
    options = [
        "-W",
        "ignore",  # without optimisation some kernels are not kept, and numba says so of each
        "-q",
        "-x",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "--hypothesis-profile=ci",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", CHECKED, *options, *TESTS],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr

"""The kernels once as plain Python, whose arrays check their bounds; compiled ones check none."""

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
    f"{FEATURES}/test_neighbours.py::test_a_request_reaches_what_is_near_to_it",
    f"{FEATURES}/test_item_vectors.py::test_users_and_queries_are_means_of_what_they_hold",
    f"{FEATURES}/test_item_vectors.py::test_cosines_are_those_of_each_requests_own_snapshot",
    "tests/unit/interactrank/graph/test_walk.py::test_equals_are_kept_by_their_place",
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
sys.exit("nothing checks bounds")
"""


def test_kernels_stay_within_their_arrays() -> None:
    environment = os.environ | {
        # Numba's own checks find the same, and would compile every kernel anew.
        "NUMBA_DISABLE_JIT": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform"))),
    }
    options = [
        "-W",
        "ignore",  # numbers of NumPy warn where they overflow, as hashes do on purpose
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

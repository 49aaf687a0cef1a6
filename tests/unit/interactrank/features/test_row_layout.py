"""The bytes of a packed row are known to one module: another layout changes nothing elsewhere."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.plain_requests import SCHEMA, as_inputs, features, random_request

from interactrank.features.id_table import IdTable
from interactrank.features.request_statistics import request_features
from interactrank.features.top_items import top_items_of
from prerank.dataset.negatives import sample_candidates

ROOT = Path(__file__).parents[4]
KNOWS = ROOT / "interactrank/features/packed_rows.py"
CONTRACT = ROOT / "interactrank/features/schema.py"
"""Names the version alone, which is part of a model's hash."""

ANOTHER = """
import interactrank.features.schema as schema
schema.ROW_VERSION = 2
import interactrank.features.packed_rows as layout
layout.HEADER_BYTES = 24
layout._VERSION, layout._WIDTH = 8, 10
layout._ITEMS, layout._CRC, layout._DISTINCT = 12, 16, 20
"""
"""Version 2: eight bytes more, in front of the header's fields."""

MADE = """
import sys
import numpy as np
from tests.unit.interactrank.features.test_row_layout import made_of_rows
np.savez(sys.argv[1], **made_of_rows())
"""


def made_of_rows() -> dict[str, NDArray[np.generic]]:
    """All that the readers of rows make of the same requests, packed anew; and the rows' bytes."""
    requests = [random_request(seed) for seed in range(40)]
    inputs = as_inputs(requests)
    drawn: Sequence[NDArray[np.generic]] = sample_candidates(
        SCHEMA,
        inputs,
        np.arange(len(requests)),
        np.zeros(0, np.int64),
        np.zeros(len(requests) + 1, np.int64),
        IdTable(np.arange(-4, 14)),
    )
    found: Sequence[NDArray[np.generic]] = top_items_of(SCHEMA, inputs)
    return {
        "bytes": inputs.blocks,
        "sizes": inputs.block_size,
        "cross": features(requests),
        "request": request_features(SCHEMA, inputs),
        **{f"top {i}": part for i, part in enumerate(found)},
        **{f"drawn {i}": part for i, part in enumerate(drawn)},
    }


def made_by(script: str, out: Path) -> dict[str, NDArray[np.generic]]:
    # The kernels as plain Python: compiling them would take most of a minute, and the source that
    # must not know the layout is the same.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform"))),
        "NUMBA_DISABLE_JIT": "1",
    }
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", script, str(out)]
    subprocess.run(command, check=True, env=environment, cwd=ROOT)
    with np.load(out) as made:
        return dict(made)


def test_another_layout_needs_no_other_module(tmp_path: Path) -> None:
    ours = made_by(MADE, tmp_path / "ours.npz")
    theirs = made_by(ANOTHER + MADE, tmp_path / "theirs.npz")
    np.testing.assert_array_equal(theirs.pop("sizes"), ours["sizes"] + 8)
    assert len(theirs.pop("bytes")) == len(ours.pop("bytes")) + 8 * len(ours.pop("sizes"))
    assert set(theirs) == set(ours)
    for name, values in ours.items():
        assert values.size
        np.testing.assert_array_equal(theirs[name], values, err_msg=name)


def layout_known(source: str) -> list[str]:
    """Where a module reads a row's bytes by itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name("ROW_VERSION" | "HEADER_BYTES") | ast.alias("ROW_VERSION"):
                found.append("names the version or the header")
            case ast.Call(ast.Attribute(_, "view"), [dtype]):
                found.append(f"a view as {ast.unparse(dtype)}")
            case ast.BinOp(left, ast.Add(), right):
                terms = [t.value for t in (left, right) if isinstance(t, ast.Constant)]
                found += ["past the header" for value in terms if value == 16]
    return found


def readers() -> list[Path]:
    """Modules that have packed rows in hand."""
    modules = [*ROOT.glob("interactrank/**/*.py"), *ROOT.glob("platform/**/*.py")]
    return [
        path
        for path in sorted(modules)
        if path not in (KNOWS, CONTRACT) and re.search(r"packed_rows|block_start", path.read_text())
    ]


@pytest.mark.parametrize("path", readers(), ids=lambda path: path.stem)
def test_no_reader_knows_where_a_byte_stands(path: Path) -> None:
    assert layout_known(path.read_text()) == []


def test_who_knows_the_layout_is_found() -> None:
    assert {"levels", "inputs", "top_items", "negatives"} <= {path.stem for path in readers()}
    assert layout_known(KNOWS.read_text())
    planted = "f = blocks[at : at + 4].view(np.uint16)[1]\nstart = at + 16\nv = ROW_VERSION"
    assert len(layout_known(planted)) == 3

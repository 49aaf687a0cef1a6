"""What a user sees of each verb: words and an aligned summary, no raw value, no library's chatter.

The verbs go through the command line on a tiny simulated log; the demo's test has the others.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from pathlib import Path

import pytest
from tests.documented import words

from prerank import cli
from prerank.core import quiet
from prerank.core.errors import DataError
from prerank.core.home import ENV
from prerank.core.ray_tasks import ray_map

RAW = re.compile(r"\{'|\{\"|\w+\(\w+=|datetime\.|np\.|WindowsPath|PosixPath")
"""How Python shows a dict, a dataclass or an array."""
CHATTER = re.compile(r"Warning|INFO|Traceback|Materializing|\(pid=")

ROWS = 6_000
"""Of the log of the first day, where the documentation has 80,000."""


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delenv(quiet.DEBUG_ENV, raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def test_each_verb_ends_with_a_summary(
    tmp_path: Path, tiny_simulation: Path, ray_local: None, capfd: pytest.CaptureFixture[str]
) -> None:
    work, world = ["--workdir", str(tmp_path / "home")], tiny_simulation
    log = ["--events", str(world / "events"), "--items", str(world / "items.parquet")]
    for command in (
        ["ingest", *log, *work],
        ["features", *work],
        ["training-set", *work],
        ["materialise", *work],
    ):
        cli.main(command)
        expect_summary(capfd)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
def test_the_first_day_of_the_documentation(
    tmp_path: Path,
    ray_local: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its commands as they stand, on fewer rows, and the look at the log that operations name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENV, str(tmp_path / "work" / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for command in [*words("look", demo="tiny", **{"80000": ROWS}), *words("train")]:
        cli.main(command)
        expect_summary(capfd)
    (check,) = words("check", **{"2025-03-01": "2025-01-17", "3": "1"})
    code = 0
    try:
        cli.main(check)
    except SystemExit as stopped:
        # Of so few requests something may drift.
        code = int(stopped.code or 0)
    assert code in (0, 3)
    assert "drift" in capfd.readouterr().out


def expect_summary(capfd: pytest.CaptureFixture[str]) -> None:
    out, err = capfd.readouterr()
    assert RAW.findall(out) == [], out
    assert CHATTER.findall(out + err) == [], out + err
    summary = f"\n{out}".split("\n\n")[-1].splitlines()
    labels = [line.split()[0] for line in summary if line[2] != " "]
    assert labels == ["read", "wrote", "took", "next"], out
    assert summary[-1].startswith("  next   prerank "), out


def _refuses(task: dict[str, int]) -> dict[str, int]:
    if task["row"] == 7:
        raise DataError("row 7 is odd. Mend it.")
    return task


def test_a_user_error_within_a_task_is_that_error(
    ray_local: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ray_map(_refuses, [{"row": 1}, {"row": 2}], "rows") != []
    with pytest.raises(DataError, match=r"^row 7 is odd\. Mend it\.$"):
        ray_map(_refuses, [{"row": 6}, {"row": 7}], "rows")
    assert capfd.readouterr() == ("", "")


def test_our_own_warnings_stay(capsys: pytest.CaptureFixture[str]) -> None:
    quiet.hush()
    where = {ours: f"{ours}core{os.sep}home.py" for ours in quiet.OURS} | {"": "/site/feast/x.py"}
    for path in where.values():
        warnings.showwarning("look here", DeprecationWarning, path, 7)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"warning: look here ({path}:7)" for ours, path in where.items() if ours]


def test_everything_is_shown_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(quiet.DEBUG_ENV, "1")
    before, level = warnings.showwarning, logging.getLogger("mlflow").level
    quiet.hush()
    assert warnings.showwarning is before
    assert logging.getLogger("mlflow").level == level
    with quiet.muted():
        print("a library speaks")
    assert quiet.ray_options() == {"log_to_driver": True}
    monkeypatch.setenv(quiet.DEBUG_ENV, "0")
    with quiet.muted():
        print("not heard")
    assert quiet.ray_options()["log_to_driver"] is False
    assert capsys.readouterr().out == "a library speaks\n"

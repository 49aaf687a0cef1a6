"""What a user sees of each verb: words and an aligned summary, no raw value, no library's chatter.

The commands are those of the documentation, on a tiny simulated log.
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


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delenv(quiet.DEBUG_ENV, raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
def test_each_verb_of_the_first_days_ends_with_a_summary(
    tmp_path: Path,
    ray_local: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENV, str(tmp_path / "work" / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first_day = [*words("look", demo="tiny", **{"80000": 12_000}), *words("train")]
    check = words("check", **{"2025-03-01": "2025-01-10", "3": "1"})
    log = {"E": "work/world/events", "I": "work/world/items.parquet", "NEW": "work/mapping.yaml"}
    for command in [*first_day, *check, *words("new-schema", **log)]:
        cli.main(command)
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

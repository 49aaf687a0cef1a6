"""Progress bars are shown or not in one place."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import prerank
from prerank.core.progress import PROGRESS_ENV, bar
from prerank.simulate import simulate
from prerank.training.ray_train import Epochs, follow


@pytest.mark.parametrize(
    ("environment", "wanted", "shown"),
    [(None, True, True), ("1", True, True), ("0", True, False), (None, False, False)],
)
def test_a_bar_is_shown_where_it_is_wanted_and_not_turned_off(
    environment: str | None,
    wanted: bool,
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(PROGRESS_ENV)
    if environment:
        monkeypatch.setenv(PROGRESS_ENV, environment)
    with bar(wanted, total=1, desc="a task") as found:
        found.update()
    assert ("a task" in capsys.readouterr().err) == shown


def test_the_simulator_and_the_training_show_none_where_bars_are_turned_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for environment, shown in (("0", False), ("1", True)):
        monkeypatch.setenv(PROGRESS_ENV, environment)
        simulate(tmp_path / environment, "tiny", requests=50)
        done = threading.Event()
        done.set()
        follow(Epochs(str(tmp_path), "none"), 1, done).join()
        err = capsys.readouterr().err
        assert ("simulate:" in err) == ("train:" in err) == shown


def test_nobody_makes_a_bar_otherwise() -> None:
    root = Path(prerank.__file__).parent
    makers = [path for path in root.rglob("*.py") if "tqdm(" in path.read_text()]
    assert makers == [root / "core" / "progress.py"]

"""`make demo-full` around its services: what is missing is named, and what it starts is ended."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from deployments.demo_full import __main__ as demo
from deployments.demo_full import services
from deployments.demo_full.services import Platform
from tests.manifests import ROOT

from prerank.core.errors import NotReadyError


def test_what_is_missing_is_named_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(services, "binary", lambda name: None)
    assert demo.main() == 5
    said = capsys.readouterr().err
    for package in ("postgresql", "redis-server", "prometheus"):
        assert f"{package}: apt-get install {package}" in said
    assert '-e ".[full]"' in said


def test_the_best_two_rankers_are_shown_whatever_the_gate_says_of_the_same_metrics() -> None:
    guide = (ROOT / "docs" / "first-day.md").read_text()
    begins = guide.index("gate of model version 1")
    printed = guide[begins : guide.index("```", begins)]
    assert printed.split().count("recall@cut") == 2
    head, *rows = demo.best_two(printed).splitlines()
    assert head.split()[0] == "recall@cut"
    assert [row.split()[0] for row in rows] == ["linear", "interactrank"]


def test_a_service_that_ends_says_why(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "raise SystemExit('no such port')"]
    with (
        ExitStack() as stack,
        pytest.raises(NotReadyError, match=r"(?s)thing did not start.*no such port"),
    ):
        Platform(tmp_path, stack).start("thing", words, lambda: False)


def test_a_service_is_ended_with_its_children(tmp_path: Path) -> None:
    child = "import subprocess, time; subprocess.Popen(['sleep', '60']); open('up', 'w'); "
    words = [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {child}time.sleep(60)"]
    with ExitStack() as stack:
        Platform(tmp_path, stack).start("thing", words, (tmp_path / "up").exists)
        found = demo.left(tmp_path)
        assert len(found) == 2
    _, alive = psutil.wait_procs(found, timeout=10)
    assert not alive


def test_nothing_of_another_platform_is_told_to_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PRERANK_HOME", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "elsewhere")
    with ExitStack() as stack:
        environment = Platform(tmp_path, stack, {"PRERANK_HOME": "s3://here"}).environment()
    assert environment["PRERANK_HOME"] == "s3://here"
    assert "elsewhere" not in environment.values()

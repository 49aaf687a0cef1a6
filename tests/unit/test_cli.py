"""The command line is small and frozen; a user's mistake is one line and a known exit code."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from prerank import cli
from prerank.commands.verbs import VERBS as TABLE
from prerank.config import JobConfig, json_schema
from prerank.core import errors, ray_tasks
from prerank.core.home import ENV, Home
from prerank.summaries import Summary, duration

ROOT = Path(__file__).parents[2]

# A new verb or option is a decision: experiments are configuration files. Change this on purpose.
VERBS: dict[str, list[str]] = {
    "inspect": ["--events*", "--items*", "--out"],
    "simulate": [
        "--days",
        "--format",
        "--full-ranker",
        "--out*",
        "--preset",
        "--rows",
        "--seed",
        "--spammers",
    ],
    "ingest": ["--events*", "--items*", "--mapping", "--replace", "--workdir"],
    "features": ["--config", "--restate", "--workdir"],
    "graph": ["--export", "--item", "--workdir"],
    "embed": ["--item", "--query", "--register", "--user", "--workdir"],
    "materialise": ["--until", "--workdir"],
    "update": [
        "--config",
        "--events",
        "--items",
        "--mapping",
        "--served",
        "--through",
        "--workdir",
    ],
    "retrain": [
        "--auto-promote",
        "--config",
        "--events",
        "--items",
        "--mapping",
        "--max-bad",
        "--seeds",
        "--served",
        "--through",
        "--warm",
        "--workdir",
    ],
    "users": ["--flag*", "--workdir"],
    "training-set": ["--workdir"],
    "train": ["--config", "--oracles", "--seeds", "--workdir"],
    "evaluate": ["--oracles", "--split", "--version", "--workdir"],
    "ablate": ["--config", "--only", "--seeds", "--split", "--workdir"],
    "curve": ["--config", "--seeds", "--split", "--workdir"],
    "tune": ["--config", "--minutes", "--out*", "--space", "--trials", "--workdir"],
    "index": ["--version", "--workdir"],
    "add-items": ["--items*", "--version", "--workdir"],
    "gate": [
        "--config",
        "--day",
        "--margin",
        "--requests",
        "--undecided",
        "--version",
        "--workdir",
    ],
    "promote": ["--config", "--version", "--without-gate", "--workdir"],
    "rollback": ["--version", "--workdir"],
    "replay": ["--log", "--out", "--requests", "--version", "--workdir"],
    "export": ["--version", "--vespa*", "--workdir"],
    "parity": ["--requests", "--url", "--workdir"],
    "run": ["--config", "--events*", "--items*", "--mapping", "--oracles", "--seeds", "--workdir"],
    "demo": ["--workdir"],
    "online-report": [
        "--experiment*",
        "--from",
        "--out",
        "--planned",
        "--slower-ms",
        "--to",
        "--window-hours",
        "--workdir",
    ],
    "check": ["--events", "--psi", "--since", "--version", "--workdir"],
    "forget": ["--user", "--users", "--workdir"],
    "config": ["--config", "--schema"],
    "env": ["--workdir"],
}
EXIT_CODES = {
    errors.PrerankError: 1,
    errors.ConfigError: 2,
    errors.DataError: 3,
    errors.StateError: 4,
    errors.NotReadyError: 5,
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Verbs export PRERANK_HOME and defaults to their children; take it all back afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delenv(ENV, raising=False)
    monkeypatch.chdir(tmp_path)


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``prerank <verb> --help`` prints."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"] if verb else ["--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def options_of(text: str) -> dict[str, str]:
    """Each long option that a help text explains, "*" where it must be given, and what it says."""
    usage, rest = text.split("\n\n", 1)
    optional = set(re.findall(r"\[(--[a-z-]+)", usage))
    starts = r"^  (?:-h, )?(--[a-z-]+)(?: \S+)?(?:\n|  )"
    _, *parts = re.split(starts, rest.split("\n\nexample:")[0], flags=re.MULTILINE)
    explained = zip(parts[::2], parts[1::2], strict=True)
    return {o if o in optional else f"{o}*": told for o, told in explained if o != "--help"}


def test_verbs_and_options_are_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = re.findall(r"^    ([a-z-]+)(?:  |$)", help_of("", capsys), re.MULTILINE)
    assert {v: sorted(options_of(help_of(v, capsys))) for v in verbs} == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_options_alone(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    usage = help_of(verb, capsys).split("\n\n", 1)[0]
    left = re.sub(r"\[[^]]*\]|--[a-z-]+ [A-Z]+", "", usage)
    assert left.split() == ["usage:", "prerank", verb]


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = help_of(verb, capsys)
    assert out.startswith(f"usage: prerank {verb}")
    assert "\nexample:\n  " in out
    assert f"prerank {verb}" in out.split("example:")[1]
    assert "\nnext:\n  " in out


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_that_may_be_left_out_tells_its_default(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = options_of(help_of(verb, capsys))
    silent = [o for o, text in told.items() if "*" not in o and "default" not in text]
    # A switch that prints something else has no default to tell.
    assert silent == (["--schema"] if verb == "config" else [])


def test_help_names_every_verb_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    out = help_of("", capsys)
    assert [v for v in VERBS if v not in out] == []
    assert "0 done; 2 configuration; 3 data; 4 a step is missing; 5 not ready" in out


def test_exit_codes_are_the_documented_ones() -> None:
    assert {kind: kind.exit_code for kind in EXIT_CODES} == EXIT_CODES


def env_does(what: Callable[[argparse.Namespace], None], monkeypatch: pytest.MonkeyPatch) -> None:
    verbs = [replace(v, function=what) if v.name == "env" else v for v in TABLE]
    monkeypatch.setattr(cli, "VERBS", verbs)


@pytest.mark.parametrize("error", EXIT_CODES, ids=lambda e: e.__name__)
def test_a_user_error_is_one_line_and_its_exit_code(
    error: type[errors.PrerankError],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(_: argparse.Namespace) -> None:
        raise error("the field `x` is wrong. Do y.")

    env_does(fails, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["env"])
    assert stopped.value.code == EXIT_CODES[error]
    captured = capsys.readouterr()
    assert captured.err == "prerank env: the field `x` is wrong. Do y.\n"
    assert captured.out == ""


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: argparse.Namespace) -> None:
        raise ZeroDivisionError

    env_does(fails, monkeypatch)
    with pytest.raises(ZeroDivisionError):
        cli.main(["env"])


def fails_with(argv: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    err = capsys.readouterr().err
    assert stopped.value.code == code, err
    assert err.startswith(f"prerank {argv[0]}: ")
    assert err.count("\n") == 1, err
    assert says in err


def test_user_errors_of_the_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text("train: {epoch: 1}\n")
    (tmp_path / "map.yaml").write_text("evnts: {}\n")
    work = ["--workdir", str(tmp_path / "w")]
    log = ["--events", "e.parquet", "--items", "i.parquet"]
    fails_with(["simulate", "--out", "s", "--preset", "huge"], 2, "'huge'", capsys)
    fails_with(["features", "--config", "job.yaml", *work], 2, "'epoch'", capsys)
    fails_with(["train", "--config", "job.yaml", *work], 2, "'epoch'", capsys)
    fails_with(["run", "--config", "job.yaml", *log, *work], 2, "'epoch'", capsys)
    fails_with(["ingest", "--mapping", "map.yaml", *log, *work], 2, "`evnts`", capsys)
    fails_with(["run", "--mapping", "absent.yaml", *log, *work], 2, "absent.yaml", capsys)
    fails_with(["materialise", "--until", "soon", *work], 2, "'soon'", capsys)
    fails_with(["materialise", *work], 4, "prerank ingest", capsys)
    fails_with(["parity", *work], 4, "prerank ingest", capsys)
    fails_with(["check", *work], 4, "prerank ingest", capsys)
    fails_with(["users", "--flag", "map.yaml", *work], 4, "prerank ingest", capsys)
    fails_with(["users", "--flag", "none.csv", *work], 2, "--flag none.csv", capsys)
    fails_with(["check", "--since", "soon", *work], 2, "--since soon", capsys)
    fails_with(["check", "--psi", "0", *work], 2, "--psi 0", capsys)
    fails_with(["parity", "--requests", "0", *work], 2, "--requests 0", capsys)
    fails_with(["export", "--vespa", "none/items.jsonl", *work], 2, "--vespa", capsys)
    fails_with(["add-items", "--items", "i.parquet", *work], 2, "--items i.parquet", capsys)
    report = ["online-report", "--experiment", "e", *work]
    fails_with([*report, "--from", "soon"], 2, "--from soon", capsys)
    fails_with([*report, "--window-hours", "0"], 2, "--window-hours 0", capsys)
    fails_with([*report, "--planned", "0"], 2, "--planned 0", capsys)
    fails_with([*report, "--slower-ms", "-1"], 2, "--slower-ms -1", capsys)
    fails_with(report, 4, "prerank ingest", capsys)
    fails_with(["inspect", *log], 2, "--events e.parquet", capsys)
    here = ["--events", "map.yaml", "--items", "map.yaml", "--out"]
    fails_with(["inspect", *here, "map.yaml"], 2, "--out map.yaml is there", capsys)
    fails_with(["inspect", *here, "none/m.yaml"], 2, "no folder", capsys)
    fails_with(["inspect", *here, "new.yaml"], 2, "does not say its format", capsys)
    fails_with(["gate", *work], 4, "prerank ingest", capsys)
    fails_with(["gate", "--day", "soon", *work], 2, "--day 'soon'", capsys)
    fails_with(["gate", "--margin", "-1", *work], 2, "margin: -1", capsys)
    fails_with(["gate", "--requests", "0", *work], 2, "requests: 0", capsys)
    fails_with(["promote", "--config", "job.yaml", *work], 2, "'epoch'", capsys)
    fails_with(["config", "--config", "job.yaml"], 2, "'epoch'", capsys)
    fails_with(["config", "--config", "job.yaml", "--schema"], 2, "--schema", capsys)
    assert not (tmp_path / "s").exists()


def test_a_full_disk_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def writes(args: argparse.Namespace) -> None:
        Path("/dev/full").write_text("x")

    monkeypatch.setattr(cli, "VERBS", [replace(verb, function=writes) for verb in TABLE])
    fails_with(["check"], 4, "the disk is full ([Errno 28]", capsys)


def test_steps_before_their_time_name_the_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def started() -> None:
        raise AssertionError("Ray was started for nothing")

    monkeypatch.setattr(ray_tasks, "connect", started)
    work = ["--workdir", str(tmp_path / "w")]
    log = ["--events", "e.parquet", "--items", "i.parquet"]
    fails_with(["ingest", *log, *work], 2, "e.parquet", capsys)
    fails_with(["features", *work], 4, "`prerank ingest`", capsys)
    fails_with(["training-set", *work], 4, "`prerank ingest`", capsys)
    fails_with(["ablate", *work], 4, "`prerank ingest`", capsys)
    fails_with(["export", "--vespa", "items.jsonl", *work], 4, "`prerank ingest`", capsys)
    fails_with(["add-items", "--items", str(tmp_path), *work], 4, "`prerank ingest`", capsys)
    fails_with(["retrain", *work], 4, "`prerank ingest`", capsys)
    fails_with(["tune", "--out", "t.yaml", *work], 4, "`prerank ingest`", capsys)
    fails_with(["replay", *work], 4, "`prerank ingest`", capsys)
    both = ["--events", str(tmp_path), "--served"]
    fails_with(["retrain", *both, *work], 2, "--events or --served, not both", capsys)
    fails_with(["retrain", "--max-bad", "7", *work], 2, "--max-bad 7.0", capsys)
    fails_with(["tune", "--trials", "0", "--out", "t.yaml", *work], 2, "--trials 0", capsys)
    fails_with(["tune", "--minutes", "-1", "--out", "t.yaml", *work], 2, "--minutes -1", capsys)
    fails_with(["tune", "--out", "no/t.yaml", *work], 2, "--out no/t.yaml", capsys)
    fails_with(["replay", "--requests", "0", *work], 2, "--requests 0", capsys)
    for verb in (["ablate"], ["train"], ["retrain"], ["run", *log]):
        fails_with([*verb, "--seeds", "0", *work], 2, "--seeds 0", capsys)


@pytest.mark.parametrize(
    "verb", ["features", "materialise", "training-set", "train", "parity", "env"]
)
def test_a_relative_home_is_refused(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ENV, "state")
    fails_with([verb], 2, f"{ENV}=state is a relative path", capsys)
    assert not Path("state").exists()


def test_a_home_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    fails_with(["features"], 2, f"{ENV} is not set", capsys)


def test_a_relative_workdir_becomes_absolute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--workdir is given at a prompt, where a relative path has a plain meaning."""
    for before in ({}, {ENV: "/another/home"}):
        os.environ.update(before)
        cli.main(["env", "--workdir", "state"])
        assert f"{ENV}={tmp_path / 'state'}" in capsys.readouterr().out.replace("'", "")


def test_home_refuses_a_relative_path() -> None:
    with pytest.raises(errors.ConfigError, match="relative path"):
        Home.at("state")


def test_the_configuration_that_is_printed_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["config"])
    (tmp_path / "job.yaml").write_text(capsys.readouterr().out)
    assert JobConfig.load(tmp_path / "job.yaml") == JobConfig()
    (tmp_path / "own.yaml").write_text("train: {epochs: 3}\n")
    cli.main(["config", "--config", "own.yaml"])
    out = capsys.readouterr().out
    assert "  epochs: 3\n" in out
    assert "  batch_requests: 256\n" in out
    cli.main(["config", "--schema"])
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_a_summary_is_aligned() -> None:
    done = Summary("a log", "events\nitems", "prerank features")
    assert done.text(75.2).splitlines() == [
        "  read   a log",
        "  wrote  events",
        "         items",
        "  took   1 min 15 s",
        "  next   prerank features",
    ]
    assert Summary().text(0.04) == "  took   0.0 s"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.42, "0.4 s"), (12.4, "12 s"), (59.7, "1 min 0 s"), (7800, "2 h 10 min")],
)
def test_durations_are_for_people(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize("argv", [[], ["rank"], ["simulate"], ["evaluate", "--split", "train"]])
def test_wrong_usage_is_argparses(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    assert "usage: prerank" in capsys.readouterr().err


def test_the_installed_command() -> None:
    """In a process of its own: no traceback, nothing on standard output."""
    env = {k: v for k, v in os.environ.items() if k != ENV} | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform")))
    }
    done = subprocess.run(
        [sys.executable, "-c", "from prerank.cli import main; main()", "features"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f'prerank features: {ENV} is not set. Run: eval "$(prerank env)"\n'

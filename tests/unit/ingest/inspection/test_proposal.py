"""The mapping that follows from what was found, the profile, and the command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from tests.documented import run_block
from tests.inspected_logs import (
    ITEMS,
    NOW,
    START,
    WORDS,
    Frame,
    action,
    clicks,
    renamed,
    seen,
    shop,
    touches,
    written,
)

from prerank import cli
from prerank.core.home import Home
from prerank.ingest.inspection import sample
from prerank.ingest.inspection.assume import assumptions
from prerank.ingest.inspection.look import Inspection, inspect
from prerank.ingest.inspection.proposal import lacking, proposal
from prerank.ingest.inspection.text import profile_text
from prerank.ingest.mapping import LogMapping, load_mapping
from prerank.ingest.report import IngestReport

Ingested = Callable[..., tuple[IngestReport, Home]]
LOGS: dict[str, Callable[[], Frame]] = {
    "shop": shop,
    "touches": touches,
    "clicks": clicks,
    "renamed": lambda: renamed(shop(), impression="shown", click="add to cart").rename(
        columns={"query": "q", "device": "my device: 1", "user_id": "on"}
    ),
    "no action": lambda: clicks().drop(columns="action"),
}


@pytest.mark.parametrize("name", LOGS)
def test_the_yaml_that_is_written_is_the_mapping(name: str, tmp_path: Path) -> None:
    made = proposal(seen(tmp_path, LOGS[name]()))
    path = tmp_path / "mapping.yaml"
    path.write_text(made.to_yaml("A heading."))
    assert load_mapping(path) == made.mapping()
    assert path.read_text().startswith("# A heading.\n")


def test_each_choice_of_the_yaml_has_its_reason(of_touches: Inspection) -> None:
    text = proposal(of_touches).to_yaml("A heading.")
    assert "  # certain: named so\n  user_id: user_id\n" in text
    assert "# Exposure. Engagements are the others: click, image, info.\n" in text
    assert "# 1 h keeps 100.0%" in text
    assert "  # guess: the position is known of 100% of what was shown" in text


@pytest.mark.parametrize("name", ["shop", "touches", "clicks", "no action"])
def test_ingest_takes_the_mapping_as_it_is(name: str, tmp_path: Path, ingested: Ingested) -> None:
    places = written(tmp_path, LOGS[name]())
    made = proposal(inspect(*places, NOW))
    report, _ = ingested(*places, **made.settings)
    manifest = report.manifest
    assert manifest.rows["quarantined"] == 0
    assert manifest.label_window_hours == made.settings["label_window_hours"]
    assert manifest.segments == tuple(made.settings.get("segments", ()))
    assert ("rank" in manifest.retriever) == (name in ("shop", "touches"))
    assert manifest.candidate_features == (("price",) if name == "touches" else ())


def test_neighbours_are_proposed_where_users_come_back_and_nothing_was_shown(
    of_shop: Inspection, tmp_path: Path
) -> None:
    back = seen(tmp_path, clicks(requests=120))
    made = proposal(back)
    assert made.mapping().graph
    assert "71% of the engagements are of users with 5 or more before" in made.reasons["graph"]
    assert "`graph: true`: 71% of" in profile_text(back)
    assert any("`graph: true`" in line for line in assumptions(back).said)
    assert not assumptions(back).mapping.graph
    for other in (seen(tmp_path, clicks(requests=60)), of_shop):
        assert not proposal(other).mapping().graph
        assert "graph" not in profile_text(other)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl"])
def test_text_is_looked_at_as_parquet_is(ending: str, tmp_path: Path) -> None:
    as_parquet = seen(tmp_path, touches())
    path = tmp_path / f"events.{ending}"
    if ending == "jsonl":
        touches().to_json(path, orient="records", lines=True, date_format="iso")
    else:
        touches().to_csv(path, index=False)
    found = inspect(path, tmp_path / "items.parquet", NOW)
    assert proposal(found).settings == proposal(as_parquet).settings
    assert found.faults == as_parquet.faults == ()


def test_of_a_long_log_a_sample_is_read_and_all_actions_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = shop(requests=2000, hours=1.0)
    frame.loc[frame.index == 4321, "action"] = "purchase"
    monkeypatch.setattr(sample, "SAMPLE_ROWS", 2000)
    found = seen(tmp_path, frame)
    assert len(found.sample.rows) == 2000
    assert action(found, "impression").rows == (frame["action"] == "impression").sum()
    assert action(found, "purchase").rows == 1
    text = profile_text(found)
    assert "looked at 2,000 rows from all over it: shares are estimates" in text
    assert proposal(found).mapping().passive == ("impression",)


def test_a_profile_is_aligned_and_names_everything(of_touches: Inspection) -> None:
    text = profile_text(of_touches)
    for title in ("log", "event columns", "actions", "label window", "segments", "retriever"):
        assert f"{title}\n  " in text
    assert "300 requests, 50 users" in text
    rows = text.split("event columns\n")[1].split("\n\n")[0].splitlines()
    assert len({row.index("certain") for row in rows if "certain" in row}) == 1


def test_the_command_prints_the_profile_and_writes_the_mapping(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command sets variables for its children.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    events, items = map(str, written(tmp_path, touches()))
    out = tmp_path / "mapping.yaml"
    monkeypatch.chdir(tmp_path)
    run_block("inspect", E=events, I=items)
    printed = capsys.readouterr().out
    assert printed.startswith("log\n  800 rows in 1 file\n")
    assert "--mapping mapping.yaml" in printed
    assert load_mapping(out).label_window_hours == 1
    cli.main(["inspect", "--events", events, "--items", items])
    assert out.read_text().split("\n", 1)[1].strip() in capsys.readouterr().out


def test_a_ubi_log_needs_no_columns(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    asked = [START + pd.Timedelta(hours=24 * r) for r in range(60)]
    queries = [
        {
            "query_id": f"q{r}",
            "client_id": f"u{r % 7}",
            "user_query": WORDS[r % 5],
            "timestamp": at.isoformat(),
            "query_response_hit_ids": [str((r + place) % 40) for place in range(5)],
        }
        for r, at in enumerate(asked)
    ]
    done = [
        {
            "query_id": f"q{r}",
            "action_name": "click",
            "timestamp": (at + pd.Timedelta(seconds=20)).isoformat(),
            "event_attributes": {"object": {"object_id": str(r % 40)}, "position": {"ordinal": 1}},
        }
        for r, at in enumerate(asked)
    ]
    for name, rows in (("ubi_queries", queries), ("ubi_events", done)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = tmp_path / "items.parquet"
    ITEMS.to_parquet(items)
    found = inspect(folder, items, NOW)
    settings = proposal(found).settings
    assert found.is_ubi
    assert found.has_impressions
    assert lacking(found) == []
    assert settings.keys() == {"name", "items", "passive", "label_window_hours"}
    assert assumptions(found).mapping == LogMapping()

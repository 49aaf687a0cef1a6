"""Which schemas a home holds, needs and has online."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.online_log import MANIFEST, empty_tables, mark_online, start_over

from prerank.core.errors import StateError
from prerank.core.feature_sets import (
    engagements,
    manifest_of_log,
    manifests,
    needed,
    online_state,
    published_us,
)
from prerank.core.files import write_json
from prerank.core.home import Home

NOW = MANIFEST.schema
THEN = replace(NOW, segments=())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    MANIFEST.save(home)
    return home


def set_cutoff(home: Home, folder: Path, cutoff: int) -> None:
    path = folder / "manifest.json"
    write_json(path, home.read_json(path, "") | {"last_cutoff_us": cutoff})


def test_the_cutoff_of_any_schema_counts_until_the_log_is_replaced(home: Home) -> None:
    assert published_us(home) == 0
    for schema, cutoff in ((NOW, 5), (THEN, 9)):
        empty_tables(home, schema)
        set_cutoff(home, home.features_of(schema.hash()), cutoff)
    # Tables that are being written are nobody's yet.
    write_json(home.features / ".0123.partial" / "manifest.json", {"last_cutoff_us": 11})
    assert published_us(home) == 9
    assert set(manifests(home)) == {NOW.hash(), THEN.hash()}
    start_over(home)
    assert published_us(home) == 0
    assert set(manifests(home)) == {NOW.hash(), THEN.hash()}, "a live model may need them"
    with pytest.raises(StateError, match=r"replaced.*prerank features.*prerank materialise"):
        manifest_of_log(home)


def test_a_home_of_an_earlier_release_says_what_to_run_and_keeps_its_cutoff(home: Home) -> None:
    write_json(home.features / "manifest.json", {"last_cutoff_us": 7, "schema_hash": NOW.hash()})
    (home.features / "engagement").mkdir()
    write_json(home.feast / "materialised.json", {"until_us": 7, "schema_hash": NOW.hash()})
    assert published_us(home) == 7
    with pytest.raises(StateError, match="Run `prerank features` first"):
        manifest_of_log(home)
    with pytest.raises(StateError, match="`prerank features` and then `prerank materialise`"):
        online_state(home, NOW.hash())


def test_what_is_online_is_told_by_schema(home: Home) -> None:
    mark_online(home, NOW)
    assert online_state(home, NOW.hash())["schema_hash"] == NOW.hash()
    with pytest.raises(StateError, match=f"not online, and the log has schema {NOW.hash()}"):
        online_state(home, THEN.hash())


def test_the_log_and_every_version_with_files_or_an_index_need_their_schema(home: Home) -> None:
    assert needed(home) == {NOW.hash()}
    write_json(home.models / "1" / "model.json", {"schema_hash": "a" * 16})
    write_json(home.models / "served.json", {"alias": "champion", "version": "1"})
    write_json(home.index / "2" / "index.json", {"schema_hash": "b" * 16})
    assert needed(home) == {NOW.hash(), "a" * 16, "b" * 16}


def test_an_action_that_any_schema_of_the_home_counts_is_an_engagement(home: Home) -> None:
    assert engagements(home) == {"click", "save"}
    empty_tables(home, replace(NOW, passive=("click",)))
    assert engagements(home) == {"impression", "click", "save"}

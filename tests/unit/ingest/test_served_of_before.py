"""Answers that an earlier release wrote down are read with those of now, whichever comes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.served_files import answer, write_answers

from prerank.core.home import Home
from prerank.core.served import REQUESTS, requests_folder
from prerank.core.sql import connection
from prerank.ingest import served_sql

BEFORE = REQUESTS.empty_table().select(REQUESTS.names[: REQUESTS.names.index("latency_ms")]).schema


@pytest.mark.parametrize("old", ["0", "z"])
def test_files_of_before_are_read_with_those_of_now(tmp_path: Path, old: str) -> None:
    home = Home.at(tmp_path / "home")
    plain = {k: v for k, v in answer("before", "u0", None).items() if k in BEFORE.names}
    write_answers(home, [plain], old, BEFORE)
    write_answers(home, [answer("now", "u1", "control")], "m")
    files = sorted(map(str, requests_folder(home).glob("day=*/*")))
    with connection() as db:
        db.execute("SET VARIABLE answers = $files", {"files": files})
        tables = {"answers": served_sql.ANSWERS, "lines": served_sql.NO_LINES}
        db.execute(served_sql.TABLES.format(**tables))
        found = db.execute("SELECT request_id, user_id, items FROM answers").fetchall()
    items = ["1", "2", "3"]
    assert sorted(found) == [("before", "u0", items), ("now", "u1", items)]

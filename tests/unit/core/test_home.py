"""A home is its owner's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from prerank.core.errors import ConfigError
from prerank.core.home import Home


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o377])
def test_a_new_home_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    home = Home.at(tmp_path / "a" / "home")
    home.root.parent.mkdir()
    before = os.umask(umask)
    try:
        home.create()
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_a_home_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Home.at(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_home_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/home"):
        with pytest.raises(ConfigError, match=f"PRERANK_HOME=.*{place} cannot be made"):
            Home.at(tmp_path / place).create()

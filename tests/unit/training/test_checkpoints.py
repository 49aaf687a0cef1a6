"""The bundle of a checkpoint, on a node that did not train."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.object_stores import nodes, watched

from prerank.core.errors import NotReadyError
from prerank.core.home import Home
from prerank.registry.bundle import META
from prerank.training.checkpoints import fetch_bundle

BUNDLE = "runs/job/checkpoint_1/bundle"


def away(what: str, path: str) -> None:
    raise OSError("503 Slow Down")


def test_a_node_that_did_not_train_brings_it_whole(tmp_path: Path) -> None:
    with nodes(tmp_path) as store:
        # As Ray Train writes it.
        there = store.bucket / "home" / BUNDLE
        (there / "more").mkdir(parents=True)
        (there / META).write_text("{}")
        (there / "more" / "weights").write_text("weights")
        with store.node("a") as home:
            bundle = home.root / BUNDLE
            with watched(away), pytest.raises(NotReadyError, match="503 Slow Down"):
                fetch_bundle(home, bundle)
            assert not bundle.exists()
            assert fetch_bundle(home, bundle)
            assert (bundle / "more" / "weights").read_text() == "weights"
            with watched(away):
                assert fetch_bundle(home, bundle), "what is here is not asked for"
            assert not fetch_bundle(home, bundle.with_name("other"))
            assert not bundle.with_name("other").exists()


def test_of_a_local_home_it_is_there_or_gone(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    bundle = tmp_path / BUNDLE
    assert not fetch_bundle(home, bundle)
    bundle.mkdir(parents=True)
    (bundle / META).write_text("{}")
    assert fetch_bundle(home, bundle)

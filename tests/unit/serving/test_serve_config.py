"""The options of the deployment that say how long events are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prerank.core.errors import ConfigError
from prerank.core.settings import typed
from prerank.serving.config import ServeConfig

DEPLOYMENT = Path(__file__).parents[3] / "deployments" / "prerank.yaml"


def config(**args: object) -> ServeConfig:
    return typed(ServeConfig, args, what="args")


def test_the_deployment_that_is_shipped_says_what_is_the_default() -> None:
    (application,) = yaml.safe_load(DEPLOYMENT.read_text())["applications"]
    assert config(**application["args"]) == ServeConfig()


def test_events_can_be_kept_for_ever_and_not_for_no_time() -> None:
    assert config(journal_days=None).journal_days is None
    assert config(journal_days=30).journal_days == 30.0
    for wrong in ({"journal_days": 0}, {"journal_days": "long"}, {"journal_segment_mb": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            config(**wrong)

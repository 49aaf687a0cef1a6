"""The configuration as shipped: every option, at its default, on loopback. No Ray is started."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import configuration

from prerank.core.errors import ConfigError
from prerank.playground import deployment as playground
from prerank.playground.config import PlaygroundConfig
from prerank.serving.config import ServeConfig
from prerank.serving.deployment import app
from prerank.serving.experiment import experiment_of

ROOT = Path(__file__).parents[3]
FILE = ROOT / "deployments" / "prerank.yaml"
KEYS = {field.name for field in dataclasses.fields(ServeConfig)}


def args() -> dict[str, Any]:
    (application,) = yaml.safe_load(FILE.read_text())["applications"]
    found: dict[str, Any] = application["args"]
    return found


def test_the_playground_is_off_and_the_comment_that_switches_it_on_is_right(tmp_path: Path) -> None:
    (application,) = configuration()["applications"]
    live, page = configuration(playground=True)["applications"]
    assert live == application
    name = f"{playground.__name__}:app"
    assert (page["route_prefix"], page["import_path"]) == ("/playground", name)
    assert playground.app(page["args"] | {"home": str(tmp_path)})
    told = (ROOT / "docs" / "playground.md").read_text()
    assert page in yaml.safe_load(told.partition("```yaml")[2].partition("```")[0])


def test_every_key_of_the_playground_is_documented() -> None:
    page = (ROOT / "docs" / "playground.md").read_text().partition("| key of `args`")[2]
    cells = [line.split("|")[1] for line in page.splitlines()[2:] if line.startswith("| `")]
    keys = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert keys == {field.name for field in dataclasses.fields(PlaygroundConfig)}


def test_the_deployment_as_shipped_listens_on_loopback() -> None:
    host = yaml.safe_load(FILE.read_text())["http_options"]["host"]
    assert ipaddress.ip_address(host).is_loopback


def test_the_file_holds_every_option_at_its_default(tmp_path: Path) -> None:
    assert app(args() | {"home": str(tmp_path)})
    plain = {k: list(v) if isinstance(v, list) else v for k, v in args().items()}
    defaults = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(ServeConfig()).items()}
    assert plain == {k: defaults[k] for k in plain}
    commented = set(re.findall(r"^ +# (\w+): ", FILE.read_text(), re.M))
    assert set(plain) | commented == KEYS


def test_every_option_is_documented() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    section = page.partition("## The Serve configuration")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == KEYS


def test_the_configuration_has_no_place_for_a_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key `token`") as caught:
        app({"home": str(tmp_path), "token": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_the_file_runs_no_experiment_and_names_a_deployment_that_takes_one(tmp_path: Path) -> None:
    (application,) = yaml.safe_load(FILE.read_text())["applications"]
    (deployment,) = application["deployments"]
    assert deployment["name"] == app(args() | {"home": str(tmp_path)})._bound_deployment.name
    assert experiment_of(deployment["user_config"]) is None

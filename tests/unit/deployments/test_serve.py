"""The Serve part of each manifest is deployments/prerank.yaml, but for what is declared here."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from tests.manifests import KUBERAY, ROOT, documents

from prerank.core.settings import typed
from prerank.serving.config import ServeConfig

COMPOSED = ROOT / "deployments" / "compose" / "serve.yaml"
DIFFERENT: dict[str, dict[str, Any]] = {
    "compose": {
        # Of the container; compose.yaml publishes it on loopback, and a token is asked for.
        "host": "0.0.0.0",
        "log_share": 1.0,
        "log_format": "json",
        "allowed_hosts": ("ray",),
    },
    "kuberay": {
        "proxy_location": "EveryNode",
        "host": "0.0.0.0",
        "token_file": "/etc/prerank/token",
        "log_share": 1.0,
        "log_format": "json",
        "replicas": 2,
        "allowed_hosts": (
            "prerank-serve-svc",
            "prerank-serve-svc.prerank",
            "prerank-serve-svc.prerank.svc",
        ),
    },
}
"""What a manifest changes of prerank.yaml: a difference that is not here is an error."""


def service() -> dict[str, Any]:
    (found,) = documents(KUBERAY / "base" / "rayservice.yaml")
    return found


def configuration(name: str) -> dict[str, Any]:
    text = COMPOSED.read_text() if name == "compose" else service()["spec"]["serveConfigV2"]
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """All of it by key, with defaults; as Serve and the application understand it."""
    assert ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    args = typed(ServeConfig, application["args"])
    # What may change while it runs begins with nothing, here as there.
    for deployment in application.pop("deployments", ()):
        assert not any(deployment["user_config"].values())
    return (
        {k: v for k, v in config.items() if k not in ("http_options", "applications")}
        | config["http_options"]
        | {f"application {k}": v for k, v in application.items() if k != "args"}
        | dataclasses.asdict(args)
    )


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_declared(name: str) -> None:
    (shipped,) = documents(ROOT / "deployments" / "prerank.yaml")
    here, there = flat(configuration(name)), flat(shipped)
    assert here.keys() == there.keys()
    assert {k: v for k, v in here.items() if v != there[k]} == DIFFERENT[name]


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_listens_beyond_loopback_asks_for_a_token(name: str) -> None:
    args = configuration(name)["applications"][0]["args"]
    (compose,) = documents(ROOT / "compose.yaml")
    given = compose["services"]["ray"]["environment"] if name == "compose" else {}
    assert "token_file" in args or "PRERANK_TOKEN" in given


def test_the_token_file_is_where_the_secret_is_mounted_for_its_group_alone() -> None:
    cluster = service()["spec"]["rayClusterConfig"]
    for template in [cluster["headGroupSpec"]["template"]] + [
        group["template"] for group in cluster["workerGroupSpecs"]
    ]:
        (mount,) = [
            m for m in template["spec"]["containers"][0]["volumeMounts"] if m["name"] == "tokens"
        ]
        (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == "tokens"]
        assert DIFFERENT["kuberay"]["token_file"] == mount["mountPath"] + "/token"
        assert volume["secret"]["defaultMode"] == 0o440


def test_the_pods_have_room_for_the_replicas_while_one_is_replaced() -> None:
    cluster = service()["spec"]["rayClusterConfig"]
    cores = sum(
        group["minReplicas"] * int(group["rayStartParams"]["num-cpus"])
        for group in cluster["workerGroupSpecs"]
    )
    assert cores > DIFFERENT["kuberay"]["replicas"]

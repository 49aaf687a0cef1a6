"""The manifests against the schemas of Compose, Kubernetes and KubeRay. No cluster is asked."""

from __future__ import annotations

import copy
import importlib.resources
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.manifests import COMPOSE, FILES, KUBERAY, ROOT, documents, objects, pods

KUBERNETES = ("1.31", "1.34")
"""The oldest one that the manifests are for, and a newer one."""
CRDS_ENV = "PRERANK_KUBERAY_CRDS"
"""A folder of KubeRay's ray-operator/config/crd/bases, which no package holds."""


def compose_schema() -> dict[str, Any]:
    folder = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    found: dict[str, Any] = json.loads((folder / "compose-spec.json").read_text())
    return found


def valid(document: dict[str, Any], version: str) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_is_yaml_that_holds_something(path: Path) -> None:
    assert all(documents(path))


def test_compose_is_what_the_specification_says() -> None:
    (compose,) = documents(COMPOSE)
    jsonschema.validate(compose, compose_schema())


def test_a_key_that_compose_does_not_know_is_found() -> None:
    (compose,) = documents(COMPOSE)
    compose["services"]["redis"]["memory_limit"] = "1g"
    with pytest.raises(jsonschema.ValidationError, match="memory_limit"):
        jsonschema.validate(compose, compose_schema())


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_is_what_kubernetes_knows(version: str) -> None:
    own = [found for found in objects() if not found["apiVersion"].startswith("ray.io/")]
    assert len(own) >= 6
    for found in own:
        valid(found, version)


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_pod_template_within_is_one_too(version: str) -> None:
    assert len(pods()) >= 6
    for template in pods().values():
        named = copy.deepcopy(template)
        named.setdefault("metadata", {})["name"] = "pod"
        valid({"apiVersion": "v1", "kind": "Pod"} | named, version)


def test_a_key_that_kubernetes_does_not_know_is_found() -> None:
    (budget,) = documents(KUBERAY / "base" / "disruption.yaml")
    budget["spec"]["maxAvailable"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxAvailable"):
        valid(budget, KUBERNETES[0])


def closed(schema: Any) -> Any:
    """The schema with unknown keys refused, as the API server drops them."""
    if isinstance(schema, dict):
        found = {key: closed(value) for key, value in schema.items()}
        open_ended = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"}
        if isinstance(found.get("properties"), dict) and not open_ended & found.keys():
            found["additionalProperties"] = False
        return found
    return [closed(value) for value in schema] if isinstance(schema, list) else schema


@pytest.mark.skipif(
    CRDS_ENV not in os.environ, reason=f"{CRDS_ENV} names no folder of KubeRay's CRDs"
)
def test_every_ray_object_is_what_kuberay_knows() -> None:
    schemas = {}
    for path in Path(os.environ[CRDS_ENV]).glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())
        for version in crd["spec"]["versions"]:
            if version["name"] == "v1":
                whole = version["schema"]["openAPIV3Schema"]
                kind = crd["spec"]["names"]["kind"]
                schemas[kind] = closed(whole["properties"]["spec"])
    (first,) = documents(KUBERAY / "first-run" / "rayjob.yaml")
    for found in objects():
        if found["apiVersion"] == "ray.io/v1":
            # As Kustomize fills it.
            job = found["spec"].get("jobTemplate", {})
            job |= {key: first["spec"][key] for key in job if job[key] == {}}
            errors = jsonschema.Draft202012Validator(schemas[found["kind"]]).iter_errors(
                found["spec"]
            )
            assert [f"{error.json_path}: {error.message}" for error in errors] == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here, which has Kustomize")
@pytest.mark.parametrize(
    ("folder", "kinds"),
    [
        (
            "base",
            {
                "ConfigMap",
                "CronJob",
                "NetworkPolicy",
                "PodDisruptionBudget",
                "RayService",
                "ServiceAccount",
            },
        ),
        ("first-run", {"RayJob"}),
        (
            "daily-on-ray",
            {
                "ConfigMap",
                "NetworkPolicy",
                "PodDisruptionBudget",
                "RayCronJob",
                "RayService",
                "ServiceAccount",
            },
        ),
    ],
)
def test_kustomize_makes_the_objects(folder: str, kinds: set[str]) -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", str(KUBERAY / folder)], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    found = list(yaml.safe_load_all(made.stdout))
    assert {one["kind"] for one in found} == kinds
    # The daily job on several nodes has the cluster of the first run.
    (first,) = documents(KUBERAY / "first-run" / "rayjob.yaml")
    for one in found:
        if one["kind"] == "RayCronJob":
            job = one["spec"]["jobTemplate"]
            assert job["rayClusterSpec"] == first["spec"]["rayClusterSpec"]
            assert job["submitterPodTemplate"] == first["spec"]["submitterPodTemplate"]

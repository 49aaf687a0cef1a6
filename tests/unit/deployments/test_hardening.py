"""What the image and the manifests keep closed: users, file systems, ports, versions, restarts."""

from __future__ import annotations

from typing import Any

import pytest
from tests.manifests import COMPOSE, documents, instructions, objects, pods


def services() -> dict[str, dict[str, Any]]:
    (compose,) = documents(COMPOSE)
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.mark.parametrize("name", services())
def test_a_service_is_published_on_loopback_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in services()[name].get("ports", ()))


@pytest.mark.parametrize("name", [n for n in services() if n != "job"])
def test_a_service_has_a_health_check_and_starts_again(name: str) -> None:
    service = services()[name]
    # Ray's is the image's own.
    assert "test" in service.get("healthcheck", {}) or name == "ray"
    assert service["restart"] == "unless-stopped"
    for needed, how in service.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}, needed


def test_ports_of_the_host_are_taken_once() -> None:
    taken = [port.split(":")[1] for s in services().values() for port in s.get("ports", ())]
    assert len(taken) == len(set(taken))


def test_every_image_of_others_is_a_version() -> None:
    for service in services().values():
        name, _, tag = service["image"].partition(":")
        assert name == "prerank" or (tag and tag != "latest"), service["image"]


def test_every_volume_is_used_and_every_named_one_is_declared() -> None:
    (compose,) = documents(COMPOSE)
    named = {
        volume.split(":")[0]
        for service in services().values()
        for volume in service.get("volumes", ())
        if not volume.startswith("./")
    }
    assert named == compose["volumes"].keys()


def test_the_image_runs_as_a_user_with_a_number_and_asks_after_its_health() -> None:
    last = instructions()[instructions().index([x for x in instructions() if "FROM" in x][-1]) :]
    assert "USER 1000:1000" in last
    assert any(line.startswith("HEALTHCHECK") for line in last)
    assert not [line for line in last if line.startswith("ARG")]


@pytest.mark.parametrize("place", pods())
def test_a_pod_has_no_rights_that_it_does_not_use(place: str) -> None:
    spec = pods()[place]["spec"]
    assert spec["serviceAccountName"] == "prerank"
    assert spec["automountServiceAccountToken"] is False
    user = spec["securityContext"]
    assert user["runAsNonRoot"] is True
    assert user["runAsUser"] == user["runAsGroup"] == user["fsGroup"] == 1000
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        # What it writes is on volumes.
        assert "/tmp" in {m["mountPath"] for m in container["volumeMounts"]}
        resources = container["resources"]
        assert resources["requests"].keys() == {"cpu", "memory"}
        assert resources["requests"]["memory"] == resources["limits"]["memory"]


@pytest.mark.parametrize("place", pods())
def test_what_a_pod_mounts_is_a_volume_of_it(place: str) -> None:
    spec = pods()[place]["spec"]
    for container in spec["containers"]:
        assert {m["name"] for m in container["volumeMounts"]} <= {
            v["name"] for v in spec["volumes"]
        }
        ports = {port["name"] for port in container.get("ports", ())}
        for probe in ("readinessProbe", "livenessProbe"):
            asked = container.get(probe, {})
            named = (asked.get("httpGet") or asked.get("tcpSocket") or {}).get("port")
            assert named is None or named in ports


def policies() -> dict[str, dict[str, Any]]:
    return {
        found["metadata"]["name"]: found["spec"]
        for found in objects()
        if found["kind"] == "NetworkPolicy"
    }


def names(selector: dict[str, Any]) -> set[str]:
    """The values of app.kubernetes.io/name that a policy is for."""
    (one,) = selector["matchExpressions"]
    assert (one["key"], one["operator"]) == ("app.kubernetes.io/name", "In")
    return set(one["values"])


def test_every_pod_is_under_a_policy_for_what_comes_and_one_for_what_goes() -> None:
    ray, jobs, goes = (policies()[f"prerank-{name}"] for name in ("ray", "jobs", "egress"))
    # KubeRay gives the label to every pod of a Ray cluster.
    assert ray["podSelector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert (ray["policyTypes"], jobs["policyTypes"]) == (["Ingress"], ["Ingress"])
    assert jobs["ingress"] == []
    assert goes["policyTypes"] == ["Egress"]
    of_ray, found = {"prerank"}, set()
    for template in pods().values():
        found.add(template["metadata"]["labels"]["app.kubernetes.io/name"])
    assert names(jobs["podSelector"]) | of_ray == found == names(goes["podSelector"])


def test_rays_ports_are_open_to_ray_the_operator_and_the_submitter_alone() -> None:
    open_to: dict[str, set[int]] = {}
    for rule in policies()["prerank-ray"]["ingress"]:
        (source,) = rule["from"]
        selector = source.get("podSelector", source.get("namespaceSelector"))
        ((key, value),) = selector["matchLabels"].items()
        ports = {port["port"] for port in rule.get("ports", ())}
        open_to[f"{key}={value}"] = ports
    assert open_to == {
        "ray.io/is-ray-node=yes": set(),  # every port
        "app.kubernetes.io/name=kuberay-operator": {8265, 8000},
        "app.kubernetes.io/name=prerank-submitter": {8265},
        "prerank.access/serve=true": {8000},
        "prerank.access/metrics=true": {8080},
    }


def test_every_ray_cluster_asks_for_a_token() -> None:
    clusters = [
        found["spec"][key]
        for found in objects()
        for key in ("rayClusterConfig", "rayClusterSpec")
        if key in found.get("spec", {})
    ]
    assert len(clusters) == 2
    assert all(cluster["authOptions"] == {"mode": "token"} for cluster in clusters)

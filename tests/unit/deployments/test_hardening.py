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


def test_every_pod_is_under_a_policy_for_what_comes_and_one_for_what_goes() -> None:
    policies = [found["spec"] for found in objects() if found["kind"] == "NetworkPolicy"]
    allowed = {kind for policy in policies for kind in policy["policyTypes"]}
    assert allowed == {"Ingress", "Egress"}
    (goes,) = [p for p in policies if p["policyTypes"] == ["Egress"]]
    (names,) = goes["podSelector"]["matchExpressions"]
    for place, template in pods().items():
        assert template["metadata"]["labels"]["app.kubernetes.io/name"] in names["values"], place


def test_every_ray_cluster_asks_for_a_token() -> None:
    clusters = [
        found["spec"][key]
        for found in objects()
        for key in ("rayClusterConfig", "rayClusterSpec")
        if key in found.get("spec", {})
    ]
    assert len(clusters) == 2
    assert all(cluster["authOptions"] == {"mode": "token"} for cluster in clusters)

"""What images and clusters are told, as tests read it: compose.yaml, Dockerfile, deployments/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "compose.yaml"
KUBERAY = ROOT / "deployments" / "kuberay"
DOCKERFILE = ROOT / "Dockerfile"
FILES = [COMPOSE, *sorted((ROOT / "deployments").rglob("*.yaml"))]
SCRIPTS = sorted((ROOT / "deployments").rglob("*.sh"))


def documents(path: Path) -> list[dict[str, Any]]:
    """Of a YAML file; Kubernetes' files may hold several."""
    return [found for found in yaml.safe_load_all(path.read_text()) if found is not None]


def objects() -> list[dict[str, Any]]:
    """Every object of Kubernetes that is applied."""
    paths = [p for p in sorted(KUBERAY.rglob("*.yaml")) if p.name != "kustomization.yaml"]
    return [found for path in paths for found in documents(path)]


def templates(node: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod templates within an object, each with its place."""
    if isinstance(node, dict):
        if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
            yield at, node
        for key, value in node.items():
            yield from templates(value, f"{at}.{key}")
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from templates(value, f"{at}[{place}]")


def pods() -> dict[str, dict[str, Any]]:
    """Every pod template, by the object's kind and name and its place in it."""
    return {
        f"{found['kind']}/{found['metadata']['name']}{at}": template
        for found in objects()
        for at, template in templates(found)
    }


def instructions() -> list[str]:
    """The Dockerfile's, one line each, without comments."""
    kept = [
        line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")
    ]
    return [line for line in re.sub(r"\\\n", " ", "\n".join(kept)).splitlines() if line]

"""Every variable, command, path and secret that the manifests and the image name is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from tests.manifests import (
    COMPOSE,
    DOCKERFILE,
    KUBERAY,
    ROOT,
    SCRIPTS,
    documents,
    instructions,
    objects,
    pods,
)

from prerank.cli import parser
from prerank.core.environment import variables
from prerank.core.home import Home

OWN = re.compile(r"(PRERANK|RAY|MLFLOW|FEAST)_")
OF_OTHERS = {
    # Of the stores' clients: docs/operations.md, "State in an object store".
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"),
    "AWS_EC2_METADATA_DISABLED",
    # Of the images that compose.yaml names.
    *("POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD", "REDISCLI_AUTH"),
    *("GF_SECURITY_ADMIN_PASSWORD", "GF_ANALYTICS_REPORTING_ENABLED", "GF_USERS_ALLOW_SIGN_UP"),
    # Of the MLflow server and of Ray.
    *("MLFLOW_BACKEND_STORE_URI", "MLFLOW_S3_ENDPOINT_URL", "RAY_AUTH_TOKEN"),
    *("PATH", "PYTHONUNBUFFERED", "PIP_NO_CACHE_DIR", "PIP_DISABLE_PIP_VERSION_CHECK"),
}
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|REDIS$|REDISCLI_AUTH|BACKEND_STORE_URI|ACCESS_KEY$")


def services() -> dict[str, dict[str, Any]]:
    (compose,) = documents(COMPOSE)
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def image_environment() -> dict[str, str]:
    """Of the image, from the Dockerfile."""
    found: dict[str, str] = {}
    for line in instructions():
        if line.startswith("ENV "):
            found |= dict(word.split("=", 1) for word in shlex.split(line)[1:])
    return found


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    yield "Dockerfile", image_environment()
    for name, service in services().items():
        yield f"compose.yaml: {name}", service.get("environment", {})
    for found in objects():
        if found["kind"] == "ConfigMap":
            yield found["metadata"]["name"], found["data"]
    for place, template in pods().items():
        for container in template["spec"]["containers"]:
            yield place, {one["name"]: one.get("value", "") for one in container.get("env", ())}


def documented() -> set[str]:
    page = (ROOT / "docs" / "operations.md").read_text()
    return set(re.findall(r"`([A-Z][A-Z_]+)`", page.partition("## State in")[0]))


def test_every_variable_is_one_that_something_reads(tmp_path: Path) -> None:
    known = documented() | variables(Home.at(tmp_path)).keys() | OF_OTHERS
    for place, environment in environments():
        assert environment.keys() <= known, place


def test_the_image_sets_what_prerank_env_sets_besides_places(
    tmp_path: Path, monkeypatch: Any
) -> None:
    for name in image_environment():
        if OWN.match(name):
            monkeypatch.delenv(name, raising=False)
    wanted = variables(Home.at(tmp_path))
    places = {"PRERANK_HOME", "PRERANK_HOME_ID", "PRERANK_URL", "MLFLOW_TRACKING_URI"}
    places |= {"RAY_DASHBOARD_ADDRESS"}
    image = image_environment()
    assert {name: image.get(name) for name in wanted.keys() - places} == {
        name: value for name, value in wanted.items() if name not in places
    }


def texts() -> Iterator[tuple[str, str]]:
    yield "Dockerfile", "\n".join(instructions())
    for path in [COMPOSE, *SCRIPTS, *KUBERAY.rglob("*.yaml"), ROOT / "docs" / "deploy.md"]:
        yield str(path.relative_to(ROOT)), path.read_text()


def commands() -> list[tuple[str, str]]:
    """Every `prerank VERB …` where a command begins, up to what ends it; `-n prerank` is a name."""
    begins = r"(?:^\s*|[;'`]\s*|entrypoint: |job \\\n\s*|job )"
    found = []
    for place, text in texts():
        for line in re.findall(rf"{begins}prerank ([a-z-][^\n`;'|)]*)", text, re.M):
            found.append((place, line.split(" #")[0].strip()))
    return found


@pytest.mark.parametrize(("place", "line"), commands())
def test_every_command_is_one_of_the_command_line(place: str, line: str) -> None:
    assert parser().parse_args(shlex.split(line.replace("…", "X"))).function, place


def test_commands_were_found_in_every_kind_of_file() -> None:
    assert {place for place, _ in commands()} >= {
        "compose.yaml",
        "deployments/kuberay/base/daily.yaml",
        "deployments/kuberay/first-run/rayjob.yaml",
        "deployments/kuberay/daily-on-ray/raycronjob.yaml",
        "docs/deploy.md",
    }


def test_the_daily_job_does_the_same_on_one_pod_and_on_a_cluster() -> None:
    (pod,) = [template for place, template in pods().items() if place.startswith("CronJob/")]
    (job,) = [found for found in objects() if found["kind"] == "RayCronJob"]
    entrypoint = shlex.split(job["spec"]["jobTemplate"]["entrypoint"])
    steps = pod["spec"]["containers"][0]["args"][0].strip().splitlines()
    assert entrypoint == ["bash", "-euc", "; ".join(steps)]


def test_every_path_of_the_checkout_is_there() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), f"{name}: {volume}"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    assert ignored[1] == "*"
    for line in instructions():
        if line.startswith("COPY ") and "--from" not in line:
            for source in shlex.split(line)[1:-1]:
                assert any(path == source or path.startswith(f"{source}/") for path in sent), source
    assert all((ROOT / path).exists() for path in sent)


def test_every_file_of_the_packages_is_installed_with_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    for root in (ROOT / "interactrank", ROOT / "platform"):
        for path in root.rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc") or "egg-info" in str(path):
                continue
            base = root.parent if root.name == "interactrank" else root
            inside = str(path.relative_to(base))
            assert any(
                fnmatch(inside, f"{package.replace('.', '/')}/{glob}")
                for package, globs in data.items()
                for glob in globs
            ), path


def test_the_image_has_the_torch_and_the_extras_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = DOCKERFILE.read_text()
    assert f'"{project["dependencies"][0]}"' in text
    (extras,) = re.findall(r'"\.\[([\w,-]+)\]"', text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert "mlflow-server" in extras


def test_a_ray_cluster_names_the_ray_that_the_image_holds() -> None:
    (pinned,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    found = re.findall(r"rayVersion: (\S+)", "".join(text for _, text in texts()))
    assert found
    assert set(found) == {pinned}


def test_no_secret_stands_in_a_file() -> None:
    for place, environment in environments():
        for name, value in environment.items():
            if SECRET.search(name) and name != "RAY_AUTH_MODE":
                assert re.search(r"\$\{[A-Z_]+:\?", str(value)), f"{place}: {name}"
    kinds = {found["kind"] for found in objects()}
    assert "Secret" not in kinds


def test_the_script_writes_every_secret_that_compose_asks_for(tmp_path: Path) -> None:
    folder = tmp_path / "deployments" / "compose"
    folder.mkdir(parents=True)
    script = folder / "secrets.sh"
    script.write_text((ROOT / "deployments" / "compose" / "secrets.sh").read_text())
    subprocess.run(["bash", str(script)], check=True, capture_output=True)
    written = tmp_path / ".env"
    assert written.stat().st_mode & 0o777 == 0o600
    values = dict(line.split("=", 1) for line in written.read_text().splitlines())
    assert set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text())) == values.keys()
    assert len(set(values.values())) == len(values)
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in values.values())
    again = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "already" in again.stderr
    assert written.read_text().count("\n") == len(values)

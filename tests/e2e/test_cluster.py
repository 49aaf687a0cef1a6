"""The README's cluster block, verbatim, on a real local cluster with a fresh HOME."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.cluster import ROOT, catalogue, configuration, live_user, prerank
from tests.documented import block, commands
from tests.serve_status import ServeStatus
from tests.small_versions import build_index

from prerank.core.home import Home
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.registration import register

UPLOAD_LIMIT = 4_000_000


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_the_block_trains_promotes_and_serves(cluster: tuple[Path, str]) -> None:
    home, log = cluster
    metrics = json.loads((home / ".prerank" / "metrics.json").read_text())["models"]
    for baseline in ("two_tower", "bm25", "popularity"):
        assert metrics["interactrank"]["mrr"] > metrics[baseline]["mrr"], baseline
    answer = json.loads(log.split("PRERANK_HOME=")[0].strip().splitlines()[-1])
    assert answer["model_version"] == "1"
    assert len(answer["items"]) == 2
    assert (home / ".prerank" / "report.html").stat().st_size > 50_000


@pytest.mark.slow
def test_the_job_upload_is_small() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    ignored = tuple(
        line
        for line in (ROOT / ".rayignore").read_text().splitlines()
        if line and not line.startswith(("#", ".")) and "*" not in line
    )
    sent = [ROOT / file for file in listed if not file.startswith(ignored)]
    assert ignored
    assert ROOT / "platform" / "train.py" in sent
    assert sum(file.stat().st_size for file in sent if file.exists()) < UPLOAD_LIMIT


@pytest.mark.slow
def test_ten_thousand_candidates_are_answered(
    cluster: tuple[Path, str], client: httpx.Client
) -> None:
    known = catalogue(cluster[0])
    candidates = known + list(range(10_000 - len(known)))
    body = {"user_id": "nobody", "query": "never seen", "candidates": candidates, "k": 10}
    answer = client.post("/v1/prerank", json=body)
    assert answer.status_code == 200
    found = answer.json()
    assert len(found["items"]) == 10
    assert found["unknown_ids"]
    scores = [item["score"] for item in found["items"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_an_event_changes_the_users_next_request(
    cluster: tuple[Path, str], client: httpx.Client
) -> None:
    body = live_user(cluster[0]) | {"explain": True}
    before = client.post("/v1/prerank", json=body).raise_for_status().json()["items"]
    last = before[-1]
    event = {
        "user_id": body["user_id"],
        "item_id": last["id"],
        "action": "save",
        "event_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    client.post("/v1/events", json={"events": [event]}).raise_for_status()
    time.sleep(1.1)
    after = client.post("/v1/prerank", json=body).raise_for_status().json()["items"]
    changed = next(item for item in after if item["id"] == last["id"])
    assert changed != last


@pytest.mark.slow
def test_the_deployment_serves_what_training_saw(cluster: tuple[Path, str]) -> None:
    """After the event above: what the journal acknowledged is part of the comparison."""
    printed = prerank(cluster[0], block("parity"))
    assert re.search(r"requests compared +100\n", printed), printed
    assert re.search(r"equal within tolerance +100\n", printed), printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        ({"query": "q", "candidates": [1], "k": 1}, "user_id"),
        ({"user_id": "u", "query": "q", "candidates": [1], "k": 0}, "k"),
        ({"user_id": "u", "query": "q", "candidates": [1, "x"], "k": 1}, "candidates"),
        ({"user_id": "u", "query": "q", "candidates": [1 << 60], "k": 1}, "candidates"),
    ],
)
def test_a_bad_request_is_told_the_field(client: httpx.Client, body: Any, field: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(
        "/v1/prerank", content=content, headers={"Content-Type": "application/json"}
    )
    assert 400 <= answer.status_code < 500
    assert field in answer.text


@pytest.mark.slow
def test_slow_uploads_stop_neither_health_nor_rankings(client: httpx.Client) -> None:
    head = b"POST /v1/prerank HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    slow = [socket.create_connection(("127.0.0.1", 8000)) for _ in range(20)]
    try:
        for upload in slow:
            upload.sendall(head)
        deadline = time.monotonic() + 8
        while client.get("/health").json()["waiting"]["scoring"] < 20:
            assert time.monotonic() < deadline, "not every upload has a place"
        assert client.get("/ready").status_code == 200
        body = {"user_id": "u", "query": "q", "candidates": [1, 2], "k": 1}
        assert client.post("/v1/prerank", json=body).status_code == 200
        # The deadline of a body is 10 s.
        slow[0].settimeout(60)
        assert b" 408 " in slow[0].recv(1000).partition(b"\r\n")[0]
    finally:
        for upload in slow:
            upload.close()


@pytest.mark.slow
def test_an_answer_has_one_request_id(client: httpx.Client) -> None:
    body = {"user_id": "u", "query": "q", "candidates": [1, 2], "k": 1}
    for headers in ({"X-Request-Id": "h7"}, {}):
        answer = client.post("/v1/prerank", json=body, headers=headers)
        ids = answer.headers.get_list("X-Request-Id")
        assert ids == [answer.json()["request_id"]]
        assert ids == [headers.get("X-Request-Id", ids[0])]
    named = client.post("/v1/prerank", json=body | {"request_id": "b7"})
    assert named.json()["request_id"] == named.headers.get_list("X-Request-Id")[0] == "b7"


@pytest.mark.slow
def test_prometheus_finds_the_metrics_under_the_names_of_the_dashboard(
    cluster: tuple[Path, str], client: httpx.Client
) -> None:
    program = "import ray; ray.init('auto'); print(ray.nodes()[0]['MetricsExportPort'])"
    port = prerank(cluster[0], f'python -c "{program}"').split()[-1]
    body = {"user_id": "u", "query": "q", "candidates": [1, 2], "k": 1}
    client.post("/v1/prerank", json=body).raise_for_status()
    event = {
        "user_id": "u",
        "item_id": catalogue(cluster[0])[0],
        "action": "save",
        "event_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    client.post("/v1/events", json={"events": [event]}).raise_for_status()
    assert client.post("/v1/prerank", json={}).status_code == 400
    board = (ROOT / "deployments" / "grafana" / "prerank.json").read_text()
    # What did not happen has no counter yet.
    wanted = set(re.findall(r"\bray_prerank_\w+", board)) - {
        "ray_prerank_degraded_total",
        "ray_prerank_non_finite_total",
        "ray_prerank_log_lost_total",
        "ray_prerank_shadow_lost_total",
        "ray_prerank_shadow_overlap_bucket",
        "ray_prerank_shadow_score_difference_bucket",
        "ray_prerank_variant_answers_total",
    }
    # That application is not deployed here.
    wanted = {name for name in wanted if not name.startswith("ray_prerank_playground_")}
    deadline = time.monotonic() + 60
    while True:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        missing = wanted - set(re.findall(r"^(ray_prerank_\w+)", text, re.MULTILINE))
        if not missing:
            break
        # Ray tells them every ten seconds.
        assert time.monotonic() < deadline, missing
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json", "Origin": "http://evil.example"}, 403),
        ({"Content-Type": "application/json", "Host": "evil.example"}, 421),
    ],
)
def test_a_web_page_cannot_report_events(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    answer = client.post("/v1/events", content=b'{"events": []}', headers=headers)
    assert answer.status_code == status, answer.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")
def test_an_alias_that_is_moved_is_followed_once_the_gate_passed_and_taken_back(
    cluster: tuple[Path, str], client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a redeploy."""
    import mlflow

    # As `prerank env` says.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    home = Home.at(cluster[0] / ".prerank")
    tracking.connect(home)
    with mlflow.start_run() as run:
        pass
    first = registry.download(home, registry.version_of("1"))
    second = register(first, run.info.run_id, {}, {})
    build_index(home, registry.download(home, second), second)
    mlflow.MlflowClient().set_registered_model_alias("prerank", registry.CHAMPION, second.number)
    wait_until(lambda: "version 2 was not put to the gate" in client.get("/ready").text)
    assert client.get("/ready").status_code == 200
    assert version_of_answer(client) == "1"
    judge, promote, rollback = commands(block("gate", **{"3": 2}))
    printed = prerank(cluster[0], judge)
    assert "gate of model version 2 against champion 1" in printed
    assert "+0.0000 [+0.0000, +0.0000]" in printed
    wait_until(lambda: version_of_answer(client) == "2")
    prerank(cluster[0], "prerank rollback --version 1")
    wait_until(lambda: version_of_answer(client) == "1")
    # Of what `prerank promote` moves, the version before is known. Nobody waits for the replicas:
    # they have followed the alias there and back.
    assert "alias champion: version 2" in prerank(cluster[0], promote)
    assert "alias champion: version 1" in prerank(cluster[0], rollback)
    wait_until(lambda: version_of_answer(client) == "1")


def version_of_answer(client: httpx.Client) -> str:
    body = {"user_id": "u", "query": "q", "candidates": [1, 2], "k": 1}
    return str(client.post("/v1/prerank", json=body).json()["model_version"])


def wait_until(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "the replicas did not follow"
        time.sleep(0.2)


@pytest.mark.slow
def test_the_experiment_of_the_guide_begins_and_ends_without_a_restart(
    cluster: tuple[Path, str], client: httpx.Client
) -> None:
    config = configuration()
    (deployment,) = config["applications"][0]["deployments"]
    page = (ROOT / "docs" / "online-tests.md").read_text()
    begin, end = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S))
    experiment = begin["deployments"][0]["user_config"]["experiment"]
    variants = experiment["variants"]
    for variant, share in zip(variants, (0.0, 1.0), strict=True):
        variant["share"] = share

    def health() -> dict[str, Any]:
        found: dict[str, Any] = client.get("/health").raise_for_status().json()
        return found

    def told() -> dict[str, Any]:
        body = {"user_id": "u", "query": "q", "candidates": [1, 2], "k": 1}
        found: dict[str, Any] = client.post("/v1/prerank", json=body).raise_for_status().json()
        return found

    with ServeStatus(cluster[0]) as serve:
        before = {process.pid for process in serve.wait_for(len(serve.replicas()))}
        deployment["user_config"] = {"experiment": experiment}
        serve.deploy(config)
        wait_until(lambda: told().get("variant") == "treatment")
        assert told()["model_version"] == "2"
        # What is wrong leaves it, and the replicas.
        deployment["user_config"] = {"experiment": {"name": "wrong", "variants": variants[:1]}}
        serve.deploy(config)
        wait_until(lambda: any("is refused; ranker-2 goes on" in n for n in health()["notes"]))
        assert health()["experiment"] == "ranker-2"
        deployment.update(end)
        own = cluster[0] / "deployments" / "prerank.yaml"
        own.parent.mkdir()
        own.write_text(yaml.safe_dump(config))
        prerank(cluster[0], block("experiment"), own.parents[1])
        wait_until(lambda: "variant" not in told())
        assert {process.pid for process in serve.replicas()} == before

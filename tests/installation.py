"""A whole installation of a test's own: MLflow, Ray and the deployment, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.cluster import ROOT, environment, stop
from tests.serve_status import ServeStatus

from prerank.core.errors import NotReadyError
from prerank.core.home import ENV, Home
from prerank.core.processes import free_port, mlflow_command
from prerank.registry import tracking
from prerank.registry.tracking import URI_ENV


class Installation:
    """Its parts can be started and stopped; ``stop`` ends all of them.

    Args:
        root: an empty folder, which becomes the HOME of its processes.
        args: of the Serve configuration, where they are not those of deployments/prerank.yaml.

    Attributes:
        home: of its state. url: of the deployment.
        variables: of the environment of its processes.
        serve: what Serve's dashboard says, once Ray was started.
    """

    serve: ServeStatus

    def __init__(self, root: Path, **args: Any) -> None:
        self.root, self.home = root, Home.at(root / ".prerank")
        self.url = f"http://127.0.0.1:{free_port()}"
        self._mlflow_port, self._dashboard_port = free_port(), free_port()
        self._mlflow: subprocess.Popen[bytes] | None = None
        self._commands = 0
        self.config = yaml.safe_load((ROOT / "deployments" / "prerank.yaml").read_text())
        self.config["http_options"]["port"] = int(self.url.rpartition(":")[2])
        self.config["applications"][0]["args"] |= args
        self.variables = {
            ENV: str(self.home.root),
            URI_ENV: f"http://127.0.0.1:{self._mlflow_port}",
        }

    def stop(self) -> None:
        """End every process of it."""
        self.stop_mlflow()
        stop(self.root)

    def start_ray(self) -> None:
        """Start a cluster, whose workers give way to nobody."""
        self.run(
            "ray start --head --num-cpus 6 --port 0 --dashboard-host 127.0.0.1 "
            f"--dashboard-port {self._dashboard_port}",
            RAY_worker_niceness="0",
        )
        self.serve = ServeStatus(self.root, f"http://127.0.0.1:{self._dashboard_port}")

    def start_mlflow(self) -> None:
        env = environment(self.root) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        command = mlflow_command(self.home, self._mlflow_port)
        with (self.root / "mlflow.log").open("a") as out:
            self._mlflow = subprocess.Popen(
                command, env=env, stdout=out, stderr=out, start_new_session=True
            )
        for _ in range(4):
            # A busy machine takes minutes to start it.
            with suppress(NotReadyError):
                return tracking.await_server(self.variables[URI_ENV])
        tracking.await_server(self.variables[URI_ENV])

    def stop_mlflow(self) -> None:
        """Kill it, with its workers."""
        if self._mlflow is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._mlflow.pid, signal.SIGKILL)
            self._mlflow.wait(20)
            self._mlflow = None

    def run(self, command: str, timeout_s: float = 900, **variables: str) -> str:
        """What a command prints, in the environment that ``prerank env`` gives."""
        # To a file and not to a pipe: what it starts may live on, and hold a pipe open.
        self._commands += 1
        log = self.root / f"command-{self._commands}.log"
        with log.open("w") as out:
            done = subprocess.run(
                ["bash", "-c", f'source .venv/bin/activate; eval "$(prerank env)"; {command}'],
                cwd=ROOT,
                env=environment(self.root) | self.variables | variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=timeout_s,
                check=False,
            )
        assert done.returncode == 0, f"{command}\n{log.read_text()[-6000:]}"
        return log.read_text()

    def deploy(self, **args: Any) -> None:
        """Deploy with other arguments than those of this class, where some are given."""
        config = json.loads(json.dumps(self.config))
        config["applications"][0]["args"] |= args
        self.serve.deploy(config)

    def health(self) -> dict[str, Any]:
        """Of one of the replicas."""
        try:
            found: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=10).json()
        except httpx.HTTPError as error:
            return {"notes": [str(error)]}
        return found

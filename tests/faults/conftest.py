"""One installation for all faults, which each of them finds, and leaves, as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.cluster import ROOT
from tests.faults.deployment import Deployment, installed
from tests.faults.report import Report
from tests.load import Load


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "faults"):
            # Slow as well: whoever leaves those out wants no minutes of waiting.
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.slow)
            # MLflow's and Feast's, of what each test does to them: not what is looked at here.
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    import mlflow

    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        deployment = Deployment(tmp_path_factory.mktemp("installation"))
        for name, value in deployment.variables.items():
            patch.setenv(name, value)
        with installed(deployment):
            yield deployment
    mlflow.set_tracking_uri(before)


@pytest.fixture
def deployment(installation: Deployment) -> Iterator[Deployment]:
    """Two replicas that serve the first version and lack nothing; the same afterwards."""
    installation.restore()
    yield installation
    installation.restore()


@pytest.fixture(scope="session")
def report() -> Report:
    return Report(ROOT / "build")


@pytest.fixture
def record(
    deployment: Deployment, report: Report, request: pytest.FixtureRequest
) -> Callable[..., None]:
    """Writes down what a fault cost, and sees that nothing was lost and no answer was wrong."""

    def recorded(fault: str, load: Load, **notes: float) -> None:
        lost = deployment.lost(load.acknowledged)
        path = request.path.relative_to(ROOT)
        report.add(fault, f"{path}::{request.node.originalname}", load, len(lost), **notes)
        assert lost == []
        assert load.wrong == []

    return recorded

"""Two logs that were looked at."""

from __future__ import annotations

import pytest
from tests.inspected_logs import seen, shop, touches

from prerank.ingest.inspection.look import Inspection


@pytest.fixture(scope="session")
def of_shop(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return seen(tmp_path_factory.mktemp("shop"), shop())


@pytest.fixture(scope="session")
def of_touches(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return seen(tmp_path_factory.mktemp("touches"), touches())

"""Hours in small: half of the load that the deployment can take, promotions, and events."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
from tests.faults.deployment import Deployment, until

from prerank.registry import versions as registry

SOAK_S = float(os.environ.get("SOAK", "1800"))
EVERY_S = 120.0


@pytest.mark.timeout(SOAK_S + 600)
def test_half_load_with_promotions(deployment: Deployment, record: Callable[..., None]) -> None:
    with deployment.load("capacity") as capacity:
        time.sleep(8)
    full = len(capacity.seen) / (capacity.ended - capacity.began)
    promotions = 0
    with deployment.load("soak", rate=full / 2) as load:
        ends = load.began + SOAK_S
        while (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, EVERY_S))
            if left > EVERY_S:
                promotions += 1
                registry.promote(deployment.home, deployment.versions[promotions % 2])
    record(
        f"nothing, for {SOAK_S:,.0f} s at half load with {promotions} promotions",
        load,
        full_rate=round(full, 1),
        longest_event_s=load.longest_event,
    )
    statuses = load.statuses()
    # A replica that loads a version may be late, and then refuses one that could not wait.
    assert statuses.keys() <= {200, 503}
    assert statuses[503] <= 1e-4 * len(load.seen)
    assert load.event_statuses.keys() == {200}
    assert until(lambda: not deployment.missing(load.acknowledged), 60) < 60

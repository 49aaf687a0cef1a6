"""Feature and training-set tasks hold a shard or some days, however long the log is (invariant 7).

The tasks run one after another in a process of their own, so that its peak is the peak of the
largest task. The log is the same world over and over, later each time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.simulate import simulate

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BuildHome = Callable[..., Home]
REQUESTS, DAYS, TIMES = 3_000, 20, 3
DAY_US = 86_400_000_000
GROWTH = 1.75

MEASURE = """
import json, sys
from pathlib import Path
from prerank.features import build as features
from prerank.dataset import build as training_set
from prerank.dataset import requests
from prerank.core.home import Home

def peak_mb():
    # Not getrusage: its peak survives exec and would include the parent's.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

def serial(function, tasks, name):
    return [function(task) for task in tasks]

home = Home.at(sys.argv[1])
for module in (features, training_set):
    module.ray_map = serial
features.EVENTS_PER_SHARD, requests.REQUESTS_PER_TASK = 100_000, 1_500
imported = peak_mb()
peaks = {}
features.build_features(home)
peaks["features"] = peak_mb() - imported
training_set.build_training_set(home)
peaks["training_set"] = peak_mb() - imported
print(json.dumps(peaks))
"""


def repeated(home: Home, root: Path, times: int) -> Home:
    """The log of ``home`` ``times`` over, each 20 days after the one before."""
    longer = Home.at(root)
    manifest = LogManifest.load(home)
    events = pa.concat_tables(
        pq.read_table(f, partitioning=None) for f in sorted(home.events.glob("day=*/*.parquet"))
    )
    for i in range(times):
        copy = events
        for name in ("request_time", "event_time", "known_time"):
            at = events[name].cast(pa.int64()).to_numpy() + i * DAYS * DAY_US
            field = copy.schema.get_field_index(name)
            copy = copy.set_column(field, name, pa.array(at).cast(events[name].type))
        ids = pa.array([f"{i}-{r}" for r in events["request_id"].to_pylist()])
        copy = copy.set_column(copy.schema.get_field_index("request_id"), "request_id", ids)
        day = copy["request_time"].cast(pa.int64()).to_numpy() // DAY_US
        for d in np.unique(day).tolist():
            folder = longer.events / f"day={np.datetime64(d, 'D')}"
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(copy.filter(pa.array(day == d)), folder / f"part-{i}.parquet")
    shutil.copytree(home.items.parent, longer.items.parent)
    last = pd.Timestamp(manifest.last_time) + pd.Timedelta(days=DAYS * (times - 1))
    replace(
        manifest,
        events=manifest.events * times,
        requests_per_day={
            str(np.datetime64(day) + i * DAYS): count
            for i in range(times)
            for day, count in manifest.requests_per_day.items()
        },
        last_time=last.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    ).save(longer)
    return longer


def peaks_mb(home: Home) -> dict[str, float]:
    path = os.pathsep.join((str(ROOT), str(ROOT / "platform")))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(home.root)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_peak_memory_does_not_grow_with_the_log(build_home: BuildHome, tmp_path: Path) -> None:
    simulate(tmp_path / "sim", "tiny", requests=REQUESTS, progress=False)
    log = pq.read_table(tmp_path / "sim" / "events").to_pandas()
    items = pq.read_table(tmp_path / "sim" / "items.parquet").to_pandas()
    once = build_home(tmp_path / "once", log, items, features=None)
    short = peaks_mb(repeated(once, tmp_path / "short", 1))
    long = peaks_mb(repeated(once, tmp_path / "long", TIMES))
    print(f"peak MB: {short} -> {long}")
    for step in ("features", "training_set"):
        # Over what the imports take, which would hide what grows.
        assert long[step] < GROWTH * short[step], (step, short, long)

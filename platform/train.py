"""The training job, as `ray job submit --working-dir . -- python platform/train.py …` runs it.

With --events and --items it goes the whole way from the log; without, it trains on what stands
under PRERANK_HOME. The options are those of `prerank run` and `prerank train`.
"""

import os
import sys

import ray

# The job's working directory is an uploaded copy: workers must import the same copy's packages.
ray.init(runtime_env={"env_vars": {"PYTHONPATH": "platform"}}, log_to_driver=False)

from prerank.cli import main  # noqa: E402 - only after Ray knows where the code is

if __name__ == "__main__":
    os.environ.setdefault("PRERANK_PROGRESS", "0")
    verb = "run" if any(a.startswith("--events") for a in sys.argv) else "train"
    main([verb, *sys.argv[1:]])

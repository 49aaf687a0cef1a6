"""Training requests of flagged users: as large a share of them stays as the users are trusted."""

from __future__ import annotations

import pyarrow as pa

from prerank.dataset.requests import trusted

N = 4_000
REQUESTS = pa.table(
    {
        "request_id": [f"r{n}" for n in range(3 * N)],
        "user_id": [name for name in ("good", "half", "bad") for _ in range(N)],
    }
)


def test_a_share_of_the_requests_stays() -> None:
    found = trusted(REQUESTS, {"half": 0.5, "bad": 0.0, "absent": 0.1})
    counts = {c["values"]: c["counts"] for c in found["user_id"].value_counts().to_pylist()}
    assert counts.keys() == {"good", "half"}
    assert counts["good"] == N
    assert abs(counts["half"] - N / 2) < 150
    assert found.equals(trusted(REQUESTS, {"half": 0.5, "bad": 0.0, "absent": 0.1}))


def test_without_flags_all_stay() -> None:
    assert trusted(REQUESTS, {}) is REQUESTS
    assert trusted(REQUESTS, {"good": 1.0}).equals(REQUESTS)

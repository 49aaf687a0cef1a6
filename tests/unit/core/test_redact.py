"""No password leaves the process in a message."""

from __future__ import annotations

import pytest

from prerank.core.redact import redact


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "MLflow at https://ann:s3cret@host:5000 is away",
            "MLflow at https://***@host:5000 is away",
        ),
        ("postgresql://ann:a@b@db/mlflow", "postgresql://***@db/mlflow"),
        ("redis:6379,password=s3cret,ssl=true", "redis:6379,password=***,ssl=true"),
        ('{"password": "s3cret", "db": 1}', '{"password": ***, "db": 1}'),
        ("http://127.0.0.1:5000 and a@b.c stay", "http://127.0.0.1:5000 and a@b.c stay"),
    ],
)
def test_passwords_are_hidden_by_their_form(said: str, shown: str) -> None:
    assert redact(said) == shown


def test_the_environments_own_secrets_are_hidden_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PRERANK_REDIS", "redis:6379,password=pa ss #1,db=2")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    monkeypatch.setenv("PRERANK_TOKEN", "shop rank s3cret\nops admin other1")
    assert redact("AUTH pa ss #1 failed; Bearer t0ken") == "AUTH *** failed; Bearer ***"
    assert redact("shop sent s3cret, ops other1") == "shop sent ***, ops ***"
    monkeypatch.setenv("PRERANK_TOKEN", "no token at all")
    assert redact("no token at all") == "no token at all"

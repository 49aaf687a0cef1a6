"""Which model versions may have learned from what a log held at some time."""

from __future__ import annotations

from prerank.core.home import Home
from prerank.registry import tracking
from prerank.registry.versions import MODEL_NAME, TRAINED_UNTIL, away


def versions_since(
    home: Home, first_us: int, model: str = MODEL_NAME, until: str = TRAINED_UNTIL
) -> list[str]:
    """Numbers of the versions that learned from requests later than ``first_us``, oldest first.

    A version of an earlier release does not tell until when it learned, and counts.

    Args:
        home: whose MLflow is asked, where none is named.
        first_us: microseconds since 1970.
        model: its registered name.
        until: the tag that tells until when a version of it learned.

    Raises:
        RegistryAwayError: the MLflow server does not answer.
    """
    if not tracking.is_there(home):
        return []
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    tracking.use(home)
    try:
        found = MlflowClient().search_model_versions(f"name='{model}'")
    except MlflowException as error:
        raise away("asked for its versions", error) from None
    late = [v for v in found if int(v.tags.get(until, 1 << 62)) > first_us]
    return sorted((str(v.version) for v in late), key=int)

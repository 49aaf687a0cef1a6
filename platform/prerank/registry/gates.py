"""Whether a version passed the gate: tags of the model version, which the MLflow UI shows.

``gate_judged`` binds the result to what was judged. It is a digest of the result, of the version
and of its files' digests: tags that were copied from another version, changed by hand or written
by half do not fit it, and count as none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prerank.core.errors import StateError
from prerank.core.times import iso
from prerank.registry.bundle import DIGEST, Version
from prerank.registry.golden import GOLDEN_DIGEST
from prerank.registry.versions import MODEL_NAME, away

RESULT, REASON, AT, JUDGED = "gate", "gate_reason", "gate_at", "gate_judged"
AGAINST = "gate_champion"
"""Tag: number of the version that was the champion then."""
BEFORE = "champion_before"
"""Tag: number of the version that was the champion when this one was promoted."""
PASSED, FAILED, WAIVED = "passed", "failed", "waived"
"""Values of the tag ``gate``. Waived: a person promoted it without."""
MAX_REASON = 2_000
"""Characters of a reason; MLflow allows a tag 5,000 bytes."""


@dataclass(frozen=True)
class Gate:
    """What the tags of a version say.

    Attributes:
        result: PASSED, FAILED, WAIVED or empty: never judged.
        reason: in words.
        judged: digest, see ``digest_of_judged``.
        against: number of the champion that it was compared with; empty for none.
        champion_before: number of the champion that it took the place of; empty for none, or
            where it was promoted otherwise than by ``prerank promote``.
    """

    result: str = ""
    reason: str = ""
    judged: str = ""
    against: str = ""
    champion_before: str = ""

    def is_of(self, version: Version, meta: Mapping[str, Any]) -> bool:
        """Whether this very version was judged; ``meta`` is that of its bundle."""
        return self.judged == digest_of_judged(self.result, version, meta)

    def open_to(self, version: Version, meta: Mapping[str, Any]) -> bool:
        """Whether the version may become live."""
        return self.result in (PASSED, WAIVED) and self.is_of(version, meta)

    def check(self, version: Version, meta: Mapping[str, Any]) -> None:
        """Refuse a version that may not become live.

        Raises:
            StateError: the gate failed, or the version was not judged.
        """
        if self.open_to(version, meta):
            return
        again = (
            f"Run `prerank gate --version {version}`, then promote it; or `prerank promote "
            f"--version {version} --without-gate`."
        )
        if not self.result:
            raise StateError(f"model version {version} was not put to the gate. {again}")
        if not self.is_of(version, meta):
            raise StateError(
                f"the gate tags of model version {version} ({self.result}) are not its own: they "
                f"were copied or edited. {again}"
            )
        raise StateError(f"the gate of model version {version} failed: {self.reason} {again}")


def digest_of_judged(result: str, version: Version, meta: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a result and of the version that it is about.

    Args:
        result: of the gate.
        version: that was judged.
        meta: of its bundle, which names the digests of weights and golden requests. The index may
            be built anew, and replicas ask it their golden requests again: it is not part of it.
    """
    parts = [result, version.number, version.run_id, meta.get(DIGEST), meta.get(GOLDEN_DIGEST)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_gate(version: Version) -> Gate:
    """What the tags of a registered version say.

    Raises:
        RegistryAwayError: the MLflow server does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        tags = MlflowClient().get_model_version(MODEL_NAME, version.number).tags
    except MlflowException as error:
        raise away(f"asked for the gate of version {version}", error) from None
    return Gate(*(tags.get(name, "") for name in (RESULT, REASON, JUDGED, AGAINST, BEFORE)))


def write_gate(
    version: Version,
    meta: Mapping[str, Any],
    result: str,
    reason: str,
    at_us: int,
    champion: Version | None,
) -> None:
    """Write the tags of a version; those of a former judgement are overwritten.

    Args:
        version: that is registered.
        meta: of its bundle.
        result: PASSED, FAILED or WAIVED.
        reason: in words.
        at_us: when it was judged, microseconds since 1970.
        champion: of then; None where there was none.

    Raises:
        RegistryAwayError: the MLflow server does not answer.
    """
    tags = {
        RESULT: result,
        REASON: reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 1]}…",
        AT: iso(at_us) or "",
        AGAINST: champion.number if champion else "",
        JUDGED: digest_of_judged(result, version, meta),
    }
    write_tags(version, tags, "told the gate")


def write_tags(version: Version, tags: Mapping[str, str], what: str) -> None:
    """Set tags of a registered version; ``what`` is for the error's message.

    Raises:
        RegistryAwayError: the MLflow server does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        for name, text in tags.items():
            MlflowClient().set_model_version_tag(MODEL_NAME, version.number, name, text)
    except MlflowException as error:
        raise away(f"{what} of {MODEL_NAME} version {version}", error) from None


def waive(version: Version, meta: Mapping[str, Any], at_us: int, champion: Version | None) -> None:
    """Note that a person lets a version become live without the gate, and what it had said.

    Raises:
        RegistryAwayError: the MLflow server does not answer.
    """
    before = read_gate(version)
    said = f"{before.result}: {before.reason}" if before.result else "not judged"
    write_gate(version, meta, WAIVED, f"promoted without the gate ({said})", at_us, champion)

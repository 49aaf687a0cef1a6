"""What a call can end with, besides an answer.

::

    PrerankError
    └── ClientError             a call has no answer that can be used
        ├── RefusedError        the request, its token or its address is wrong; never sent again
        ├── UnavailableError    nobody answers, or not now (503); sent again, each time in vain
        ├── DeadlineError       the time that the caller gave is over
        ├── ServerError         an internal error, or an answer that no deployment gives
        └── DegradedError       features are missing, and the caller requires them
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prerank.core.errors import NotReadyError, PrerankError


@dataclass(frozen=True)
class Problem:
    """What is wrong with a call; a deployment says it as problem details (RFC 9457).

    Attributes:
        detail: what is wrong, and the remedy.
        status: of HTTP; None where no answer came or the request was not sent.
        title: name of the status.
        field: what the detail is about, for example ``events[3].action``.
        request_id: of the request, where it has one.
    """

    detail: str
    status: int | None = None
    title: str = ""
    field: str = ""
    request_id: str | None = None

    def __str__(self) -> str:
        about = f"{self.field}: " if self.field else ""
        status = "" if self.status is None else f"{self.status} {self.title}".rstrip()
        request = "" if self.request_id is None else f"request {self.request_id}"
        known = ", ".join(filter(None, (status, request)))
        return f"{about}{self.detail}" + (f" ({known})" if known else "")


class ClientError(PrerankError):
    """A call has no answer that can be used. ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return str(self.problem)


class RefusedError(ClientError):
    """The request is wrong, or may not be made: 4xx, or what the client does not send at all."""


class UnavailableError(ClientError, NotReadyError):
    """There is no connection, or the deployment cannot answer now: each try ended so."""


class DeadlineError(ClientError):
    """The caller's time was over before the answer came."""


class ServerError(ClientError):
    """The deployment failed (500), or what answers at this address is no deployment."""


class DegradedError(ClientError):
    """The ranking was made without all features, and the caller requires them.

    Attributes:
        degraded: what is missing, as in the answer.
        answer: that was given all the same; of ``rank_many``, the list of all answers.
    """

    def __init__(self, problem: Problem, degraded: tuple[str, ...], answer: Any) -> None:
        super().__init__(problem)
        # All of them, so that the error can be sent between processes.
        self.args = (problem, degraded, answer)
        self.degraded, self.answer = degraded, answer

"""OpenTelemetry spans of requests: one per request, and one per stage below it.

They are made when the answer is there, from times that were taken anyway, and continue the caller's
trace where the request has a ``traceparent`` (W3C Trace Context). No span holds a query or a user.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers

from prerank.core.logs import Handling
from prerank.serving.stages import Stages

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINT_ENV = "OTEL_EXPORTER_OTLP_ENDPOINT"
NAME_ENV = "OTEL_SERVICE_NAME"

logger = logging.getLogger(__name__)


class Tracing:
    """Writes the spans of requests.

    Args:
        provider: of the tracer; it samples and exports.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("prerank")
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self, headers: Headers, handling: Handling, stages: Stages, begun: int, status: int
    ) -> None:
        """Write the spans of a request that is answered.

        Args:
            headers: of the request.
            handling: the request.
            stages: of it.
            begun: when it came, nanoseconds of ``time.perf_counter_ns``.
            status: of the answer.
        """
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        # Spans have times of the wall clock, whatever it did meanwhile.
        offset = time.time_ns() - time.perf_counter_ns()
        attributes: dict[str, Any] = {
            "prerank.route": handling.route,
            "prerank.request_id": handling.request_id,
            "http.response.status_code": status,
        }
        span = self._tracer.start_span(
            handling.route,
            self._propagator.extract(dict(headers)),
            SpanKind.SERVER,
            attributes,
            start_time=offset + begun,
        )
        if span.is_recording():
            below = set_span_in_context(span)
            for stage, start, end in stages.spans():
                child = self._tracer.start_span(stage, below, start_time=offset + start)
                child.end(offset + end)
            if status >= 500:
                span.set_status(StatusCode.ERROR)
        span.end()


def tracing_of_environment() -> Tracing | None:
    """Tracing to the collector that the environment names; None where it names none.

    Sampling and batching are those that OpenTelemetry reads from the environment.
    """
    if not os.environ.get(ENDPOINT_ENV):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning(
            "%s is set, and no spans are written: %s. Install interactrank-platform[otel].",
            ENDPOINT_ENV,
            error,
        )
        return None
    name = os.environ.get(NAME_ENV, "prerank")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)

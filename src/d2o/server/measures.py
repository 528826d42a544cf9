"""What is known of every answer: the id of its request, a line of the log, and what is counted for Prometheus."""

import logging
import re
import secrets
import time
from contextvars import ContextVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = ContextVar("request_id", default="-")
"""The id of the request that is being answered."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Measures:
    """Counters of one server; every server has its own, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("d2o_requests", "Answers, by status.", ["status"], registry=own)
        self.images = Counter("d2o_images", "Images made.", registry=own)
        self.request = Histogram("d2o_request_seconds", "From request to response.", buckets=SECONDS, registry=own)
        self.batch = Histogram("d2o_batch_images", "Images made together.", buckets=SIZES, registry=own)
        self.network = Histogram("d2o_batch_seconds", "Making one batch.", buckets=SECONDS, registry=own)
        self.waiting = Gauge("d2o_waiting_images", "Images requested and not yet answered.", registry=own)

    def count_batch(self, size: int, seconds: float) -> None:
        self.images.inc(size)
        self.batch.observe(size)
        self.network.observe(seconds)


def record_answers(app: ASGIApp, measures: Measures, access_log: bool = False) -> ASGIApp:
    """Give every answer the id of its request, or a new one, and record it (ASGI middleware).

    Status and time to its beginning are counted, but for answers about the server itself, and on request logged.
    """
    log = logging.getLogger("d2o")

    async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        began, given = time.perf_counter(), Headers(scope=scope).get("x-request-id", "")
        request_id = given if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", given) else secrets.token_hex(8)
        REQUEST_ID.set(request_id)

        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
                status, seconds = message["status"], time.perf_counter() - began
                if scope["path"] not in ("/health", "/metrics"):
                    measures.requests.labels(status).inc()
                    measures.request.observe(seconds)
                if access_log:
                    client, now = (scope.get("client") or "-")[0], time.strftime("%Y-%m-%dT%H:%M:%S%z")
                    target = (scope["raw_path"] + b"?" * bool(scope["query_string"]) + scope["query_string"]).decode()
                    log.info(f"{now} {client} {scope['method']} {target} {status} {1000 * seconds:.1f} ms {request_id}")
            await send(message)

        try:
            await app(scope, receive, record)
        except Exception as error:  # the server shows where
            log.error("Request %s failed: %s", request_id, type(error).__name__)
            raise

    return recorded

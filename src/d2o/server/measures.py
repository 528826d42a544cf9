"""What is counted while serving, for Prometheus."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Measures:
    """Counters of one server; every server has its own, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("d2o_requests", "Answers, by status.", ["status"], registry=own)
        self.images = Counter("d2o_images", "Images made.", registry=own)
        self.request = Histogram("d2o_request_seconds", "From a request to its answer.", buckets=SECONDS, registry=own)
        self.batch = Histogram("d2o_batch_images", "Images that were made together.", buckets=SIZES, registry=own)
        self.network = Histogram("d2o_batch_seconds", "Making one batch.", buckets=SECONDS, registry=own)
        self.waiting = Gauge("d2o_waiting_images", "Images in the queue.", registry=own)

    def count_batch(self, size: int, seconds: float) -> None:
        self.images.inc(size)
        self.batch.observe(size)
        self.network.observe(seconds)


def count_answers(app: ASGIApp, measures: Measures) -> ASGIApp:
    """Count an application's answers and the time to their beginning, but for those about itself (ASGI middleware)."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["path"] not in ("/health", "/metrics"):
                measures.requests.labels(message["status"]).inc()
                measures.request.observe(time.perf_counter() - began)
            await send(message)

        await app(scope, receive, count)

    return counted

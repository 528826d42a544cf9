"""What is counted while serving, in the text form that Prometheus reads."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Measures:
    """Counters of one server; every server has its own, so that several can live in one process."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("d2o_requests", "Answers, by status.", ["status"], registry=own)
        self.images = Counter("d2o_images", "Images made.", registry=own)
        self.request = Histogram("d2o_request_seconds", "From a request to its answer.", buckets=SECONDS, registry=own)
        self.batch = Histogram("d2o_batch_images", "Images that were made together.", buckets=SIZES, registry=own)
        self.network = Histogram("d2o_batch_seconds", "Making one batch.", buckets=SECONDS, registry=own)
        Gauge("d2o_waiting_images", "Images in the queue.", registry=own).set_function(waiting)

    def made(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.images.inc(size)
        self.batch.observe(size)
        self.network.observe(seconds)

    def text(self) -> bytes:
        """Return all counters as text."""
        return generate_latest(self.registry)

"""What a server counts, for Prometheus; one registry per server, so that tests may have many."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Names end in their units; labels have few values, never an id."""

    def __init__(self) -> None:
        self._of_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "bbqrec_requests_total",
            "Requests answered, by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "bbqrec_request_seconds",
            "From a request's first byte to its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "bbqrec_requests_in_flight", "Requests being handled.", registry=self.registry
        )
        self.batch = Histogram(
            "bbqrec_batch_histories",
            "Histories answered by one model call.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.waiting = Gauge(
            "bbqrec_waiting_histories", "Histories waiting for the model.", registry=self.registry
        )
        self.lag = Gauge(
            "bbqrec_event_loop_lag_seconds",
            "How late the event loop came to what was due.",
            registry=self.registry,
        )
        self.cached = Counter(
            "bbqrec_answers_total",
            "Answers, by whether they were computed or remembered.",
            ("source",),
            registry=self.registry,
        )
        self.events = Counter("bbqrec_events_total", "Interactions stored.", registry=self.registry)
        self.store_failures = Counter(
            "bbqrec_store_failures_total",
            "Times the event store could not be read or written.",
            registry=self.registry,
        )
        self.swaps = Counter(
            "bbqrec_swaps_total",
            "Attempts to swap the run, by what came of them.",
            ("result",),
            registry=self.registry,
        )
        self.version = Gauge(
            "bbqrec_model_info",
            "1 for the version that answers.",
            ("model_version",),
            registry=self.registry,
        )

    def count(self, route: str, status: int, seconds: float) -> None:
        """A request that was answered."""
        found = self._of_route.get((route, status))
        if found is None:
            found = self.requests.labels(route, status), self.seconds.labels(route)
            self._of_route[route, status] = found
        found[0].inc()
        found[1].observe(seconds)

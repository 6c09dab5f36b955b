"""What Prometheus reads of a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fastbert_kernels.engine.pool import Step

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TOKENS = tuple(2**power for power in range(4, 15))
_SAMPLES = tuple(2**power for power in range(11))
_UNCERTAINTY = tuple(number / 20 for number in range(1, 21))


class Metrics:
    """The measures of one server, in a registry of its own."""

    def __init__(self, depth: int) -> None:
        """
        Args:
            depth: L of the model.
        """
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "fastbert_requests", "Requests by endpoint and status", ["endpoint", "status"], registry=registry
        )
        self.failures = Counter("fastbert_failures", "Requests without an answer by kind", ["kind"], registry=registry)
        self.request_seconds = Histogram(
            "fastbert_request_seconds",
            "Time from a request's head to the end of its answer",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "fastbert_stage_seconds",
            "Time of a request's texts in a stage: tokenise (with the wait for a thread), pool",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.texts = Counter("fastbert_texts", "Texts that were answered", registry=registry)
        self.tokens = Counter("fastbert_tokens", "Tokens of the texts that were let into the pool", registry=registry)
        self.cancelled = Counter("fastbert_cancelled", "Requests whose client left first", registry=registry)
        self.exit_layer = Histogram(
            "fastbert_exit_layer",
            "Layers that ran for a text",
            buckets=tuple(range(1, depth + 1)),
            registry=registry,
        )
        self.uncertainty = Histogram(
            "fastbert_uncertainty", "Uncertainty of an answer", buckets=_UNCERTAINTY, registry=registry
        )
        self._step_tokens = Histogram(
            "fastbert_step_tokens", "Tokens of a batch that ran a layer", buckets=_TOKENS, registry=registry
        )
        self._step_samples = Histogram(
            "fastbert_step_samples", "Texts of a batch that ran a layer", buckets=_SAMPLES, registry=registry
        )
        self._step_seconds = Histogram(
            "fastbert_step_seconds", "Time of a batch in the layers that it ran", buckets=_SECONDS, registry=registry
        )
        self._in_flight = {
            name: Gauge(f"fastbert_in_flight_{name}", f"{name.capitalize()} in the pool", registry=registry)
            for name in ("texts", "tokens")
        }

    def watch_pool(self, in_flight: Callable[[], tuple[int, int]]) -> None:
        """Show a pool's texts and tokens in flight.

        Args:
            in_flight: returns both.
        """
        self._in_flight["texts"].set_function(lambda: in_flight()[0])
        self._in_flight["tokens"].set_function(lambda: in_flight()[1])

    def step(self, step: Step) -> None:
        """Take note of a step of the pool."""
        self._step_tokens.observe(step.tokens)
        self._step_samples.observe(step.samples)
        self._step_seconds.observe(step.seconds)

    def answered(self, exit_layers: Sequence[int], uncertainties: Sequence[float]) -> None:
        """Take note of the answers of a request."""
        self.texts.inc(len(exit_layers))
        for layer, uncertainty in zip(exit_layers, uncertainties, strict=True):
            self.exit_layer.observe(layer)
            self.uncertainty.observe(uncertainty)

    def page(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)

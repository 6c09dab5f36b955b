"""What Prometheus reads of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fastbert_hf.audit import Audit, AuditReport
from fastbert_kernels.engine.pool import Step
from fastbert_serving.load import LoadController

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
            "Time of a request's texts in a stage: wait (for a thread that tokenises), tokenise, pool",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.texts = Counter("fastbert_texts", "Texts that were answered", registry=registry)
        self.tokens = Counter("fastbert_tokens", "Tokens of the texts that were let into the pool", registry=registry)
        self._by_setting = Counter(
            "fastbert_texts_by_setting",
            "Texts that left by a setting: calibrated (the model's own), fast (the one for times of load)",
            ["setting"],
            registry=registry,
        )
        self.audit_skipped = Counter(
            "fastbert_audit_skipped",
            "Texts that were drawn for the audit, but not compared since there was no room for them",
            registry=registry,
        )
        self.cancelled = Counter("fastbert_cancelled", "Requests whose client left first", registry=registry)
        self.exit_layer = Histogram(
            "fastbert_exit_layer",
            "Layers that ran for a text",
            buckets=tuple(range(depth + 1)),  # 0 of those that exit zero answered
            registry=registry,
        )
        self.uncertainty = Histogram(
            "fastbert_uncertainty", "Uncertainty of an answer", buckets=_UNCERTAINTY, registry=registry
        )
        self._step_tokens = Histogram(
            "fastbert_step_tokens", "Tokens of a step of the pool", buckets=_TOKENS, registry=registry
        )
        self._step_samples = Histogram(
            "fastbert_step_samples", "Texts of a step of the pool", buckets=_SAMPLES, registry=registry
        )
        self._step_seconds = Histogram(
            "fastbert_step_seconds",
            "Time of a step: its layers, and the embedding of texts whose first one it is",
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_flight = {
            name: Gauge(f"fastbert_in_flight_{name}", f"{name.capitalize()} in the pool", registry=registry)
            for name in ("texts", "tokens")
        }

    def watch(
        self, in_flight: Callable[[], tuple[int, int]], audits: Mapping[str, Audit], load: LoadController | None
    ) -> None:
        """Show what is read when Prometheus asks.

        Args:
            in_flight: returns texts and tokens in the pool.
            audits: by the name of their setting.
            load: `None`: speed does not follow it.
        """
        self._in_flight["texts"].set_function(lambda: in_flight()[0])
        self._in_flight["tokens"].set_function(lambda: in_flight()[1])
        self._registry.register(_Audits(audits))
        if load is not None:
            self._registry.register(_Load(load))

    def step(self, step: Step) -> None:
        """Take note of a step of the pool."""
        self._step_tokens.observe(step.tokens)
        self._step_samples.observe(step.samples)
        self._step_seconds.observe(step.seconds)

    def answered(self, exit_layers: Sequence[int], uncertainties: Sequence[float], setting: str | None) -> None:
        """Take note of the answers of a request.

        Args:
            exit_layers: of its texts.
            uncertainties: the same; none of scores.
            setting: by which they left; None: as the request said, or at full depth.
        """
        self.texts.inc(len(exit_layers))
        if setting is not None:
            self._by_setting.labels(setting).inc(len(exit_layers))
        for layer in exit_layers:
            self.exit_layer.observe(layer)
        for uncertainty in uncertainties:
            self.uncertainty.observe(uncertainty)

    def page(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)


class _Load(Collector):
    """What speed follows."""

    def __init__(self, load: LoadController) -> None:
        self._load = load

    def collect(self) -> Iterator[Metric]:
        load, look = self._load, self._load.look()
        yield GaugeMetricFamily(
            "fastbert_predicted_p99_seconds",
            "p99 of the time to an answer of a text that comes now",
            look.predicted_p99,
        )
        yield GaugeMetricFamily(
            "fastbert_target_p99_seconds", "Above which new texts get the fast setting", load.target
        )
        yield GaugeMetricFamily("fastbert_fast_setting", "1 while new texts get the fast setting", look.fast)
        yield CounterMetricFamily(
            "fastbert_setting_changes", "How often the setting of new texts has changed", look.changes
        )


class _Audits(Collector):
    """What audits have seen, by the setting that they audit."""

    def __init__(self, audits: Mapping[str, Audit]) -> None:
        self._audits = audits

    def collect(self) -> Iterator[Metric]:
        reports = {name: audit.report() for name, audit in self._audits.items()}
        if not reports:
            return
        counts: tuple[tuple[str, str, Callable[[AuditReport], int]], ...] = (
            ("texts", "Texts that were answered by the setting", lambda report: report.texts),
            ("audited", "Texts of them that ran to full depth as well", lambda report: report.audited),
            ("disagreements", "Texts of those that got another answer there", lambda report: report.disagreements),
        )
        for name, words, count in counts:
            counter = CounterMetricFamily(f"fastbert_audit_{name}", words, labels=["setting"])
            for setting, report in reports.items():
                counter.add_metric([setting], count(report))
            yield counter
        values: tuple[tuple[str, str, Callable[[AuditReport], float | None]], ...] = (
            (
                "disagreement_low",
                "Share of all texts that full depth answers otherwise, at least, at all times at once",
                lambda report: report.disagreement_interval[0],
            ),
            (
                "disagreement_high",
                "Share of all texts that full depth answers otherwise, at most, at all times at once",
                lambda report: report.disagreement_interval[1],
            ),
            ("promised", "Share that the calibration promised at most", lambda report: report.promised),
            (
                "promise_broken",
                "1 when more answers differ than promised, beyond chance",
                lambda report: report.promise_broken,
            ),
            (
                "shifted",
                "1 when texts leave at other layers than in the calibration, beyond chance",
                lambda report: report.shift is not None,
            ),
            (
                "total_variation",
                "Difference between the exit layers of the texts and those of the calibration, from 0 to 1",
                lambda report: report.total_variation,
            ),
        )
        for name, words, value in values:
            gauge = GaugeMetricFamily(f"fastbert_audit_{name}", words, labels=["setting"])
            for setting, report in reports.items():
                found = value(report)
                if found is not None:
                    gauge.add_metric([setting], found)
            yield gauge

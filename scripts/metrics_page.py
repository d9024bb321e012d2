"""docs/reference/metrics.md: every metric of the operators and of the server, made from the objects that count them."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from typing_extensions import override

from inference_server.engines.engine import Engine
from inference_server.limits import Admission
from inference_server.metrics import Metrics as ServerMetrics
from kaito_operator.gpu_provisioner.lives import Lives
from kaito_operator.gpu_provisioner.measured import CloudMetrics
from kaito_operator.metrics import Metrics as OperatorMetrics

PAGE = Path(__file__).parent.parent / "docs/reference/metrics.md"
INTRODUCTION = """# Metrics

Made from the code by `make reference`. Histograms have `_bucket`, `_sum` and `_count`. The charts bring a Service, a
ServiceMonitor and a Grafana dashboard (`metrics.service`, `serviceMonitor.enabled`, `grafanaDashboard.enabled`).

"""
PROCESS = """
Beside them the usual ones of the process: `process_cpu_seconds_total`, `process_resident_memory_bytes`,
`process_open_fds`, `process_start_time_seconds` and the like.
"""
OF_A_TRAINING = """
## A training

`/metrics` on port 5000 of the trainer's pod: see [Tuning](tuning.md#progress).
"""


class _Heard(CollectorRegistry):
    """A registry that remembers what was registered, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[MetricWrapperBase] = []

    @override
    def register(self, collector: Collector) -> None:
        if isinstance(collector, MetricWrapperBase):
            self.metrics.append(collector)
        super().register(collector)


def _all() -> tuple[_Heard, _Heard, _Heard]:
    """What both operators, gpu-provisioner and the server count."""
    both, cloud, server = _Heard(), _Heard(), _Heard()
    OperatorMetrics("workspace", registry=both)
    CloudMetrics(cloud)
    Lives(cloud)
    # Gauges ask the engine only when they are read, which they are not here.
    ServerMetrics(cast(Engine, None), admission=Admission(places=lambda: 1), registry=server)
    return both, cloud, server


def series() -> set[str]:
    """The name of every time series, such as a query asks for."""
    families = [family for heard in _all() for metric in heard.metrics for family in metric.describe()]
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}
    named = {f"{family.name}{suffix}" for family in families for suffix in suffixes.get(family.type, ("",))}
    return named | {family.name for family in ProcessCollector(registry=None).collect()}


def page() -> str:
    """The page."""
    both, cloud, server = _all()
    return "".join(
        (
            INTRODUCTION,
            "## Both operators\n\n`/metrics` on port 8080, under controller-runtime's names.\n\n",
            *_table(both.metrics),
            PROCESS,
            "\n## gpu-provisioner besides\n\nUnder Karpenter's names.\n\n",
            *_table(cloud.metrics),
            "\n## The inference server\n\n`/metrics` on the port of `/chat`.\n\n",
            *_table(server.metrics),
            OF_A_TRAINING,
        )
    )


def _table(metrics: list[MetricWrapperBase]) -> Iterator[str]:
    yield "| metric | kind | labels | |\n|---|---|---|---|\n"
    for metric in metrics:
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(metric._labelnames)  # describe() leaves them out
        yield f"| `{name}` | {family.type} | {labels} | {family.documentation.rstrip('.')}. |\n"

"""The text of metrics, as Prometheus reads it.

``prometheus_client`` writes the same in four times as long: it escapes each label of each sample anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from prometheus_client.core import Metric


def as_text(metrics: Iterable[Metric], is_openmetrics: bool) -> str:
    """These metrics in the text format 0.0.4 or as OpenMetrics 1.0: https://prometheus.io/docs/instrumenting/exposition_formats/

    Their names, the names of their labels and their descriptions need no escapes.
    """
    escaped, lines = cache(_escaped), list[str]()
    for metric in metrics:
        # The older format has no names for families of metrics.
        name = f"{metric.name}_total" if metric.type == "counter" and not is_openmetrics else metric.name
        lines += (f"# HELP {name} {metric.documentation}", f"# TYPE {name} {metric.type}")
        for sample in metric.samples:
            labels = ",".join([f'{label}="{escaped(value)}"' for label, value in sample.labels.items()])
            lines.append(f"{sample.name}{{{labels}}} {sample.value}" if labels else f"{sample.name} {sample.value}")
    lines += ("# EOF", "") if is_openmetrics else ("",)
    return "\n".join(lines)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

"""Which metrics the alerts and the dashboard of a backend use, and which of them a server's page has."""

from __future__ import annotations

import re

from orchestrator.backends.server_metrics import ServerMetrics

__all__ = ["missing_metrics", "used_metrics"]

_WITH_LABELS = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{")


def used_metrics(metrics: ServerMetrics) -> set[str]:
    """The names of all series in the expressions."""
    texts = [metrics.latency, metrics.failed, *(text for panel in metrics.panels for text in panel.queries.values())]
    return {name for text in texts for name in _WITH_LABELS.findall(text)}


def missing_metrics(metrics: ServerMetrics, page: str) -> set[str]:
    """Those that a page in Prometheus's format does not have a sample of."""
    exposed = {
        re.split(r"[{ ]", line, maxsplit=1)[0] for line in page.splitlines() if line and not line.startswith("#")
    }
    assert len(exposed) > 5, page
    return used_metrics(metrics) - exposed

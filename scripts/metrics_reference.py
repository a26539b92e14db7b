"""docs/reference/metrics.md, made from what a server answers: each metric with its kind, its labels and its meaning."""

import asyncio
import re

from fleetcore_api.metrics import text

from fleetcore import IoTFleetManager

_HEAD = """# Metrics

A server's metrics for Prometheus, at `/api/v1/metrics` of the operators' API, for tokens with `server:read`. Their cost
does not grow with the number of devices. [Monitor a server](../how-to/monitor.md) has alerts and a dashboard.

```console
$ curl -s --cacert $CA -H "Authorization: Bearer $TOKEN" https://127.0.0.1:8444/api/v1/metrics | head -3
# HELP fleetcore_readings_total Readings by outcome.
# TYPE fleetcore_readings_total counter
fleetcore_readings_total{outcome="stored"} 18733
```

Counters begin at 0 with the server's start, unless their meaning says otherwise.

| metric | kind | meaning |
|---|---|---|
"""
_FAMILY = re.compile(r"# HELP (\S+) (.*)\n# TYPE \S+ (\S+)")


async def _answered() -> str:
    async with IoTFleetManager() as manager:
        return await text(await manager.open())


def page() -> str:
    """The page."""
    rows = [f"| `{name}` | {kind} | {meaning} |" for name, meaning, kind in _FAMILY.findall(asyncio.run(_answered()))]
    return _HEAD + "\n".join(rows) + "\n"

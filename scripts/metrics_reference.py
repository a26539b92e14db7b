"""docs/reference/metrics.md, made from what a server answers: each metric with its kind, its labels and its meaning."""

import asyncio
import re

from fleetcore_api.metrics import text

from fleetcore import IoTFleetManager

_HEAD = """# Metrics

You watch a server with these metrics, in the format of Prometheus: `/metrics` of the operators' API gives them to
tokens with `server:read`. Their cost does not grow with the number of devices.
[Monitor a server](../how-to/monitor.md) has alerts and a dashboard.

```console
$ curl -sS --cacert ca.pem -H "Authorization: Bearer $TOKEN" https://localhost:8444/metrics | grep mirror_held
# HELP fleetcore_mirror_held Entities at a hub.
# TYPE fleetcore_mirror_held gauge
fleetcore_mirror_held{mirror="hub"} 7
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

"""Generates docs/reference/protocols.md: what a device can do over each protocol, from the table of message types."""

from fleetcore.wire import matrix
from fleetcore.wire.matrix import Cell

_TITLES = {"mqtt": "MQTT", "http": "HTTP", "coap": "CoAP", "websocket": "WebSocket"}
_HEAD = """\
# What each protocol carries

You choose the protocol of a device here: over each it does the same, with the same message types, bodies and refusals,
and the same stored result. A valve sends a reading over HTTP, and the next one over MQTT:

```console
$ curl -sS -w '%{http_code}\\n' --cacert ca.pem --cert valve-1.pem --key valve-1.key \\
    --json '{"pressure": 2.5}' https://localhost:8443/device/v1/telemetry
204
$ mosquitto_pub -h localhost -p 8883 --cafile ca.pem --cert valve-1.pem --key valve-1.key \\
    -i valve-1 -q 1 -t fleet/v1/valve-1/telemetry -m '{"pressure": 2.6}'
$ fleetcore telemetry query valve-1 pressure
time     pressure
2 s ago       2.5
1 s ago       2.6
```

A device may change the protocol at any time, also between a command and its result or in the middle of a download. The
table is written from `fleetcore/wire/matrix.py`; `tests/protocols` runs one scenario through every cell with
mosquitto's clients, curl, libcoap's client and npm's `ws`.

Topics lie below `fleet/v1/{device}/`, paths below `/device/v1/`. U: the device publishes; D: it subscribes. *Instead*
names what does the same where a protocol has no message for it. [The wire reference](wire.md) has the bodies and the
rules.
"""


def page() -> str:
    """The whole page."""
    lines = [_HEAD, "| message | " + " | ".join(_TITLES.values()) + " |", "|---" * 5 + "|"]
    lines += [
        f"| {row.title} | " + " | ".join(_cell(cells[name]) for name in _TITLES) + " |" for row, cells in matrix.rows()
    ]
    return "\n".join([*lines, ""])


def _cell(cell: Cell) -> str:
    if cell.instead:
        return f"*instead*: {cell.instead}"
    return cell.address + (" *(reserved)*" if cell.later else "")

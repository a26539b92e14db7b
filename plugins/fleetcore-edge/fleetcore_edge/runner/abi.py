"""ABI 1: the names and layouts that a function and the runner share; docs/reference/edge-abi.md is the description.

A block holds readings as columns, with alerts and commands beside them. It goes in and comes out in the same form.
Every number is little-endian. An offset counts from the first byte of its block, modulo 2^32.
"""

import struct

VERSION = 1

#: version, series, series_at, readings, index_at, time_at, value_at, alerts, alerts_at, commands, commands_at, 20 zeros
HEADER = struct.Struct("<11I20x")
#: id, device_at, device_len, metric_at, metric_len, unit_at, unit_len, 4 zeros
SERIES_ENTRY = struct.Struct("<7I4x")
#: device, metric, kind, message (each offset and length), severity, 4 zeros, value, time
ALERT_ENTRY = struct.Struct("<9I4xdq")
#: device, name, arguments as JSON (each offset and length)
COMMAND_ENTRY = struct.Struct("<6I")

SEVERITIES = ("info", "warning", "critical")

MEMORY, ABI, ALLOC, CONFIGURE, RUN, INITIALIZE = "memory", "fc_abi", "fc_alloc", "fc_configure", "fc_run", "_initialize"
#: What a module must export: name to kind and type. ``fc_configure`` and ``_initialize`` may be missing.
REQUIRED = {
    ABI: ((), ("i32",)),
    ALLOC: (("i32",), ("i32",)),
    RUN: (("i32", "i32"), ("i64",)),
}
OPTIONAL = {CONFIGURE: (("i32", "i32"), ("i32",)), INITIALIZE: ((), ())}

#: What a module may import, all of the module ``fleetcore``: name to type.
IMPORTS = {
    "log": (("i32", "i32"), ()),
    "now": ((), ("i64",)),
    "secret": (("i32", "i32", "i32", "i32"), ("i32",)),
}
IMPORT_MODULE = "fleetcore"

#: The status with which a function says that it has no memory left.
NO_MEMORY = -2

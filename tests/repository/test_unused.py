"""Code that nothing uses goes; what is used in a way that no scan can see stands here, with the reason."""

from fnmatch import fnmatchcase
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).parents[2]
SCANNED = ["fleetcore", "plugins", "connectors", "tests", "benchmarks", "examples", "scripts"]
#: Pattern of `path:name` to why it stays.
KEPT = {
    "fleetcore/calls/*": "the table of calls and its answers: @call registers a function, JSON has the members",
    "fleetcore/cli/*": "commands that click registers, and methods that it calls",
    "fleetcore/query/parse.py:*": "Lark calls a method for each rule of the grammar",
    "*:fleetcore_*": "pluggy calls hooks by their names",
    "connectors/fleetcore-aws/fleetcore_aws/testing/hub.py:do_*": "called by the name of AWS's operation",
    "*/testing/*": "the kit, for tests of other packages",
    "fleetcore/testing/*": "the kit, for tests of other packages",
    "plugins/*/cli.py:*": "commands that click registers",
    "plugins/fleetcore-edge/fleetcore_edge/runner/engine.py:*": "settings of wasmtime's engine",
    "plugins/fleetcore-mqtt/fleetcore_mqtt/packets.py:*": "the table of MQTT's packet types, codes and properties",
    "plugins/fleetcore-coap/fleetcore_coap/codec.py:*": "the table of CoAP's options",
    "plugins/fleetcore-coap/fleetcore_coap/records.py:*": "the table of TLS record types",
    "plugins/fleetcore-coap/fleetcore_coap/oscore/security.py:*": "attributes that aiocoap reads",
    "fleetcore/wire/messages.py:*": "members and types of the wire, which devices see",
    "*:on_*": "callbacks that paho calls",
    "*:connect_timeout": "set on a client of paho",
    "*:*ExpiryInterval": "properties of paho's packets",
    "*config.py:*": "keys of fleet.toml, read by their names",
    "*:created_by": "stored, and answered by name",
    "fleetcore/model/firmware.py:compressed_size": "stored, and answered by name",
    "fleetcore/model/firmware.py:sbom_*": "stored, and answered by name",
    "*:decided_by": "stored, and answered by name",
    "*:rolls_back": "stored, and answered by name",
    "fleetcore/fleet/security/rotation.py:dependents_on_new": "answered by name",
    "fleetcore/model/telemetry.py:CLOCK_SUSPECT": "a flag of stored readings",
    "fleetcore/builtin/sqlite/artifacts.py:_TemporaryFileWrapper": "in an annotation that is a text",
    "plugins/fleetcore-coap/fleetcore_coap/app_state.py:Waking": "in an annotation that is a text",
    "fleetcore/interfaces/cloud.py:return": "a yield behind it makes an empty generator",
    "fleetcore/interfaces/__init__.py:__*": "Python looks these up on the module",
    "fleetcore/views.py:to_*": "for scripts that have pandas or pyarrow",
    "plugins/fleetcore-api/fleetcore_api/timed.py:send_400_response": "uvicorn calls it",
    "plugins/fleetcore-http/fleetcore_http/connection.py:handle_error": "aiohttp calls it",
    "*:error_received": "asyncio calls it",
    "*:eof_received": "asyncio calls it",
    "plugins/fleetcore-mqtt/fleetcore_mqtt/commands.py:broker_config": "click registers it",
    "fleetcore/__init__.py:__*": "Python looks these up on the module",
    "fleetcore/runtime/abandoning.py:_log_destroy_pending": "asyncio reads it",
    "fleetcore/runtime/plugins.py:_daemonic": "threading reads it",
    "plugins/fleetcore-api/fleetcore_api/timed.py:ws_protocol_class": "uvicorn reads it",
    "connectors/fleetcore-azure/fleetcore_azure/clients.py:status_forcelist": "urllib3 reads it",
    "connectors/fleetcore-gcp/fleetcore_gcp/making.py:expiration_policy": "a field of a message of Pub/Sub",
}


def unused():
    scan = Vulture()
    scan.scavenge([str(ROOT / part) for part in SCANNED], exclude=["*/.venv/*", "*/build/*"])
    for item in scan.get_unused_code(min_confidence=60):
        path = item.filename.relative_to(ROOT).as_posix()
        if (
            "/tests/" not in f"/{path}"
            and "generated" not in path
            and path.startswith(("fleetcore", "plugins", "conn"))
        ):
            yield f"{path}:{item.name}"


def test_nothing_is_there_that_nothing_uses():
    found = sorted(set(unused()))

    assert [each for each in found if not any(fnmatchcase(each, pattern) for pattern in KEPT)] == []
    assert [pattern for pattern in KEPT if not any(fnmatchcase(each, pattern) for each in found)] == []

"""One story told through every front end: equal answers and equal refusals, no member left out of the comparison.

Every front end gets a copy of one folder, so the CA and what it has issued are equal. Secrets are made of a counter.
The key of a claim certificate comes from the TLS library, where nothing can count: of it the shape is compared.
"""

import asyncio
import contextlib
import datetime as dt
import inspect
import itertools
import json
import random
import re
import shutil
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager
from fleetcore.calls.fleet_table import core as table
from fleetcore.calls.types import to_builtins
from fleetcore.cli.exits import exit_code
from fleetcore.cli.root import run as run_command
from fleetcore.client import AsyncFleetClient, FleetClient
from fleetcore.errors import FleetError, Refused
from fleetcore.fleet import bulk_commands, commands, operations
from fleetcore.frontends.catalogue import core
from fleetcore.frontends.control import serve_control
from fleetcore.frontends.control_client import ControlClient
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.edge import Function, Resources
from fleetcore.model.message import Inbound
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.command_line import command_of, words
from fleetcore.testing.signers import IMAGE, Signers, digest
from fleetcore.wire import messages
from fleetcore.wire.identity import make_csr, make_key

ACTOR = "operator:story"
#: An image that is uploaded in parts.
PARTS = b"firmware in parts"
#: Two builds of one program.
BUILT = random.Random(1).randbytes(20_000)
REBUILT = BUILT[:9000] + b"changed" + BUILT[9000:]
SIGNERS = Signers()
#: The module of a function.
MODULE = b"\0asm\1\0\0\0"
WRONG_NAME = "b\n"

#: What depends on every commit, also on those by which the API keeps first answers, or on where the folder is: such an
#: answer is compared with the library's about the same fleet.
OF_THE_FLEET = {"get_storage", "list_audit", "verify_audit", "get_status", "watch_events"}
#: The same for what tells of new CAs: their keys are random.
OF_THE_FLEET |= {"list_cas", "get_ca_rotation", "forecast_certificates"}
#: Calls that answer the path of a file or folder: it is compared below the folder of the telling.
OF_PATHS = {"take_root_offline", "back_up"}
PASSPHRASE = "horse"


def function_of(seq):
    """The signed manifest of a function; both versions have one module."""
    contract = Function(metrics=("vibration.*",), resources=Resources(memory_mib=20 * seq), config={"band": 1})
    return SIGNERS.manifest(
        MODULE, name="filter", seq=seq, component="function.filter", models=("G-1",), function=contract
    )


class Maker:
    """A manufacturer with a CA."""

    def __init__(self, name):
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = make_key()[1]
        self.pem = self.signed(self._name, self._key, ca=True)

    def signed(self, subject, key, *, ca=False):
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), 7)
        builder = builder.not_valid_before(dt.datetime(2025, 1, 1, tzinfo=dt.UTC)).not_valid_after(
            dt.datetime(2035, 1, 1, tzinfo=dt.UTC)
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def proof(self, nonce):
        """A certificate that names the nonce."""
        return self.signed(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, nonce)]), make_key()[1])


MAKER = Maker("Maker CA")


_DAY = MovableClock().now_ms() // (24 * 3600 * 1000)
#: The command that came with the key k-1, the operation with k-3, and the plan of it.
KEYED = commands._keyed_id("pump-1", f"{ACTOR}/{_DAY}/k-1")
BULK = operations._keyed(f"{ACTOR}/{_DAY}/k-3")
_OPTIONS = {
    "lane": "light", "respond": "result", "deliver_within_s": 86_400.0, "execute_within_s": 86_400.0,
    "result_within_s": 90_000.0, "supersede": None, "precondition": None,
}  # fmt: skip
PLAN = bulk_commands._digest(["pump-1", "pump-2"], {"name": "blink", "args": {"times": 3}, "options": _OPTIONS})


# What is known only once something was made: the story asks for it when it is there.


async def enrollment_token(security):
    """The id of the first enrolment token."""
    return (await security.enrollment_token_records.page(limit=1)).items[0].id


async def proof(security):
    """What proves the CA of the maker."""
    return MAKER.proof((await security.manufacturers.records.need("maker")).nonce)


async def asking(security):
    """The key of asks-1."""
    return (await security.enrollments())[0].id


async def asking_in_capitals(security):
    """The same, with the fingerprint as many devices show it."""
    device, _, fingerprint = (await asking(security)).partition(":")
    return f"{device}:{':'.join(re.findall('..', fingerprint.upper()))}"


async def certificate(security):
    """The certificate of certified-1."""
    return (await security.inventory("certified-1"))[0].id


async def serial(security):
    """The same, by its serial alone."""
    return (await security.inventory("certified-1"))[0].serial


async def certificate_pem(security):
    """The certificate of certified-1, PEM."""
    return (await security.inventory("certified-1"))[0].pem


async def first_ca(security):
    """The issuing CA that the fleet began with."""
    return security.authority.trust.issuing[0].id


async def second_ca(security):
    """The issuing CA before the one that signs."""
    return security.authority.trust.issuing[-2].id


async def signing_ca(security):
    """The issuing CA that signs."""
    return security.authority.issuer


async def issuing_key(security):
    """A key that is not a root's."""
    return (security.folder.path / "issuing.key").read_text()


async def root_file(folder):
    """Where the root's key goes."""
    return str(folder.parent / "root.key")


async def root_key(folder):
    """The root's key, encrypted."""
    return (folder.parent / "root.key").read_text()


async def backup_folder(folder):
    """Where the backup goes."""
    return str(folder.parent / "backup")


async def renewals(manager):
    """The plan of the renewal below."""
    return (await manager.plan_renewals(outdated=True, waves=["1", "50%"])).plan


async def operation(manager):
    """The newest operation."""
    return (await manager.list_operations(limit=1))[0].id


async def letter(manager):
    """The oldest refused message that is kept."""
    return (await manager.list_dead_letters(limit=1))[0].number


#: What is asked, in order: the call, and what is given. Each call of the table is in it.
STORY = [
    ("create_device", {"id": "pump-1", "type": "pump", "tags": ["wet", "old"], "attributes": {"floor": 3, "at": "x"}}),
    ("create_device", {"id": "pump-2", "type": "pump", "location": {"lat": 1.5, "lon": 2.5}, "reason": "new"}),
    ("create_device", {"id": "th-1", "type": "thermometer", "model": "T-1"}),
    ("create_device", {"id": "th-1", "type": "thermometer"}),
    ("create_device", {"id": WRONG_NAME, "type": "thermometer"}),
    ("create_device", {"id": "th-2", "type": "thermometer", "location": {"lat": 91, "lon": 0}}),
    ("create_device", {"id": "th-2", "type": "thermometer", "gateway": "nobody"}),
    ("create_device", {"id": "th-2", "type": "thermometer", "key_id": "not hex"}),
    ("list_devices", {}),
    ("list_devices", {"type": "pump", "tag": "wet"}),
    ("list_devices", {"where": "attributes.floor > 2"}),
    ("list_devices", {"where": "attributes.floor >"}),
    ("get_device", {"device_id": "pump-2"}),
    ("get_device", {"device_id": "nobody"}),
    ("update_device", {"device_id": "th-1", "name": "by the door", "tags": ["dry"]}),
    ("update_device", {"device_id": "th-1", "name": "late", "if_version": 1}),
    ("update_device", {"device_id": "th-1", "tags": [WRONG_NAME]}),
    ("get_location", {"device_id": "pump-2"}),
    ("get_location", {"device_id": "th-1"}),
    ("provision_device", {"device_id": "pump-1", "configuration": {"interval": 60}}),
    ("provision_device", {"device_id": "nobody", "configuration": {}}),
    ("list_device_history", {"device_id": "th-1"}),
    ("register_gateway", {"id": "gw", "capabilities": {"cpu": 2}, "may_register": True}),
    ("attach_leaf", {"gateway_id": "gw", "device": "th-1"}),
    ("attach_leaf", {"gateway_id": "gw", "device": "nobody"}),
    ("attach_leaf", {"gateway_id": "pump-1", "device": "th-1"}),
    ("list_gateways", {}),
    ("list_gateway_usage", {}),
    ("list_leaves", {"gateway_id": "gw"}),
    ("detach_leaf", {"gateway_id": "gw", "device_id": "th-1"}),
    ("detach_leaf", {"gateway_id": "gw", "device_id": "th-1"}),
    ("get_twin", {"device_id": "pump-1"}),
    ("get_twin", {"device_id": "nobody"}),
    ("set_desired", {"device_id": "pump-1", "patch": {"light": {"on": True}, "interval": 30}, "reason": "it is dark"}),
    ("set_desired", {"device_id": "pump-1", "patch": {"light": None}, "if_version": 2}),
    ("set_desired", {"device_id": "pump-1", "patch": {"light": 1}, "if_version": 1}),
    ("set_desired", {"device_id": "pump-1", "patch": {"fleetcore": {"trust": "me"}}}),
    ("set_desired", {"device_id": "pump-1", "patch": {"$set": 1}}),
    ("set_desired", {"device_id": "nobody", "patch": {"a": 1}}),
    ("set_attributes", {"device_id": "pump-1", "patch": {"floor": None, "hall": {"row": 7}}, "reason": "moved"}),
    ("set_attributes", {"device_id": "pump-1", "patch": {"hall": {"row": 8}}, "if_version": 1}),
    ("set_attributes", {"device_id": "pump-1", "patch": {"a": "x" * 70_000}}),
    ("set_attributes", {"device_id": "nobody", "patch": {}}),
    ("list_twin_history", {"device_id": "pump-1"}),
    ("list_twin_history", {"device_id": "pump-1", "section": "reported"}),
    ("list_twin_history", {"device_id": "pump-1", "section": "imagined"}),
    ("list_twin_history", {"device_id": "nobody"}),
    ("get_past_twin", {"device_id": "pump-1", "at": "2020-01-01T00:00:00Z"}),
    ("get_past_twin", {"device_id": "pump-1", "at": 4_000_000_000_000, "section": "desired"}),
    ("get_past_twin", {"device_id": "pump-1", "at": "yesterday"}),
    ("get_past_twin", {"device_id": "pump-1", "at": 12}),
    ("get_past_twin", {"device_id": "nobody", "at": "2020-01-01T00:00:00Z"}),
    ("set_layer", {"layer": "defaults", "patch": {"interval": 300, "led": True}, "reason": "for all"}),
    ("set_layer", {"layer": "site/cold", "patch": {"led": False}, "kind": "policy", "priority": 3}),
    ("set_layer", {"layer": "defaults", "patch": {"led": None}, "if_version": 7}),
    ("set_layer", {"layer": "defaults", "patch": {"led": None}, "kind": "policy"}),
    ("set_layer", {"layer": "lab", "patch": {}, "kind": "group"}),
    ("set_layer", {"layer": "lab", "patch": {}, "kind": "group", "group": "nothing"}),
    ("set_layer", {"layer": "lab", "patch": {}, "kind": "king", "group": WRONG_NAME, "priority": 1_000_001}),
    ("set_layer", {"layer": "lab", "patch": {"fleetcore": None}}),
    ("list_layers", {}),
    ("get_layer", {"layer": "site/cold"}),
    ("get_layer", {"layer": "nothing"}),
    ("get_twin", {"device_id": "pump-1"}),
    ("remove_layer", {"layer": "site/cold", "reason": "warm now"}),
    ("remove_layer", {"layer": "site/cold"}),
    ("remove_layer", {"layer": "defaults"}),
    ("send_command", {"device_id": "pump-1", "name": "reboot", "args": {"delay_s": 5}, "lane": "power", "respond": "ack", "supersede": "restart", "precondition": "attributes.floor > 2", "idempotency_key": "k-1", "reason": "stuck"}),
    ("send_command", {"device_id": "pump-1", "name": "blink", "deliver_within_s": 10.0, "execute_within_s": 20.0, "result_within_s": 30.5, "idempotency_key": "k-2"}),
    ("send_command", {"device_id": "pump-1", "name": "reboot", "args": {"delay_s": 5}, "lane": "power", "respond": "ack", "supersede": "restart", "precondition": "attributes.floor > 2", "idempotency_key": "k-1", "reason": "stuck"}),
    ("send_command", {"device_id": "pump-1", "name": "blink", "lane": "", "respond": "never", "deliver_within_s": 0.0, "wait_s": -1.0}),
    ("send_command", {"device_id": "pump-1", "name": "blink", "precondition": "type ="}),
    ("send_command", {"device_id": "pump-1", "name": "blink", "args": {"n": 2**60}}),
    ("send_command", {"device_id": "nobody", "name": "blink"}),
    ("get_command", {"command": KEYED}),
    ("get_command", {"command": "nothing"}),
    ("list_commands", {}),
    ("list_commands", {"unfinished": True}),
    ("list_device_commands", {"device_id": "pump-1"}),
    ("list_device_commands", {"device_id": "pump-2", "unfinished": True}),
    ("list_device_commands", {"device_id": "nobody"}),
    ("cancel_command", {"command": KEYED, "reason": "it is well"}),
    ("cancel_command", {"command": KEYED}),
    ("cancel_command", {"command": "nothing"}),
    ("list_device_commands", {"device_id": "pump-1", "unfinished": True}),
    ("plan_commands", {"name": "blink", "where": "type = 'pump'"}),
    ("plan_commands", {"name": "blink", "devices": ["pump-1", "nobody"]}),
    ("plan_commands", {"name": "blink"}),
    ("plan_commands", {"name": "blink", "where": "type =", "cap": 0}),
    ("plan_commands", {"name": "blink", "where": "type ="}),
    ("send_commands", {"name": "blink", "args": {"times": 3}, "where": "type = 'pump'", "plan": PLAN, "cap": 5, "rate_per_s": 10.0, "lane": "light", "idempotency_key": "k-3", "reason": "where are they"}),
    ("send_commands", {"name": "blink", "where": "type = 'pump'", "plan": PLAN}),
    ("send_commands", {"name": "blink", "args": {"times": 3}, "where": "type = 'pump'", "plan": PLAN, "cap": 1, "lane": "light"}),
    ("send_commands", {"name": "blink", "devices": ["pump-1", WRONG_NAME], "plan": "sha256:none", "cap": 0, "rate_per_s": 0.0}),
    ("count_commands", {"operation": BULK}),
    ("count_commands", {"operation": "nothing"}),
    ("create_device", {"id": "gone", "type": "pump"}),
    ("set_lifecycle", {"device_id": "gone", "state": "retired", "reason": "broken"}),
    ("set_lifecycle", {"device_id": "gone", "state": "active"}),
    ("set_lifecycle", {"device_id": "gone", "state": "sleepy"}),
    ("erase_device", {"device_id": "gone"}),
    ("erase_device", {"device_id": "gone"}),
    ("create_group", {"id": "site/north", "description": "all of it"}),
    ("create_group", {"id": "hall", "within": ["site/north"], "reason": "moved in"}),
    ("create_group", {"id": "pumps", "query": "type = 'pump'", "within": ["site/north"]}),
    ("create_group", {"id": "hall"}),
    ("create_group", {"id": WRONG_NAME}),
    ("create_group", {"id": "cold", "query": "tags hs 'x'"}),
    ("create_group", {"id": "cold", "within": ["nowhere"]}),
    ("create_group", {"id": "cold", "within": ["hall", WRONG_NAME], "description": "x" * 1025}),
    ("list_groups", {}),
    ("get_group", {"group": "site/north"}),
    ("get_group", {"group": "nothing"}),
    ("update_group", {"group": "hall", "description": "the hall"}),
    ("update_group", {"group": "hall", "description": "late", "if_version": 1}),
    ("update_group", {"group": "nothing", "description": "x"}),
    ("add_to_group", {"group": "hall", "devices": ["th-1", "pump-1"]}),
    ("add_to_group", {"group": "hall", "devices": ["th-1", "nobody"]}),
    ("add_to_group", {"group": "hall", "devices": ["th-1", WRONG_NAME]}),
    ("add_to_group", {"group": "pumps", "devices": ["th-1"]}),
    ("list_group_members", {"group": "site/north"}),
    ("list_device_groups", {"device_id": "pump-1"}),
    ("list_device_groups", {"device_id": "nobody"}),
    ("get_group_health", {"group": "site/north"}),
    ("get_fleet_health", {}),
    ("get_overview", {}),
    ("get_overview", {"where": "type = 'meter'", "order": "alerts", "limit": 3}),
    ("get_overview", {"where": "type =", "limit": 101}),
    ("get_device_health", {"device_id": "pump-1"}),
    ("get_device_health", {"device_id": "nobody"}),
    ("remove_from_group", {"group": "hall", "device_id": "th-1"}),
    ("remove_from_group", {"group": "hall", "device_id": "th-1"}),
    ("remove_group", {"group": "site/north"}),
    ("remove_group", {"group": "hall", "reason": "closed"}),
    ("list_groups", {}),
    ("create_token", {"principal": "ana", "roles": ["viewer"], "scope": "group:pumps", "days": 3.0, "reason": "new"}),
    ("create_token", {"principal": "ana", "days": 400.0}),
    ("create_token", {"principal": "ana", "roles": ["king"]}),
    ("create_token", {"principal": "ana", "permissions": ["devices:read", "devices:fly"]}),
    ("create_token", {"principal": "ana", "roles": ["viewer"], "scope": "type ="}),
    ("list_tokens", {}),
    ("get_token", {"token_id": "none"}),
    ("revoke_token", {"token_id": "none"}),
    ("grant_role", {"principal": "bob", "role": "operator", "reason": "his place"}),
    ("grant_role", {"principal": "bob", "role": "king"}),
    ("list_roles", {"principal": "bob"}),
    ("list_roles", {}),
    ("revoke_role", {"grant_id": "none"}),
    ("list_audit", {"object": "th-1"}),
    ("list_audit", {"actor": ACTOR, "after": 3}),
    ("list_audit", {"after": -1}),
    ("verify_audit", {}),
    ("verify_audit", {"checkpoints": ["x" * 2049]}),
    ("get_status", {}),
    ("list_detectors", {}),
    ("list_notifiers", {}),
    ("list_plugins", {}),
    ("list_cas", {}),
    ("check_certificate", {"pem": certificate_pem}),
    ("check_certificate", {"pem": "none"}),
    ("check_certificate", {"pem": "x" * 32_769}),
    ("forecast_certificates", {}),
    ("forecast_certificates", {"per": "month", "periods": 3, "by": "type", "where": "type = 'meter'", "next": 1}),
    ("forecast_certificates", {"per": "year", "periods": 0, "by": "colour", "next": 1001}),
    ("forecast_certificates", {"where": "type ="}),
    ("get_revocation_lists", {}),
    ("get_ca_rotation", {}),
    ("take_root_offline", {"file": root_file, "number": 7}),
    ("take_root_offline", {"file": root_file, "passphrase": PASSPHRASE, "reason": "into the safe"}),
    ("take_root_offline", {"file": root_file}),
    ("rotate_ca", {"step": "begin"}),
    ("unlock_root_key", {"key": "none"}),
    ("unlock_root_key", {"key": issuing_key}),
    ("unlock_root_key", {"key": root_key, "passphrase": "donkey"}),
    ("unlock_root_key", {"key": root_key, "passphrase": PASSPHRASE}),
    ("rotate_ca", {"step": "begin", "reason": "it is old"}),
    ("rotate_ca", {"step": "begin"}),
    ("get_ca_rotation", {}),
    ("rotate_ca", {"step": "issue"}),
    ("rotate_ca", {"step": "retire", "threshold": 0.0}),
    ("rotate_ca", {"step": "retire", "threshold": 2.0}),
    ("rotate_ca", {"step": "burn"}),
    ("list_cas", {}),
    ("rotate_ca", {"step": "back"}),
    ("rotate_ca", {"step": "back", "force": True, "reason": "not yet"}),
    ("rotate_ca", {"step": "back"}),
    ("renew_issuing_ca", {}),
    ("unlock_root_key", {"key": root_key, "passphrase": PASSPHRASE}),
    ("renew_issuing_ca", {"reason": "half its life"}),
    ("unlock_root_key", {"key": root_key, "passphrase": PASSPHRASE}),
    ("renew_issuing_ca", {}),
    ("get_ca_incident", {"ca": first_ca}),
    ("get_ca_incident", {"ca": "nothing"}),
    ("distrust_ca", {"ca": first_ca}),
    ("distrust_ca", {"ca": signing_ca, "force": True}),
    ("distrust_ca", {"ca": second_ca, "force": True, "reason": "its key leaked"}),
    ("distrust_ca", {"ca": "nothing"}),
    ("list_cas", {}),
    ("plan_renewals", {"outdated": True, "waves": ["1", "50%"]}),
    ("plan_renewals", {"devices": ["certified-1", "asks-1"], "cap": 5}),
    ("plan_renewals", {"devices": ["nobody"]}),
    ("plan_renewals", {}),
    ("plan_renewals", {"where": "type ="}),
    ("plan_renewals", {"where": "type = 'meter'", "devices": ["asks-1"]}),
    ("plan_renewals", {"outdated": True, "waves": ["half"], "cap": 0}),
    ("renew_certificates", {"outdated": True, "waves": ["1", "50%"], "cap": 7, "rate_per_s": 10.0, "timeout_s": 60.0, "max_failed": 0.5, "plan": renewals, "reason": "a new CA"}),
    ("renew_certificates", {"outdated": True, "plan": f"sha256:{'0' * 64}"}),
    ("renew_certificates", {"outdated": True, "rate_per_s": 0.0, "timeout_s": 0.0, "max_failed": 2.0, "plan": "sha256:none"}),
    ("reissue_certificate", {"device_id": "certified-1", "timeout_s": 60.0, "reason": "its key is weak"}),
    ("reissue_certificate", {"device_id": "asks-1"}),
    ("reissue_certificate", {"device_id": "nobody"}),
    ("reissue_certificate", {"device_id": "certified-1", "timeout_s": -1.0}),
    ("wait_idle", {}),
    ("check_storage", {}),
    ("check_listeners", {}),
    ("verify_storage", {}),
    ("verify_storage", {"after": "nowhere"}),
    ("get_storage", {}),
    ("list_due_readings", {}),
    ("list_due_readings", {"days": 1.0, "metric": "he*"}),
    ("list_due_readings", {"days": 0.0, "metric": "a b"}),
    ("list_left_behind", {}),
    ("drop_left_behind", {"name": "detector/none", "reason": "it was a try"}),
    ("list_mirrors", {}),
    ("get_mirror", {"name": "hub"}),
    ("get_mirror", {"name": "no name"}),
    ("pause_mirror", {"name": "hub", "reason": "an audit"}),
    ("resume_mirror", {"name": "hub"}),
    ("pause_mirror", {"name": "hub", "entity": "twin/pump-1", "reason": "a trial"}),
    ("pause_mirror", {"name": "hub", "entity": "no entity"}),
    ("list_mirror_paused", {"name": "hub"}),
    ("resume_mirror", {"name": "hub", "entity": "twin/pump-1"}),
    ("resume_mirror", {"name": "hub", "entity": "twin/pump-1"}),
    ("resync_mirror", {"name": "hub"}),
    ("resync_mirror", {"name": "hub", "entity": "twin/pump-1"}),
    ("check_mirror", {"name": "hub"}),
    ("get_mirror_policy", {"name": "hub"}),
    ("apply_mirror", {"name": "hub"}),
    ("list_mirror_import", {"name": "hub"}),
    ("import_mirror", {"name": "hub", "type": "pump", "reason": "we move"}),
    ("allow_mirror_removals", {"name": "hub", "count": 5}),
    ("plan_cutover", {"to": "hub", "devices": ["pump-1", "nobody"]}),
    ("start_cutover", {"to": "hub", "devices": ["pump-1"]}),
    ("start_cutover", {"to": "nowhere", "devices": ["pump-1"]}),
    ("plan_cutover", {"to": "hub", "where": "type = 'pump'", "waves": ["1", "50%"]}),
    ("plan_cutover", {"to": "hub", "where": "type = 'pump'", "waves": ["0"]}),
    ("list_cutovers", {}),
    ("list_mirror_refused_commands", {"name": "hub"}),
    ("plan_mirror", {"name": "hub", "limit": 10}),
    ("list_mirror_drift", {"name": "hub", "limit": 10}),
    ("list_mirror_dead_letters", {"name": "hub"}),
    ("list_mirror_losses", {"name": "hub"}),
    ("list_mirror_refused_readings", {"name": "hub"}),
    ("drop_left_behind", {"name": "cursor"}),
    ("back_up", {"target": backup_folder}),
    ("back_up", {"target": backup_folder}),
    ("get_firmware_root", {}),
    ("list_firmware_roots", {}),
    ("set_firmware_root", {"envelope": {"payload": "x"}}),
    ("set_firmware_root", {"envelope": SIGNERS.trust(), "reason": "first"}),
    ("set_firmware_root", {"envelope": SIGNERS.trust(3)}),
    ("set_firmware_root", {"envelope": SIGNERS.trust(2)}),
    ("list_firmware_roots", {}),
    ("get_firmware_root", {}),
    ("get_firmware_root", {"number": "current"}),
    ("get_firmware_root", {"number": 1}),
    ("get_firmware_root", {"number": 7}),
    ("get_firmware_root", {"number": "newest"}),
    ("import_readings", {"content": b'{"series":[["asks-1","heat",null]],"at":[0],"time":[1764251700000],"value":[1.5]}'}),
    ("import_readings", {"content": b'{"series":[]}', "dry_run": True}),
    ("upload_artifact", {"content": IMAGE}),
    ("upload_artifact", {"content": IMAGE, "sha256": digest(IMAGE), "size": len(IMAGE)}),
    ("upload_artifact", {"content": IMAGE, "sha256": "0" * 64}),
    ("upload_artifact", {"content": IMAGE, "sha256": "no digest", "size": -1}),
    ("upload_artifact", {"content": IMAGE, "size": 5}),
    ("upload_artifact", {"content": IMAGE, "size": len(IMAGE) + 1}),
    ("get_upload", {"sha256": digest(PARTS), "size": len(PARTS)}),
    ("continue_upload", {"sha256": digest(PARTS), "size": len(PARTS), "content": PARTS[:5]}),
    ("continue_upload", {"sha256": digest(PARTS), "size": len(PARTS), "content": PARTS}),
    ("get_upload", {"sha256": digest(PARTS), "size": len(PARTS)}),
    ("get_artifact", {"sha256": digest(PARTS)}),
    ("continue_upload", {"sha256": digest(PARTS), "size": len(PARTS), "offset": 5, "content": PARTS[5:]}),
    ("get_upload", {"sha256": digest(PARTS), "size": len(PARTS)}),
    ("get_upload", {"sha256": digest(PARTS), "size": 5}),
    ("get_upload", {"sha256": "no digest", "size": -1}),
    ("continue_upload", {"sha256": "0" * 64, "size": 3, "content": b"abc"}),
    ("continue_upload", {"sha256": "0" * 64, "size": 2, "content": b"abc"}),
    ("continue_upload", {"sha256": "0" * 64, "size": 2**40, "content": b"abc"}),
    ("continue_upload", {"sha256": "no digest", "size": -1, "offset": -1, "content": b"abc"}),
    ("get_artifact", {"sha256": digest(IMAGE)}),
    ("get_artifact", {"sha256": "0" * 64}),
    ("add_release", {"manifest": SIGNERS.manifest(), "reason": "passed the lab"}),
    ("add_release", {"manifest": SIGNERS.manifest()}),
    ("add_release", {"manifest": SIGNERS.manifest(b"another image")}),
    ("add_release", {"manifest": SIGNERS.manifest(by=["stranger"])}),
    ("add_release", {"manifest": SIGNERS.manifest(seq=1, version="1.0.0")}),
    ("add_release", {"manifest": SIGNERS.manifest(seq=1, version="1.0.0"), "allow_downgrade": True}),
    ("add_release", {"manifest": {"payload": 1}}),
    ("list_releases", {}),
    ("list_releases", {"name": "thermo"}),
    ("list_releases", {"name": "x" * 65}),
    ("get_release", {"release": "thermo:2"}),
    ("get_release", {"release": "thermo:7"}),
    ("upload_artifact", {"content": MODULE}),
    ("add_release", {"manifest": function_of(1), "reason": "it filters"}),
    ("add_release", {"manifest": function_of(2)}),
    ("list_functions", {}),
    ("list_functions", {"function": "filter"}),
    ("list_functions", {"function": "nothing"}),
    ("get_function", {"function": "filter"}),
    ("get_function", {"function": "thermo:2"}),
    ("plan_placement", {"function": "filter"}),
    ("register_gateway", {"id": "gw-1", "model": "G-1", "labels": {"hall": "north"}, "cpu_percent": 100, "memory_mib": 64, "disk_mib": 8}),
    ("register_gateway", {"id": "gw-2", "model": "G-1", "labels": {"hall north": "1"}}),
    ("register_gateway", {"id": "gw-2", "model": "G-1"}),
    ("set_gateway_capacity", {"gateway_id": "gw-1", "cpu_percent": 100, "memory_mib": 40, "disk_mib": 8, "reason": "shared"}),
    ("set_gateway_capacity", {"gateway_id": "pump-1", "memory_mib": 40}),
    ("attach_leaf", {"gateway_id": "gw", "device": "gw-1"}),
    ("attach_leaf", {"gateway_id": "gw-1", "device": "gw"}),
    ("plan_placement", {"function": "filter", "where": "attributes.gateway.labels.hall = 'north'", "copies": 1}),
    ("plan_placement", {"function": "filter", "copies": 9}),
    ("deploy_function", {"function": "filter:1", "campaign": "edge-1", "gateways": ["gw-1"], "config": {"band": 2}, "waves": ["1"], "reason": "less traffic"}),
    ("deploy_function", {"function": "filter:1", "campaign": "edge-1", "gateways": ["gw-1"]}),
    ("deploy_function", {"function": "filter", "campaign": "edge-2", "gateways": ["gw-2"]}),
    ("deploy_function", {"function": "filter", "campaign": "edge-2", "gateways": ["gw-1"], "where": "type = 'gateway'"}),
    ("deploy_function", {"function": "nothing", "campaign": "edge-2"}),
    ("list_gateway_functions", {"gateway_id": "gw-1"}),
    ("list_gateway_functions", {"gateway_id": "pump-1"}),
    ("get_gateway", {"gateway_id": "gw-1"}),
    ("get_gateway", {"gateway_id": "pump-1"}),
    ("run_distributed", {"metric": "heat", "gateways": ["gw-1"], "start": 2000, "end": 1000}),
    ("run_distributed", {"metric": "heat", "gateways": ["nobody"]}),
    ("run_distributed", {"metric": "heat", "aggregates": ["p101"]}),
    ("run_distributed", {"metric": "he at"}),
    ("run_distributed", {"metric": "heat*", "gateways": ["gw-1"], "end": "2025-12-31T00:00:00Z", "bucket_s": 3600.0, "aggregates": ["count", "p99.9"], "by": "model", "within_s": 5.0, "open_s": 9.0, "reason": "the year"}),
    ("run_distributed", {"metric": "heat", "where": "type = 'no such'"}),
    ("get_distributed", {"operation": "nothing"}),
    ("undeploy_function", {"gateway_id": "gw-1", "function": "filter", "reason": "too much"}),
    ("undeploy_function", {"gateway_id": "nobody", "function": "filter"}),
    ("get_campaign", {"campaign": "edge-1"}),
    ("replace_gateway", {"gateway_id": "gw-1", "new": "gw-2", "reason": "broken"}),
    ("replace_gateway", {"gateway_id": "gw-1", "new": "gw"}),
    ("replace_gateway", {"gateway_id": "gw-1", "new": "gw-2", "retire": True}),
    ("upload_artifact", {"content": BUILT}),
    ("upload_artifact", {"content": REBUILT}),
    ("make_delta", {"base": digest(BUILT), "target": digest(REBUILT), "reason": "small"}),
    ("make_delta", {"base": digest(BUILT), "target": digest(BUILT)}),
    ("make_delta", {"base": "thermo:2", "target": "thermo:7"}),
    ("make_delta", {"base": "", "target": "x" * 200}),
    ("list_deltas", {}),
    ("update_device", {"device_id": "th-1", "model": "T-1000"}),
    ("create_campaign", {"id": "signed", "release": "2.0.0", "devices": ["th-1"], "from_release": "thermo:2"}),
    ("create_campaign", {"id": "signed-2", "release": "2.0.0", "devices": ["th-1", "pump-1"], "manifest": SIGNERS.manifest()}),
    ("create_campaign", {"id": "spring", "release": "2.0.0", "devices": ["pump-1", "pump-2"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "reason": "it is time"}),
    ("create_campaign", {"id": "spring", "release": "2.0.0", "devices": ["pump-1"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3}),
    ("create_campaign", {"id": "summer", "release": "3", "devices": ["pump-1", "nobody"], "url": "https://updates.example.com/3"}),
    ("create_campaign", {"id": "summer", "release": "3", "devices": ["pump-1"], "url": "file:///etc/passwd"}),
    ("create_campaign", {"id": "summer", "release": "3", "devices": ["pump-1"]}),
    ("create_campaign", {"id": "summer", "release": "3", "devices": ["pump-1"], "sha256": "x", "size": 2**53 + 1}),
    ("create_campaign", {"id": WRONG_NAME, "release": WRONG_NAME, "devices": [WRONG_NAME], "from_release": WRONG_NAME}),
    ("create_campaign", {"id": "summer", "release": "3", "devices": ["pump-1"], "from_release": "none:1"}),
    ("create_campaign", {"id": "summer", "release": "3", "devices": ["pump-1"], "manifest": {"payload": "x"}}),
    ("create_campaign", {"id": "summer", "release": "3", "devices": ["pump-1"], "manifest": {"payload": "x"}, "from_release": "none:1"}),
    ("list_campaigns", {}),
    ("get_campaign", {"campaign": "spring"}),
    ("get_campaign", {"campaign": "nothing"}),
    ("list_executions", {"campaign": "spring"}),
    ("list_executions", {"campaign": "nothing"}),
    ("plan_campaign", {"campaign": "spring", "fails": 0.5}),
    ("plan_campaign", {"campaign": "nothing"}),
    ("why_execution", {"campaign": "spring", "device_id": "pump-1"}),
    ("why_execution", {"campaign": "spring", "device_id": "th-1"}),
    ("why_execution", {"campaign": "nothing", "device_id": "pump-1"}),
    ("pause_campaign", {"campaign": "spring", "reason": "it is Friday"}),
    ("pause_campaign", {"campaign": "spring"}),
    ("resume_campaign", {"campaign": "spring"}),
    ("resume_campaign", {"campaign": "spring"}),
    ("resume_campaign", {"campaign": "nothing"}),
    ("create_campaign", {"id": "waves", "release": "2.0.0", "devices": ["pump-1", "pump-2"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "waves": ["1"], "max_failed": 0.1, "retries": 1, "rate_per_minute": 5}),
    ("create_campaign", {"id": "waves-2", "release": "2.0.0", "devices": ["pump-1"], "sha256": "0" * 64, "waves": ["0%"], "retries": -1}),
    ("pause_campaign", {"campaign": "nothing"}),
    ("roll_back_campaign", {"campaign": "waves"}),
    ("roll_back_campaign", {"campaign": "nothing"}),
    ("create_campaign", {"id": "waves-3", "release": "2.0.0", "devices": ["pump-1"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "on_failure": "roll_back", "max_failed": 0.5}),
    ("create_campaign", {"id": "waves-4", "release": "2.0.0", "devices": ["pump-1"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "rollback_version": "1.0.0"}),
    ("create_campaign", {"id": "waves-5", "release": "2.0.0", "devices": ["pump-1"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "rollback_to": "none:1"}),
    ("create_campaign", {"id": "gated", "release": "2.0.0", "devices": ["pump-1", "pump-2"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "gate_window_s": 60.0, "gate_metrics": ["flow"], "gate_alpha": 0.01}),
    ("create_campaign", {"id": "gated-2", "release": "2.0.0", "devices": ["pump-1"], "gate_metrics": ["flow"]}),
    ("create_campaign", {"id": "gated-3", "release": "2.0.0", "devices": ["pump-1"], "gate_window_s": 0.0, "gate_action": "nothing", "gate_alpha": 1.0}),
    ("create_campaign", {"id": "gated-4", "release": "2.0.0", "devices": ["pump-1"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "gate_window_s": 60.0, "gate_action": "roll_back"}),
    ("get_campaign_evidence", {"campaign": "gated"}),
    ("get_campaign_evidence", {"campaign": "waves"}),
    ("get_campaign_evidence", {"campaign": "nothing"}),
    ("create_campaign", {"id": "by-query", "release": "2.0.0", "where": "type = 'pump'", "continuous": True, "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3}),
    ("create_campaign", {"id": "by-query-2", "release": "2.0.0", "where": "type = 'boat'", "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3}),
    ("create_campaign", {"id": "by-query-3", "release": "2.0.0", "where": "type = 'pump'", "devices": ["pump-1"], "sha256": "0" * 64, "size": 3}),
    ("abort_campaign", {"campaign": "by-query"}),
    ("create_campaign", {"id": "later", "release": "2.0.0", "devices": ["pump-1"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "starts_at": "2100-01-01T00:00:00Z", "approval": True}),
    ("approve_campaign", {"campaign": "later", "reason": "looks good"}),
    ("approve_campaign", {"campaign": "nothing"}),
    ("approve_campaign", {"campaign": "spring"}),
    ("clone_campaign", {"campaign": "spring", "id": "spring-2", "hold": True}),
    ("clone_campaign", {"campaign": "spring", "id": "spring-2", "failed": True}),
    ("clone_campaign", {"campaign": "nothing", "id": WRONG_NAME}),
    ("abort_campaign", {"campaign": "spring-2"}),
    ("abort_campaign", {"campaign": "later"}),
    ("report_campaign", {"campaign": "spring"}),
    ("report_campaign", {"campaign": "nothing"}),
    ("add_freeze", {"id": "sale", "where": "type = 'pump'", "reason": "summer sale"}),
    ("add_freeze", {"id": "sale"}),
    ("add_freeze", {"id": "past", "begin": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}),
    ("add_freeze", {"id": WRONG_NAME, "where": "type ="}),
    ("list_freezes", {}),
    ("create_campaign", {"id": "windows", "release": "2.0.0", "devices": ["pump-1"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "windows": ["0 2 * * * 4h"], "time_zone": "Europe/Berlin", "consent": True, "min_battery": 30}),
    ("create_campaign", {"id": "windows-2", "release": "2.0.0", "devices": ["pump-1"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "windows": ["at night"]}),
    ("create_campaign", {"id": "windows-3", "release": "2.0.0", "devices": ["pump-1"], "url": "https://updates.example.com/2", "sha256": "0" * 64, "size": 3, "time_zone": "Berlin", "requirement": "type ="}),
    ("consent_to_update", {"campaign": "windows", "device_id": "pump-1", "reason": "she pressed yes"}),
    ("consent_to_update", {"campaign": "windows", "device_id": "th-1"}),
    ("consent_to_update", {"campaign": "nothing", "device_id": "pump-1"}),
    ("remove_freeze", {"freeze": "sale"}),
    ("remove_freeze", {"freeze": "sale"}),
    ("abort_campaign", {"campaign": "windows"}),
    ("consent_to_update", {"campaign": "windows", "device_id": "pump-1"}),
    ("abort_campaign", {"campaign": "spring", "reason": "the wrong image"}),
    ("abort_campaign", {"campaign": "spring", "force": True}),
    ("abort_campaign", {"campaign": "spring"}),
    ("abort_campaign", {"campaign": "nothing"}),
    ("create_group", {"id": "lab"}),
    ("create_enrollment_token", {"device": "th-1"}),
    ("create_enrollment_token", {"uses": 3, "ttl_s": 3600.0, "device_type": "meter", "groups": ["lab"], "networks": ["192.0.2.0/24", "2001:db8::/32"], "reason": "spring"}),
    ("create_enrollment_token", {"device": "nobody"}),
    ("create_enrollment_token", {"device": "th-1", "groups": ["lab"]}),
    ("create_enrollment_token", {"uses": 0}),
    ("create_enrollment_token", {"ttl_s": 31_622_401.0}),
    ("create_enrollment_token", {"groups": ["nothing"]}),
    ("create_enrollment_token", {"networks": ["here"], "device_type": WRONG_NAME}),
    ("create_enrollment_token", {"networks": ["here"]}),
    ("list_enrollment_tokens", {}),
    ("revoke_enrollment_token", {"token_id": enrollment_token, "reason": "lost"}),
    ("revoke_enrollment_token", {"token_id": "nothing"}),
    ("create_claim", {"batch": "spring", "quota": 500, "days": 60.5, "device_type": "meter", "tags": ["new"], "models": ["m-4"], "serials": ["7", "8"], "per_minute": 10, "reason": "it is"}),
    ("create_claim", {"batch": "spring", "quota": 1}),
    ("create_claim", {"batch": WRONG_NAME, "quota": 0, "days": 400.0, "models": [WRONG_NAME]}),
    ("list_claims", {}),
    ("disable_claim", {"batch": "spring", "reason": "all made"}),
    ("disable_claim", {"batch": "nothing"}),
    ("propose_manufacturer", {"name": "maker", "pem": MAKER.pem, "admits": "at_once", "device_type": "meter", "model": "m-4", "tags": ["made"]}),
    ("propose_manufacturer", {"name": "other", "pem": MAKER.pem, "admits": "never"}),
    ("propose_manufacturer", {"name": "maker", "pem": Maker("Other CA").pem}),
    ("propose_manufacturer", {"name": "other", "pem": "none"}),
    ("list_manufacturers", {}),
    ("prove_manufacturer", {"name": "maker", "proof": MAKER.pem}),
    ("prove_manufacturer", {"name": "maker", "proof": proof}),
    ("prove_manufacturer", {"name": "nothing", "proof": MAKER.pem}),
    ("disable_manufacturer", {"name": "maker", "reason": "their key leaked"}),
    ("disable_manufacturer", {"name": "nothing"}),
    ("list_enrollments", {}),
    ("list_enrollments", {"state": "pending"}),
    ("list_enrollments", {"state": "odd"}),
    ("get_enrollment", {"enrollment": asking}),
    ("get_enrollment", {"enrollment": "nobody"}),
    ("approve_enrollment", {"enrollment": asking_in_capitals, "replace": True, "reason": "seen on the bench"}),
    ("approve_enrollment", {"enrollment": f"th-1:{'0' * 64}"}),
    ("approve_enrollment", {"enrollment": "th-1:no fingerprint"}),
    ("reject_enrollment", {"enrollment": asking, "reason": "the wrong one"}),
    ("reject_enrollment", {"enrollment": "nobody"}),
    ("list_enrollments", {"state": "rejected"}),
    ("list_certificates", {}),
    ("list_certificates", {"device": "certified-1"}),
    ("list_certificates", {"device": "nobody"}),
    ("list_device_certificates", {"device_id": "certified-1"}),
    ("list_device_certificates", {"device_id": "nobody"}),
    ("get_certificate", {"certificate": certificate}),
    ("get_certificate", {"certificate": serial}),
    ("get_certificate", {"certificate": "nothing"}),
    ("revoke_certificate", {"certificate": certificate, "reason": "stolen"}),
    ("revoke_certificate", {"certificate": serial}),
    ("revoke_certificate", {"certificate": "nothing"}),
    ("issue_device_token", {"device_id": "certified-1", "reason": "no TLS"}),
    ("issue_device_token", {"device_id": "nobody"}),
    ("revoke_device", {"device_id": "certified-1"}),
    ("revoke_device", {"device_id": "certified-1"}),
    ("revoke_device", {"device_id": "nobody"}),
    ("query_devices", {"where": "type = 'pump'", "limit": 1}),
    ("query_devices", {"where": "type ="}),
    ("count_devices", {}),
    ("count_devices", {"where": "type = 'pump'"}),
    ("count_devices", {"where": "type ="}),
    ("explain_query", {"device_id": "pump-1", "where": "type = 'pump' and tags has 'dry'"}),
    ("explain_query", {"device_id": "nobody", "where": "type = 'pump'"}),
    ("explain_query", {"device_id": "pump-1", "where": "type ="}),
    ("diagnose_device", {"device_id": "pump-1"}),
    ("diagnose_device", {"device_id": "nobody"}),
    ("check_import", {"rows": [{"id": "imported-1", "type": "meter"}, {"id": "!"}, {"id": "th-1", "type": "pump"}]}),
    ("check_import", {"rows": [{"id": "imported-1"}], "operation": "nothing", "more": True}),
    ("check_import", {"rows": []}),
    ("import_devices", {"rows": [{"id": "imported-1", "type": "meter"}, {"id": "!"}], "reason": "spring"}),
    ("import_devices", {"rows": [{"id": "imported-2"}], "operation": "nothing"}),
    ("import_devices", {"rows": ["imported-2"], "operation": ""}),
    ("list_device_rows", {"limit": 2}),
    ("list_device_rows", {"limit": 1001}),
    ("list_operations", {}),
    ("list_operations", {"kind": "import"}),
    ("get_operation", {"operation": operation}),
    ("get_operation", {"operation": "nothing"}),
    ("pause_operation", {"operation": operation, "reason": "the weekend"}),
    ("resume_operation", {"operation": operation}),
    ("pause_operation", {"operation": "nothing"}),
    ("cancel_operation", {"operation": operation, "reason": "late"}),
    ("cancel_operation", {"operation": "nothing"}),
    ("collect_telemetry", {"device_id": "th-1", "metric": "temp", "value": 20.5, "unit": "celsius", "time": 1_760_000_000_000}),
    ("collect_telemetry", {"device_id": "th-1", "metric": "temp", "value": -3.25, "unit": "celsius", "time": "2025-10-09T10:00:00Z", "id": "m1"}),
    ("collect_telemetry", {"device_id": "th-1", "metric": "door", "value": True}),
    ("collect_telemetry", {"device_id": "th-1", "metric": "mode", "value": "idle"}),
    ("collect_telemetry", {"device_id": "th-1", "metric": "temp", "value": 1.0, "time": "yesterday"}),
    ("collect_telemetry", {"device_id": "th-1", "metric": "temp", "value": 1.0, "time": 4 * 10**12}),
    ("collect_telemetry", {"device_id": "th-1", "metric": "a metric", "value": 1.0}),
    ("collect_telemetry", {"device_id": "gw", "metric": "temp", "value": 1.0, "unit": "u" * 65}),
    ("collect_telemetry", {"device_id": "nobody", "metric": "temp", "value": 1.0}),
    ("list_series", {}),
    ("list_series", {"device": "th-1"}),
    ("list_series", {"device": "nobody"}),
    ("list_series", {"device": "th-1", "where": "type = 'pump'"}),
    ("list_latest_readings", {"where": "type = 'thermometer'"}),
    ("list_latest_readings", {"where": "type ="}),
    ("list_device_latest_readings", {"device_id": "th-1"}),
    ("list_device_latest_readings", {"device_id": "nobody"}),
    ("list_readings", {"metric": "temp", "device": "th-1"}),
    ("list_readings", {"metric": "mode", "device": "th-1"}),
    ("list_readings", {"metric": "temp", "device": "th-1", "start": "2025-10-09T10:00:00Z", "end": 1_765_000_000_000}),
    ("list_readings", {"metric": "temp", "device": "th-1", "start": 2, "end": 1}),
    ("list_readings", {"metric": "temp", "device": "nobody"}),
    ("list_readings", {"metric": "temp", "device": "th-1", "points": 0}),
    ("list_buckets", {"metric": "temp", "bucket_s": 3600.0, "device": "th-1"}),
    ("list_buckets", {"metric": "temp", "bucket_s": 0.0, "device": "th-1"}),
    ("list_anomalies", {}),
    ("list_anomalies", {"device": "th-1", "newest": True}),
    ("list_anomalies", {"device": "nobody"}),
    ("get_anomaly", {"anomaly": "nothing"}),
    ("list_dead_letters", {}),
    ("get_dead_letter", {"number": letter}),
    ("get_dead_letter", {"number": 10**9}),
    ("get_dead_letter", {"number": -1}),
    ("replay_dead_letter", {"number": letter, "reason": "fixed"}),
    ("replay_dead_letter", {"number": 10**9}),
    ("discard_dead_letter", {"number": letter}),
    ("discard_dead_letter", {"number": 10**9}),
    ("watch_events", {"after": 0, "type": ["device.registered", "group."]}),
    ("watch_events", {"after": -1}),
    ("watch_events", {"after": 0, "where": "last_seen > now - 1 h"}),
]  # fmt: skip


class Drawn:
    """Random names and secrets that are the same in every telling; the fleet's own keys stay random."""

    def __init__(self):
        self._count = 0

    def token_hex(self, size=32):
        self._count += 1
        return f"{self._count:0{2 * size}x}"

    def token_urlsafe(self, size=32):
        return self.token_hex(size)[-(size * 4 // 3 + 1) :]


#: How many items of a stream are looked at.
SEEN = 3


async def first(items):
    """The first items of a stream; then its reader leaves."""
    found = []
    async with contextlib.aclosing(items):
        async for item in items:
            found.append(item)
            if len(found) == SEEN:
                break
    return found


def as_json(answer):
    """An answer as JSON has it."""
    return json.loads(json.dumps(to_builtins(answer)))


class Library:
    """The typed methods of the manager."""

    def __init__(self, fleet):
        self._calls = fleet.manager

    async def ask(self, name, given):
        answer = getattr(self._calls, name)(**given)
        return as_json(await (first(answer) if hasattr(answer, "__anext__") else answer))

    async def close(self):
        """The fleet is closed by who opened it."""


class Client(Library):
    """Those of the remote client in asyncio."""

    def __init__(self, fleet):
        self._calls = AsyncFleetClient(fleet.url, fleet.token)

    async def close(self):
        await self._calls.close()


class BlockingClient:
    """Those of the blocking remote client."""

    def __init__(self, fleet):
        self._calls = FleetClient(fleet.url, fleet.token)

    async def ask(self, name, given):
        return as_json(await asyncio.to_thread(self._asked, name, given))

    def _asked(self, name, given):
        answer = getattr(self._calls, name)(**given)
        return list(itertools.islice(answer, SEEN)) if core()[name].answer == "stream" else answer

    async def close(self):
        self._calls.close()


class Socket:
    """The control socket of the folder."""

    def __init__(self, fleet):
        self._client = ControlClient(fleet.folder)

    async def ask(self, name, given):
        if core()[name].answer == "stream":
            return await first(self._client.stream(name, given))
        return await self._client.run(name, given)

    async def close(self):
        """Each call has a connection of its own."""


class Shell:
    """The command line, with the words that stand for what is given."""

    def __init__(self, fleet, *place):
        self._place, self._capture = place, fleet.capture
        self._files = fleet.folder.parent / "files"
        self._files.mkdir()

    async def ask(self, name, given):
        self._capture.readouterr()
        line = words(core()[name], command_of(core()[name], given), await asyncio.to_thread(self._in_files, given))
        into = ["--into", str(self._files / "factory")] if name == "create_claim" else []
        if core()[name].answer == "stream":
            line += ["--limit", str(SEEN)]
        line += ["--detach"] if name in ("send_commands", "renew_certificates", "run_distributed") else []
        code = await asyncio.to_thread(run_command, [*line, *into, *self._place, "-o", "json"])
        out, err = self._capture.readouterr()
        if code and not out:  # with an answer the code says more of it
            shutil.rmtree(self._files / "factory", ignore_errors=True)
            raise Ended(code, err)
        if core()[name].answer == "stream":
            return [json.loads(text) for text in out.splitlines()]
        answer = json.loads(out)
        if into:
            for file, member in (("claim.pem", "certificate"), ("claim.key", "key"), ("ca.pem", "ca")):
                answer[member] = (self._files / "factory" / file).read_text()
                assert answer.pop(file) == str(self._files / "factory" / file)
            shutil.rmtree(self._files / "factory")
        return {"items": answer, "next": None} if core()[name].answer == "page" else answer

    def _in_files(self, given):
        """What a command reads from a file, as the path of one."""
        given = dict(given)
        for name in given.keys() & {"pem", "proof", "serials", "checkpoints", "manifest", "content"}:
            value = json.dumps(given[name]) if isinstance(given[name], dict) else given[name]
            if isinstance(value, bytes):
                (self._files / name).write_bytes(value)
                given[name] = str(self._files / name)
                continue
            lines = value if isinstance(value, list) else [value]
            file = self._files / name
            file.write_text("\n".join(lines))
            given[name] = str(file)
        return given

    async def close(self):
        """Each command is a process of its own, as it were."""


class Ended(Exception):
    """A command ended with this exit code, and said this."""


FRONT_ENDS = {
    "library": Library,
    "client": Client,
    "blocking client": BlockingClient,
    "socket": Socket,
    "shell, socket": lambda fleet: Shell(fleet, "--data", str(fleet.folder)),
    "shell, server": lambda fleet: Shell(fleet, "--server", fleet.url, "--plain-http", "--token", fleet.token),
}


#: Those that are not on the server's own machine.
REMOTE = {"client", "blocking client", "shell, server"}


async def begin(folder):
    """A fleet with two devices: one has a certificate; of the other a key waits, and a message was refused."""
    async with IoTFleetManager(folder, clock=MovableClock()) as manager:
        for device in ("asks-1", "certified-1"):
            await manager.register_device(device, "meter")
        await manager.security.issue(make_csr("certified-1", make_key()[1]))
        session = await (await manager.open()).sessions.of("asks-1")
        message = Inbound(
            type=messages.TELEMETRY, subject="asks-1", payload=b"no json", content_type="application/json"
        )
        await (await manager.open()).ingest.submit(session, message)
        await manager.security.enroll(EnrollRequest(csr=make_csr("asks-1", make_key()[1]), source="192.0.2.7"))


class Running:
    """A copy of a fleet, with its API and its control socket."""

    def __init__(self, made, folder, capture):
        self.folder, self.capture = folder, capture
        shutil.copytree(made, folder)

    async def given(self, given):
        """What is given, with what is known by now."""
        return {name: await self._looked_up(value) if callable(value) else value for name, value in given.items()}

    async def _looked_up(self, find):
        (of,) = inspect.signature(find).parameters
        return await find({"manager": self.manager, "security": self.manager.security, "folder": self.folder}[of])

    async def __aenter__(self):
        self.manager = IoTFleetManager(self.folder, clock=MovableClock(), actor=ACTOR)
        fleet = await self.manager.open()
        await fleet.operators.grant("story", "admin")
        self.token = (await fleet.operators.create_token("story")).token
        await fleet.operators.authenticate(self.token)  # when it was used is told too
        self._api = open_api(ApiConfig(listen="http://127.0.0.1:0"), fleet._context("api"), fleet)
        self._socket = serve_control(self.manager, self.folder)
        self.url = (await self._api.__aenter__()).url
        await self._socket.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self._socket.__aexit__(*error)
        await self._api.__aexit__(*error)
        await self.manager.close()


#: Members of answers about claims that come of a new key, and what is compared of them.
OF_NEW_KEYS = {"certificate", "key", "fingerprint"}


def comparable(name, answer, authority):
    """An answer; of what comes of a new key only the blocks of PEM, or how long it is.

    The CA that signs has a new key too: where it is told, it is compared with the fleet's.
    """
    if name == "get_revocation_lists":
        return {"crl": re.findall("-----[A-Z0-9 ]+-----", answer["crl"])}
    if name == "verify_storage":
        return answer | {"total": answer["total"] > 0}  # the file is as long as what came before made it
    if name == "diagnose_device" and "changes" in answer:
        # What follows from a layer is done for many devices side by side, in no order.
        return answer | {"changes": [{**change, "seq": 0} for change in answer["changes"]]}
    if name not in ("create_claim", "list_claims", "disable_claim"):
        return answer
    for item in answer.get("items", [answer]):
        for member, known in (("issuer", authority.issuer), ("ca", authority.ca_pem().decode())):
            if member in item:
                item[member] = item[member] == known
        for member in OF_NEW_KEYS & item.keys():
            item[member] = re.findall("-----[A-Z ]+-----", item[member]) or len(item[member])
    return answer


async def told(front_end, made, folder, capture):
    """What a front end answers to the story: answers as they are, refusals with all that they say."""
    found, drawn = [], Drawn()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("operators", "security.tokens", "security.manufacturers"):
            patch.setattr(f"fleetcore.fleet.{module}.secrets", drawn)
        patch.setattr("fleetcore.frontends.control.peer", lambda _: ACTOR)
        patch.setenv("STORY_PASSPHRASE", PASSPHRASE)
        for module in ("operations", "importing"):
            patch.setattr(f"fleetcore.fleet.{module}.uuid4", lambda: SimpleNamespace(hex=drawn.token_hex(16)))
        await _told(front_end, made, folder, capture, found)
    return found


async def ended(fleet):
    """Returns when imports have ended; other long work goes by the clock, or waits for devices."""
    for operation in await fleet.operations.records.find(ref=("state", "running")):
        if operation.kind == "import":
            await fleet.operations.run(operation.id)


async def _told(front_end, made, folder, capture, found):
    async with Running(made, folder, capture) as fleet:
        teller = FRONT_ENDS[front_end](fleet)
        for name, given in STORY:
            await ended(await fleet.manager.open())
            await fleet.manager.wait_idle()  # what follows from the step before is in the log
            if not asked_at(front_end, name, given):
                if front_end in REMOTE:
                    await refused(teller, name, await fleet.given(given))
                with contextlib.suppress(FleetError):  # so that what follows is alike
                    await Library(fleet).ask(name, await fleet.given(given))
                found.append(None)
                continue
            try:
                answer = comparable(
                    name, await teller.ask(name, await fleet.given(given)), fleet.manager.security.authority
                )
                if name in OF_THE_FLEET:
                    answer = answer == await Library(fleet).ask(name, await fleet.given(given))
            except FleetError as error:
                answer = (exit_code(error), error.code, str(error), error.remedy, dict(error.ids))
            except Ended as error:
                answer = error
            found.append(below(folder.parent, answer) if name in OF_PATHS else answer)
        await teller.close()


def asked_at(front_end, name, given):
    """Whether a front end has a way to ask a step: without a command, or without a route, it has none."""
    if front_end in REMOTE and not core()[name].route and name != "wait_idle":
        return False
    return not front_end.startswith("shell") or bool(command_of(core()[name], given))


async def refused(teller, name, given):
    """What belongs to the server's own machine is refused elsewhere."""
    if isinstance(teller, Shell) and not command_of(core()[name], given):
        return
    with pytest.raises((Refused, Ended)) as refusal:
        await teller.ask(name, given)
    if isinstance(refusal.value, Refused):
        assert (refusal.value.code, "--data" in refusal.value.remedy) == ("operation_unknown", True)
    else:
        code, said = refusal.value.args
        assert code == 2 or (code, "[operation_unknown]" in said) == (5, True)  # `backup` takes no --server


def below(place, answer):
    """An answer with paths as they are below a folder."""
    if isinstance(answer, Ended):
        code, said = answer.args
        return Ended(code, said.replace(str(place), ""))
    if isinstance(answer, tuple):
        return tuple(part.replace(str(place), "") if isinstance(part, str) else part for part in answer)
    return json.loads(json.dumps(answer).replace(str(place), ""))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder that every front end gets a copy of: its keys and its id are those of every telling."""
    folder = tmp_path_factory.mktemp("made") / "fleet"
    asyncio.run(begin(folder))
    return folder


@pytest.fixture(scope="module")
def expected(made, tmp_path_factory):
    """What the library answers."""
    return asyncio.run(told("library", made, tmp_path_factory.mktemp("library") / "fleet", None))


@pytest.mark.parametrize("front_end", list(FRONT_ENDS)[1:])
def test_every_front_end_answers_alike(front_end, expected, made, tmp_path, capfd):
    found = asyncio.run(told(front_end, made, tmp_path / "fleet", capfd))

    for (name, given), wanted, answer in zip(STORY, expected, found, strict=True):
        if not asked_at(front_end, name, given):
            continue
        if isinstance(answer, Ended):
            code, said = answer.args
            assert isinstance(wanted, tuple), (name, given, said)
            assert (code, f"[{wanted[1]}]" in said) == (wanted[0], True), (name, given, said)
            assert all(part in said.replace("\\n", "\n") for part in (wanted[2], wanted[3])), (name, given, said)
        else:
            assert answer == shown(front_end, name, given, wanted), (name, given)


#: Lists of series that a command shows as rows: what is made of an answer.
ROWS = {
    "list_readings": lambda series, metric: [{"time": time, metric: value} for time, value in series["points"]],
    "list_buckets": lambda series, _: series["buckets"],
}


def shown(front_end, name, given, wanted):
    """What a front end shows of an answer."""
    if not front_end.startswith("shell") or name not in ROWS or isinstance(wanted, tuple):
        return wanted
    rows = [row for series in wanted["items"] for row in ROWS[name](series, given["metric"])]
    return {**wanted, "items": rows}


def test_the_story_has_every_call(expected):
    told_otherwise = {"retire_device"}  # without a command; `set_lifecycle` does the same
    assert {call.name for call in table()} - {name for name, _ in STORY} == told_otherwise
    refused = [answer for answer in expected if isinstance(answer, tuple)]
    assert 0 < len(refused) < len(STORY)

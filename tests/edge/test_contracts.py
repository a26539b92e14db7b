"""The contract of a function in a manifest, and who may deploy."""

import json

import pytest

from fleetcore.calls.caller import Caller
from fleetcore.calls.edge import deploy_function
from fleetcore.errors import NotAuthorised, NotFound, Refused
from fleetcore.fleet.rights import Rights
from fleetcore.model.edge import Function, Resources
from fleetcore.model.operator import Role, RoleGrant
from fleetcore.testing.signers import Signers
from fleetcore.wire.dsse import opened
from fleetcore.wire.manifest import MANIFEST_TYPE, peek_manifest, read_manifest
from tests.edge.kit import manifest, released

SIGNERS = Signers()
WHOLE = Function(
    abi=3, metrics=("vibration.*", "heat"), where="type = 'press'", every_ms=50, every_readings=7,
    may=("readings", "alerts", "commands"), config={"a": {"b": [1, {"c": None}]}}, secrets=("api_key",),
    resources=Resources(memory_mib=1, time_ms=2, fuel=3000, stack_kib=64, cpu_percent=5), replaces_raw=True,
)  # fmt: skip


def document(**function):
    found = json.loads(opened(manifest(SIGNERS, function=WHOLE), MANIFEST_TYPE))
    found["function"] |= function
    return found


def read(found):
    return read_manifest(json.dumps(found).encode())


def test_a_contract_is_read_as_it_was_written():
    assert peek_manifest(manifest(SIGNERS, function=WHOLE)).function == WHOLE


def test_a_contract_needs_little():
    found = document()
    found["function"] = {"abi": 1, "inputs": {"metrics": ["*"]}}

    assert read(found).function == Function(metrics=("*",))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("abi", 0), ("abi", 1001), ("abi", True), ("inputs", {"metrics": []}), ("inputs", {"metrics": ["a b"]}),
        ("inputs", {"metrics": ["a", "a"]}), ("inputs", {"metrics": ["a"] * 51}),
        ("inputs", {"metrics": ["a"], "where": "type ="}), ("inputs", {"metrics": ["a"], "more": 1}),
        ("every", {"ms": 9, "readings": 1}), ("every", {"ms": 10}), ("every", {"ms": 10, "readings": 0}),
        ("may", []), ("may", ["files"]), ("may", ["alerts", "alerts"]), ("resources", {"memory_mib": 0}),
        ("resources", {"memory_mib": 4097}), ("resources", {"fuel": 999}), ("resources", {"time_ms": 60_001}),
        ("resources", {"stack_kib": 15}), ("resources", {"cpu_percent": 6401}), ("resources", {"network": True}),
        ("config", []), ("config", {"a": "x" * 4096}), ("secrets", ["A"]), ("secrets", ["a", "a"]),
        ("secrets", [f"s{number}" for number in range(17)]), ("replaces_raw", 1), ("network", True),
    ],
)  # fmt: skip
def test_a_contract_beyond_its_bounds_is_refused_with_member_and_remedy(member, value):
    with pytest.raises(Refused) as refused:
        read(document(**{member: value}))

    assert refused.value.code == "schema_invalid"
    assert refused.value.ids["pointer"].startswith("/function")
    assert "sign the function again" in refused.value.remedy


@pytest.mark.parametrize(
    "component", ["function.", "function.A", "function.a_b", "function.1a", "function." + "a" * 33]
)
def test_the_name_of_a_function_is_held_to_its_alphabet(component):
    with pytest.raises(Refused, match="is not a function's name"):
        read({**document(), "component": component})


def test_a_function_has_a_contract_and_nothing_else_has_one():
    bare = document()
    del bare["function"]

    with pytest.raises(Refused, match=r"function must be there, the contract of 'function\.vibration'"):
        read(bare)
    with pytest.raises(Refused, match=r"component must be function\.NAME"):
        read({**document(), "component": "modem"})


async def test_a_manifest_that_is_too_long_for_desired_state_is_not_deployed(fleet, signers, gateway):
    models = tuple(f"G-{number}" for number in range(1, 200))
    function = Function(metrics=("*",), config={"a": "x" * 4000})
    await fleet.campaigns.add_artifact(b"m")
    envelope = signers.manifest(
        b"m", name="long", seq=1, component="function.long", models=models, function=function
    )  # fmt: skip
    await fleet.releases.add(envelope)
    await gateway()

    with pytest.raises(Refused, match=r"The signed manifest of function\.long") as refused:
        await fleet.edge.deploy("long", "c", gateways=["g1"])

    assert refused.value.code == "limit_exceeded"


async def scoped(fleet, where):
    grant = RoleGrant(id="g", principal="ana", role=Role.DEPLOYER, scope=where)
    return Caller(fleet, Rights("operator:ana", (grant,), (), fleet.search), "operator:ana")


async def test_who_may_deploy_to_some_gateways_deploys_to_those_alone(fleet, signers, gateway):
    await released(fleet, signers)
    await gateway("g1", labels={"hall": "north"})
    await gateway("g2", labels={"hall": "south"})
    ana = await scoped(fleet, "attributes.gateway.labels.hall = 'north'")

    made = await deploy_function(ana, "vibration", "c", gateways=["g1"])
    for where in ({"gateways": ["g1", "g2"]}, {"where": "type = 'gateway'"}, {}):
        with pytest.raises((NotAuthorised, NotFound)):
            await deploy_function(ana, "vibration", "d", **where)

    assert made.targets == ["g1"]
    assert await fleet.campaigns.records.get("d") is None

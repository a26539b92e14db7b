"""The printed policy is enough, and what is missing of it is named by the check or by the call that fails."""

import json

import pytest
from attrs import evolve
from fleetcore_aws.actions import ACTIONS, needed
from fleetcore_aws.clients import method_of
from fleetcore_aws.config import AwsConfig, Telemetry
from fleetcore_aws.policy import policy

from fleetcore.errors import CredentialsRejected
from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import EntityKey, GroupBody, JobBody, RegistryBody, TwinBody
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing.cloud_contract import START_MS, TwoDevices, certified
from fleetcore.testing.throwaway_ca import ThrowawayCa

QUEUE = "http://127.0.0.1/123456789012/commands"
ACCOUNT = "123456789012"
ALL = CloudUse(commands=True)
JOB = JobBody(device="sensor-1", campaign="c1", release="2", url="https://x.example", state="waiting")
#: Each as it is made, and as it is changed later.
CA = ThrowawayCa()
BODIES = [
    (EntityKey("group", "lab"), GroupBody(), GroupBody(description="the lab")),
    (
        EntityKey("registry", "sensor-1"),
        RegistryBody(type="sensor", lifecycle="active", groups=("lab",), name="north door"),
        RegistryBody(type="sensor", lifecycle="active"),
    ),
    (EntityKey("certificate", "sensor-1"), certified(CA.another("sensor-1")), certified(CA.another("sensor-1"))),
    (EntityKey("twin", "sensor-1"), TwinBody(), TwinBody(desired={"interval": 1})),
    (EntityKey("job", "c1:sensor-1"), *(evolve(JOB, state=state) for state in ("offered", "cancelled", "accepted"))),
]


async def everything(cloud, hub):
    """Does all that a mirror does."""
    await hub.call("iot", "create_policy", policyName="devices", policyDocument="{}")
    for key, first, *later in BODIES:
        (made,) = await cloud.apply([MirrorItem(key=key, body=first)])
        await cloud.read([key])
        assert [each async for each in cloud.entities(key.facet)] == [key]
        for body in later:
            (made,) = await cloud.apply([MirrorItem(key=key, body=body, remote_version=made.remote_version)])
            assert made.state == "done", made
    await cloud.send(TelemetryBatch.of([0], [START_MS], [1.0]), TwoDevices())
    await hub.command("sensor-1", "reboot", {})
    arriving = cloud.inbound(None)
    assert (await anext(arriving)).events
    await hub.command("sensor-1", "blink", {})
    assert (await anext(arriving)).events
    await arriving.aclose()
    for key, *_ in reversed(BODIES):
        (held,) = await cloud.read([key])
        (gone,) = await cloud.apply([evolve(held, body=None)])
        assert gone.state == "done", gone


CONFIG = {"commands_queue": QUEUE, "account": ACCOUNT, "queue_wait_s": 1, "certificate_policy": "devices"}
NEEDED = needed(ALL, AwsConfig(endpoint="http://127.0.0.1", **CONFIG))


async def test_the_printed_policy_is_enough_for_everything(opened, front, hub):
    async with opened(**CONFIG) as cloud:
        cloud.use = ALL
        front.faults.policy = json.loads(cloud.policy()["json"])

        assert {each.state for each in await cloud.check()} == {"ok"}
        await everything(cloud, hub)

    assert front.calls.keys() == set(NEEDED), "it allows what is called and no more"


@pytest.mark.parametrize("action", NEEDED)
async def test_a_right_that_is_missing_is_named(opened, front, hub, action):
    async with opened(**CONFIG) as cloud:
        cloud.use = ALL
        rights = json.loads(cloud.policy()["json"])
        for statement in rights["Statement"]:
            statement["Action"] = [each for each in statement["Action"] if each != action]
        front.faults.policy = rights

        named = [each.what for each in await cloud.check() if each.state == "problem"]
        failed = None
        try:
            await everything(cloud, hub)
        except CredentialsRejected as error:
            failed = error

    assert set(named) <= {action}
    assert named or failed is not None
    assert failed is None or action in failed.remedy


def test_a_mirror_that_does_less_needs_less():
    use = CloudUse(sends=frozenset({"registry"}), readings=False, deletes=False)
    config = AwsConfig(region="eu-central-1", account=ACCOUNT, thing_prefix="plant-")

    (statements,) = [json.loads(policy(use, config, "default", "default")["json"])["Statement"]]
    resources = {action: each["Resource"] for each in statements for action in each["Action"]}

    assert not [action for action in resources if "Certificate" in action or "Principal" in action]
    assert resources["iot:CreateThing"] == [f"arn:aws:iot:eu-central-1:{ACCOUNT}:thing/plant-*"]
    assert resources["iot:ListThings"] == ["*"]
    assert not {"iot:DeleteThing", "iot:Publish", "iot:CreateJob", "iot:CreateThingGroup"} & resources.keys()


@pytest.mark.parametrize(
    ("telemetry", "action", "resource"),
    [
        (
            Telemetry(via="kinesis", stream="s"),
            "kinesis:PutRecords",
            f"arn:aws:kinesis:eu-central-1:{ACCOUNT}:stream/s",
        ),
        (
            Telemetry(via="firehose", stream="s"),
            "firehose:PutRecordBatch",
            f"arn:aws:firehose:eu-central-1:{ACCOUNT}:deliverystream/s",
        ),
        (
            Telemetry(via="sqs", queue="https://sqs.example/123456789012/q"),
            "sqs:SendMessage",
            f"arn:aws:sqs:eu-central-1:{ACCOUNT}:q",
        ),
    ],
)
def test_readings_need_the_right_to_their_service_alone(telemetry, action, resource):
    config = AwsConfig(region="eu-central-1", account=ACCOUNT, telemetry=telemetry)

    statements = json.loads(policy(CloudUse(), config, "default", "default")["json"])["Statement"]

    assert [each["Resource"] for each in statements if action in each["Action"]] == [[resource]]
    assert not any("iot:Publish" in each["Action"] for each in statements)


def test_both_forms_say_the_same():
    made = policy(ALL, AwsConfig(region="eu-central-1", **CONFIG), "cold-rooms", "cold-rooms")

    for statement in json.loads(made["json"])["Statement"]:
        assert f'sid       = "{statement["Sid"]}"' in made["terraform"]
        for action in statement["Action"]:
            assert f'"{action}", # {ACTIONS[action].why}' in made["terraform"]
    sids = [each["Sid"] for each in json.loads(made["json"])["Statement"]]
    assert len(set(sids)) == len(sids)
    assert all(sid.isalnum() for sid in sids)


def test_each_action_is_a_method_of_the_sdk():
    import boto3

    session = boto3.Session(aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1")
    for action in ACTIONS:
        service, method = method_of(action)
        assert hasattr(session.client(service), method), action


async def test_rights_over_certificates_are_tried_without_a_change(opened, front, hub):
    async with opened(**CONFIG) as cloud:
        cloud.use = ALL
        rights = json.loads(cloud.policy()["json"])
        for statement in rights["Statement"]:
            statement["Action"] = [each for each in statement["Action"] if "Certificate" not in each]
            statement["Action"] = [each for each in statement["Action"] if not each.endswith(("Policy", "Principal"))]
        front.faults.policy = rights

        named = {each.what for each in await cloud.check() if each.state == "problem"}

    assert named == {
        "iot:RegisterCertificateWithoutCA", "iot:DescribeCertificate", "iot:UpdateCertificate",
        "iot:DeleteCertificate", "iot:AttachThingPrincipal", "iot:DetachThingPrincipal", "iot:AttachPolicy",
    }  # fmt: skip
    assert not front.back.hub.certificates

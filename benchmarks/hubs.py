"""The clouds of the mirror's benchmark, one row each: what differs between them, for the processes and for the rows.

A hub is a connector's own counterpart, in a process of its own; the SDK is the real one, used as its manual has it.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from typing import Any

from attrs import frozen

_PROJECT = "trial-project"
_REGION = "us-east-1"
_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
#: A secret is named in fleet.toml and kept in the environment.
_AZURE_SECRET = "BENCH_AZURE_HUB"

#: Makes devices of these numbers at a hub by the bare SDK.
Make = Callable[[range], object]


@frozen(kw_only=True)
class Told:
    """What a hub's process tells.

    Attributes:
        section: lines of a section of fleet.toml.
        environment: what belongs into the environment of the processes that use it.
        paced: how many calls a second the cloud takes by default, by class.
    """

    section: str
    environment: Mapping[str, str]
    paced: Mapping[str, float]


@frozen(kw_only=True)
class Running:
    """A hub at work.

    Attributes:
        front: of the counterpart, with ``faults`` and ``calls``.
        made, twins: how often devices were made and twins written.
        existing: makes so many devices with twins that others have made; None where nothing is imported.
    """

    told: Told
    front: Any
    made: Callable[[], int]
    twins: Callable[[], int]
    existing: Callable[[int], None] | None = None


@frozen(kw_only=True)
class Cloud:
    """One cloud.

    Attributes:
        title: as it is called in a row.
        hub: opens its counterpart, which answers after a delay in seconds.
        sdk: opens the bare SDK, for a task with ``section`` and ``threads``.
        bulk: devices that one call of the SDK makes where it may make many; else 1.
        makes: the class of calls that makes devices, and how many devices one of its units makes.
        twins: the class of calls that writes twins, and so many of them a second as an outage is caught up with.
        quota: whose figure that is.
        imports: calls by class that an import of a device costs at the least; empty where nothing is imported.
    """

    title: str
    hub: Callable[[float], AbstractAsyncContextManager[Running]]
    sdk: Callable[[Mapping[str, Any]], AbstractContextManager[Make]]
    bulk: int = 1
    makes: tuple[str, float]
    twins: tuple[str, float]
    quota: str
    imports: Mapping[str, float]


# -- AWS --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _aws(delay_s: float) -> AsyncIterator[Running]:
    from fleetcore_aws.actions import RATES
    from fleetcore_aws.testing.front import HubBack, serving
    from fleetcore_aws.testing.hub import Hub, Shadow, Thing

    hub = Hub()

    def existing(count: int) -> None:
        for number in range(count):
            name = f"pump-{number}"
            hub.things[name] = Thing(type=None, attributes={"site": "north", "row": f"r{number % 40}"})
            hub.shadows[name] = {"": Shadow(state={"desired": {"interval": number}, "reported": {}}, version=1)}

    async with serving(HubBack(hub), delay_s=delay_s) as front:
        section = f'region = "{_REGION}"\nendpoint = "{front.endpoint}"\nshadow = ""\n'
        yield Running(
            told=Told(section=section, environment=_ENVIRONMENT, paced=RATES),
            front=front,
            made=lambda: front.calls.get("iot:CreateThing", 0),
            twins=lambda: front.calls.get("iot:UpdateThingShadow", 0),
            existing=existing,
        )


@contextmanager
def _boto3(task: Mapping[str, Any]) -> Any:
    import boto3
    from botocore.config import Config

    threads = Config(max_pool_connections=task["threads"])
    client = boto3.client("iot", region_name=_REGION, endpoint_url=task["section"]["endpoint"], config=threads)

    def make(numbers: range) -> None:
        for number in numbers:
            attributes = {
                "site": "north", "row": f"r{number % 40}", "tags": "outdoor", "fleet": "sdk", "state": "active",
            }  # fmt: skip
            payload = {"attributes": attributes}
            client.create_thing(thingName=f"sdk-{number}", thingTypeName="sdk", attributePayload=payload)

    client.create_thing_type(thingTypeName="sdk")
    yield make


# -- Azure ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _azure(delay_s: float) -> AsyncIterator[Running]:
    from fleetcore_azure.actions import rates
    from fleetcore_azure.config import AzureConfig
    from fleetcore_azure.testing.front import serving
    from fleetcore_azure.testing.hub import Hub

    hub, made, do = Hub(), 0, Hub.do
    config = AzureConfig(connection_string=f"env:{_AZURE_SECRET}", tier="S3")

    def counted(call: Any) -> Any:
        nonlocal made
        made += len(call.document) if call.operation == "UpdateRegistry" else 0
        return do(hub, call)

    def existing(count: int) -> None:
        for number in range(count):
            tags = {"site": "north", "row": f"r{number % 40}"}
            hub.make(f"pump-{number}", {"tags": tags, "properties": {"desired": {"interval": number}}})

    hub.do = counted  # type: ignore[method-assign]  # counts what calls of many devices make
    async with serving(hub, delay_s=delay_s) as front:
        section = (
            f'connection_string = "{config.connection_string}"\nendpoint = "{front.endpoint}"\nca = "{front.ca.path}"\n'
            f'tier = "{config.tier}"\n'
        )
        environment = {_AZURE_SECRET: front.connection_string()}
        yield Running(
            told=Told(section=section, environment=environment, paced=rates(config)),
            front=front,
            made=lambda: made,
            twins=lambda: front.calls.get("twins/write", 0),
            existing=existing,
        )


@contextmanager
def _iothub(task: Mapping[str, Any]) -> Any:
    import os

    from fleetcore_azure.sdk import Service, models
    from fleetcore_azure.tokens import Signatures
    from msrest.authentication import Authentication

    tokens = Signatures(task["section"]["connection_string"], "x", lambda _: os.environ[_AZURE_SECRET])

    class Signed(Authentication):
        def signed_session(self, session: Any = None) -> Any:
            session = super().signed_session(session)
            session.headers["Authorization"] = tokens.header()
            return session

    service = Service(Signed(), task["section"]["endpoint"])
    service.config.keep_alive = True
    service.config.connection.verify = task["section"]["ca"]

    def make(numbers: range) -> None:
        devices = [
            models.ExportImportDevice(
                id=f"sdk-{number}",
                import_mode="create",
                status="enabled",
                tags={"site": "north", "row": f"r{number % 40}", "tags": ["outdoor"], "fleet": "sdk"},
            )
            for number in numbers
        ]
        service.bulk_registry.update_registry(devices)

    yield make
    service.close()


# -- Google Cloud -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _gcp(delay_s: float) -> AsyncIterator[Running]:
    from fleetcore_gcp.permissions import RATES
    from fleetcore_gcp.testing.server import serving

    async with serving(delay_s=delay_s) as front:

        def published(topic: str) -> int:
            there = front.hub.topics.get(f"projects/{_PROJECT}/topics/fleetcore-{topic}")
            return 0 if there is None else len(there.messages)

        section = f'project = "{_PROJECT}"\nemulator = "{front.endpoint}"\ncreate = true\n'
        yield Running(
            told=Told(section=section, environment={}, paced=RATES),
            front=front,
            made=lambda: published("registry"),
            twins=lambda: published("state"),
        )


@contextmanager
def _pubsub(task: Mapping[str, Any]) -> Any:
    import json
    import os

    from google.api_core.exceptions import AlreadyExists
    from google.cloud import pubsub_v1
    from google.pubsub_v1.types import Topic

    os.environ["PUBSUB_EMULATOR_HOST"] = task["section"]["emulator"]
    options = pubsub_v1.types.PublisherOptions(enable_message_ordering=True)
    client = pubsub_v1.PublisherClient(publisher_options=options)
    topic = f"projects/{_PROJECT}/topics/sdk"
    with suppress(AlreadyExists):  # by another of these processes
        client.create_topic(request=Topic(name=topic))

    def make(numbers: range) -> None:
        for number in numbers:
            state = {"type": "sensor", "tags": ["outdoor"], "attributes": {"site": "north", "row": f"r{number % 40}"}}
            data = json.dumps({"fleet": "sdk", "id": f"sdk-{number}", "state": state}).encode()
            client.publish(topic, data, ordering_key=f"sdk-{number}", event="state").result()

    yield make
    client.stop()


CLOUDS: Mapping[str, Cloud] = {
    "aws": Cloud(
        title="AWS",
        hub=_aws,
        sdk=_boto3,
        makes=("iot:CreateThing", 1),
        twins=("iot:UpdateThingShadow", 400),
        quota="AWS's quota",
        # A page of things, a shadow read, a thing and a shadow marked.
        imports={"iot:ListThings": 1 / 250, "iot:GetThingShadow": 1, "iot:UpdateThing": 1, "iot:UpdateThingShadow": 1},
    ),
    "azure": Cloud(
        title="Azure",
        hub=_azure,
        sdk=_iothub,
        bulk=100,
        makes=("devices/bulk", 100),
        twins=("twins/write", 250),
        quota="the quota of an S3 unit",
        # A page of twins with their ETags, and one write of a twin's tags.
        imports={"twins/query": 1 / 100, "twins/write": 1},
    ),
    "gcp": Cloud(
        title="Google Cloud",
        hub=_gcp,
        sdk=_pubsub,
        makes=("publish_kb", 1),
        twins=("publish_kb", 400),
        quota="a rate that was set",
        imports={},
    ),
}

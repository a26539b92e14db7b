"""A page reads what it answers, however many records there are: the records that the store gives out are counted."""

import pytest

from fleetcore.builtin.sqlite.storage import SqliteStorage
from fleetcore.fleet.security.inventory import CertificateRecord
from fleetcore.model.anomaly import Anomaly, Severity
from fleetcore.model.command import Command
from fleetcore.model.credential import CertificateState
from fleetcore.model.device import Device
from fleetcore.model.firmware import Campaign, CampaignState, Execution
from fleetcore.model.group import Membership
from fleetcore.model.operation import Operation, OperationState

COUNT, PAGE = 3000, 10
#: The page with the record that tells whether there is more, in each of two looks (what selects, and the devices), and
#: what says who asks: a token and its grants.
BOUND = 4 * PAGE + 10
#: A query that the index answers in part is looked at in batches of 200, each in two looks.
BATCH_BOUND = 2 * 200 + 10
OF_SEVERAL = {"/devices?where=tags has 'a' and groups has 'tenth' and not id = 'd-0010'"}
#: Rights within a group of one in ten: about ten commands are looked at, and their device, for each that is shown. They
#: come in batches of 200.
SCOPED_BOUND = 450


@pytest.fixture
async def filled(fleet):
    """3,000 devices with a command, a certificate, an anomaly and a place in a campaign each; 3,000 operations."""
    names = [f"d-{number:04d}" for number in range(COUNT)]
    await fleet.groups.create("tenth")
    inside = [Membership(device=name, group="tenth") for name in names[::10]]
    ends = {"deliver_by": 2**45, "expires_at": 2**45, "result_by": 2**45}
    made = {
        fleet.devices.records: [Device(id=name, type="pump", tags=("a",), gateway="d-0000") for name in names],
        fleet.groups.membership_records: inside,
        fleet.commands.records: [
            Command(id=f"c-{name}", device=name, name="x", issued_at=at, **ends) for at, name in enumerate(names)
        ],
        fleet.operations.records: [
            Operation(id=f"o-{name}", kind="command", state=OperationState.SUCCEEDED, created=at)
            for at, name in enumerate(names)
        ],
        fleet.security.certificate_records: [
            CertificateRecord(
                id=f"aa:{name}", device=name, issuer="aa", serial=name, spki=name, state=CertificateState.REVOKED,
                created=1, not_before=1, not_after=2, renew_after=1, how="operator", pem="",
            )
            for name in names
        ],
        fleet.anomalies.records: [
            Anomaly(
                id=f"a-{name}", detector="d", device=name, metric="m", time=at, observed=1.0, expected=None,
                score=1.0, severity=Severity.WARNING, explanation="", found=at,
            )
            for at, name in enumerate(names)
        ],
        fleet.campaigns.records: [Campaign(id="c", release="2", url="", targets=(), total=COUNT, state=CampaignState.RUNNING)],
        fleet.campaigns.executions: [Execution(id=f"c:{name}", campaign="c", device=name) for name in names],
    }  # fmt: skip
    for records, items in made.items():
        await fleet.storage.commit(records.making(items))
    for membership in inside:
        fleet.groups._join(membership)
    return fleet


@pytest.fixture
def read(monkeypatch):
    """The numbers of records that the store gave out."""
    counts = []

    def counted(name, size):
        way = getattr(SqliteStorage, name)

        async def wrapped(self, *given, **named):
            answer = await way(self, *given, **named)
            counts.append(size(answer))
            return answer

        monkeypatch.setattr(SqliteStorage, name, wrapped)

    counted("find", lambda page: len(page.items))
    counted("due", len)
    counted("holders", len)
    for name in ("get", "find_unique"):
        counted(name, lambda record: int(record is not None))
    return counts


ALL = [
    "/devices",
    "/devices?where=type = 'pump'",
    "/devices?where=tags has 'a'",
    "/devices?where=groups has 'tenth'",
    "/devices?where=gateway = 'd-0000'",
    "/devices?where=created > t'2020-01-01T00:00:00Z'",
    "/devices?where=tags has 'a' and groups has 'tenth' and not id = 'd-0010'",
    "/devices/d-1500",
    "/devices/d-1500/health",
    "/devices/d-1500/commands",
    "/devices/d-1500/certificates",
    "/devices/d-1500/history",
    "/devices/d-1500/why",
    "/groups",
    "/groups/tenth",
    "/groups/tenth/members",
    "/gateways/d-0000/leaves",
    "/commands",
    "/commands?unfinished=true",
    "/operations",
    "/certificates",
    "/certificates?device=d-1500",
    "/anomalies",
    "/anomalies?device=d-1500",
    "/campaigns",
    "/campaigns/c",
    "/campaigns/c/executions",
    "/enrollments",
    "/enrollment-tokens",
    "/claims",
    "/manufacturers",
    "/layers",
    "/tokens",
    "/roles",
    "/audit",
    "/audit?object=d-1500",
    "/status",
    "/firmware/releases",
    "/quarantine",
]


#: Of one thing: these take no limit.
ONE = {
    "/devices/d-1500",
    "/devices/d-1500/health",
    "/devices/d-1500/certificates",
    "/devices/d-1500/why",
    "/groups/tenth",
    "/campaigns/c",
    "/status",
}


async def reads(client, read, path):
    """How many records the store gives out for an answer."""
    path, _, query = path.partition("?")
    parameters = {} if path in ONE else {"limit": PAGE}
    parameters |= dict([query.split("=", 1)]) if query else {}
    del read[:]
    answer = await client.get(path, params=parameters)
    assert answer.status_code == 200, (path, answer.text)
    return sum(read), answer.json()


async def test_a_page_of_the_whole_fleet_reads_the_page(filled, admin, read):
    counts = {path: (await reads(admin, read, path))[0] for path in ALL}

    bounds = {path: BATCH_BOUND if path in OF_SEVERAL else BOUND for path in counts}
    assert {path: count for path, count in counts.items() if count > bounds[path]} == {}


async def test_a_page_for_rights_within_a_group_reads_a_bounded_part(filled, as_role, read):
    scoped = await as_role("viewer", scope="group:tenth")
    found = {path: await reads(scoped, read, path) for path in ("/devices", "/commands", "/anomalies")}

    assert {path: len(answer["items"]) for path, (_, answer) in found.items()} == dict.fromkeys(found, PAGE)
    assert {path: count for path, (count, _) in found.items() if count > SCOPED_BOUND} == {}

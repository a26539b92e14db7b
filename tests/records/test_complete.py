"""A complete folder of the last release that wrote schema 1, and its backup, answer as they did when they were written.

The questions and the answers are recorded in ``complete-1.json.gz``; this module only asks them again, of the present
code. Where a later release renames a call, a path or a member, :func:`ask` and :func:`get` are where the old name is
translated; the record stays as it was written.
"""

import base64
import gzip
import json
import shutil
import tarfile
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager
from fleetcore.calls.types import Response, to_builtins
from fleetcore.cli.root import Root
from fleetcore.errors import NotAuthenticated, NotAuthorised, NotFound
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.layer import LayerKind
from fleetcore.runtime.backup import restore
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire.records import to_plain
from fleetcore.wire.times import format_time

HERE = Path(__file__).parent
KNOWN = json.loads(gzip.decompress((HERE / "complete-1.json.gz").read_bytes()))
SECRETS = KNOWN["secrets"]
FOLDERS = ("data", "backup")

#: All that depends on when it is looked at: the clock stands where it stood, but asking with a token uses the token.
VARYING = {"last_used"}
#: Answers that may have become longer: opening a folder with a later release may itself be written into the log.
GROWING = {"list_audit", "device_history"}
#: Lists whose order is another since: what matters is what they hold.
REORDERED = (" commands/items", " operations/items", "list_operations[]", "operation list")
#: Calls whose records have a version that nothing takes; it is not told any more.
WITHOUT_VERSION = ("list_audit", "device_history", "list_groups['", "list_tokens", "list_roles", "token list")
#: Members that are told no more, by the beginning of a question: how an operation goes on is its kind's own, and a series
#: that is cut goes on with the next page.
NOT_TOLD = {"operation list": {"spec", "rate_per_s", "version"}, "root telemetry?": {"more"}}
#: A part of health that counts only devices that were heard of, since an anomaly of the others is not known.
COUNTED_ANEW = ("/parts", "anomalies")
#: Members that have another name today.
RENAMED = {"hanging": "dependents", "hanging_on_new": "dependents_on_new"}
#: Findings are sentences for people, made for each answer; these read differently today.
REWORDED = {
    "nothing was ever heard of it": "it was never heard from",
    "it has not taken ": "it has not applied ",
    "what is desired and what it reports differ": "its desired and reported states differ",
    "its readings are not as they should be": "its readings are abnormal",
    "its certificate ends within two weeks": "its certificate expires within two weeks",
}
#: Numbers that may have risen, for the same reason.
RISING = {"rows", "checkpoints"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The archive, unpacked once; nothing may write into it."""
    folder = tmp_path_factory.mktemp("record")
    with tarfile.open(HERE / "complete-1.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(params=FOLDERS)
def name(request):
    return request.param


@pytest.fixture
def data(name, unpacked, tmp_path):
    """A data folder of its own: a copy, or restored from the backup."""
    if name == "backup":
        restore(unpacked / "backup", tmp_path / "data", unverified=True)
    else:
        shutil.copytree(unpacked / "data", tmp_path / "data")
    # What unpacks gives folders to everybody; the store's is its owner's alone.
    for folder in (tmp_path / "data", tmp_path / "data" / "pki"):
        folder.chmod(0o700)
    return tmp_path / "data"


@pytest.fixture
def clock(name):
    return MovableClock(KNOWN["written_ms"][name])


async def groups(manager, device=None):
    """``list_groups(device)`` was another call in the same one; it told a membership's version, which nothing takes."""
    if device is not None:
        return [to_builtins(one) for one in await manager.list_device_groups(device)]
    return to_builtins([group async for group in manager.iter_groups()])


async def group(manager, name):
    """``get_group`` named the devices."""
    members = [member.device async for member in manager.iter_group_members(name)]
    return {**to_builtins(await manager.get_group(name)), "devices": members}


async def health(call, *of):
    """The score had another name, and the counts stood beside it."""
    found = await call(*of)
    return {"health_score": found.score, "parts": found.parts, **found.counts}


async def devices(manager, **options):
    """``list_devices`` gave all."""
    return to_builtins([device async for device in manager.iter_devices(**options)])


async def history(manager, device):
    """``device_history`` told what the audit log has of a row, hashes among them."""
    await manager.get_device(device)
    return [to_builtins(row) for row in await manager.list_audit(object=device, after=0)]


async def location(manager, device):
    """No position was None."""
    try:
        return to_builtins(await manager.get_location(device))
    except NotFound:
        return None


async def audit(manager, *, limit=100):
    """``list_audit`` gave up to ``limit`` rows, however many, and the oldest first."""
    return to_builtins([row async for row in manager.iter_audit(after=0)][:limit])


async def items(call, *args, **options):
    """A list was a list."""
    return to_builtins((await call(*args, **options)).items)


async def known(records, answers, *members):
    """Answers with the members of their records that no call tells any more."""
    found = [(answer, await records.get(answer.id)) for answer in answers]
    return [
        {**to_builtins(answer), **json.loads(json.dumps({name: getattr(record, name) for name in members}))}
        for answer, record in found
    ]


async def certificates(manager, *args, **options):
    """``list_certificates`` told what each certificate replaces, and when one ended as a number."""
    answers = [one async for one in manager.iter_certificates(*args, **options)]
    return await known(manager.security.certificate_records, answers, "replaces", "ended_at", "version")


async def enrollments(manager, *args, **options):
    """``list_enrollments`` told whether the device's other certificates end, under ``replace``."""
    answers = [one async for one in manager.iter_enrollments(*args, **options)]
    return await known(manager.security.enrollment_records, answers, "replace", "version")


async def enrollment_tokens(manager):
    """``list_enrollment_tokens`` told versions, as the next two did."""
    answers = [one async for one in manager.iter_enrollment_tokens()]
    return await known(manager.security.enrollment_token_records, answers, "version")


async def claims(manager):
    """``list_claims`` gave all."""
    answers = [one async for one in manager.iter_claims()]
    return await known(manager.security.claims.batches, answers, "version")


async def manufacturers(manager):
    """``list_manufacturers`` gave all."""
    answers = [one async for one in manager.iter_manufacturers()]
    return await known(manager.security.manufacturers.records, answers, "version")


async def operations(manager):
    """``list_operations`` gave all, with what each does to an item."""
    answers = [one async for one in manager.iter_operations()]
    fleet = await manager.open()
    return await known(fleet.operations.records, answers, "spec", "rate_per_s", "version")


async def diagnosis(manager, device):
    """``why_device`` told what the store needs of commands, executions and the audit log."""
    found, fleet = to_builtins(await manager.diagnose_device(device)), await manager.open()
    why = await fleet.diagnosis.why(device)
    for member in ("groups", "waiting", "updating", "anomalies", "changes"):
        plain = json.loads(json.dumps([to_plain(record) for record in getattr(why, member)]))
        found[member] = [{**stored, **told} for stored, told in zip(plain, found[member], strict=True)]
    for execution in found["updating"]:
        ends = execution.get("not_after")
        execution["not_after"] = format_time(ends) if ends else None
    return found


async def count(manager, *where):
    """``count_devices`` was a number."""
    return (await manager.count_devices(*where)).count


async def dead_letters(manager):
    """``list_dead_letters`` gave all, as they are stored."""
    fleet, answers = await manager.open(), [one async for one in manager.iter_dead_letters()]
    members = ("content_type", "id", "target", "if_version")
    return [
        {**to_builtins(one), **{name: getattr(await fleet.dead_letters.get(one.number), name) for name in members}}
        for one in answers
    ]


async def series(manager, device=None):
    """``list_series`` gave all, each with its number."""
    fleet = await manager.open()
    indexes = {(one.device, one.metric): one.index for one in await fleet.telemetry.series()}
    answers = [one async for one in manager.iter_series(device)]
    return [{**to_builtins(one), "index": indexes[one.device, one.metric]} for one in answers]


async def buckets(manager, device, metric, bucket_s):
    """``aggregate_telemetry`` gave the buckets of one series."""
    found = [one async for one in manager.iter_buckets(metric, bucket_s, device=device)]
    return [bucket for one in found for bucket in to_builtins(one.buckets)]


async def exported(manager):
    """``export_devices`` gave the rows of a page, and the id to go on after."""
    page = await manager.list_device_rows(limit=1000)
    return {"items": to_builtins(page.items), "next": page.next}


async def every(items):
    """What gave all."""
    return to_builtins([item async for item in items])


async def campaign(manager, name):
    """``get_campaign`` gave the executions too, and what the server keeps of them."""
    answers = [one async for one in manager.iter_executions(name)]
    records = (await manager.open()).campaigns.executions
    executions = await known(records, answers, "bytes", "nonce", "not_after", "assigned", "version")
    for one in executions:
        one["not_after"] = one["not_after"] and format_time(one["not_after"])
    return {**to_builtins(await manager.get_campaign(name)), "executions": executions}


async def firmware_root(manager):
    """It was the firmware's trust."""
    return to_builtins(await manager.get_firmware_root()) | {"version": 1}


async def firmware_roots(manager):
    """``list_trust`` gave all, with versions of the store."""
    return [to_builtins(one) | {"version": 1} async for one in manager.iter_firmware_roots()]


async def releases(manager):
    """``list_releases`` gave all, with versions of the store."""
    return [to_builtins(one) | {"version": 1} async for one in manager.iter_releases()]


async def release(manager, name):
    """``get_release`` told the version of the store."""
    return to_builtins(await manager.get_release(name)) | {"version": 1}


async def layers(manager):
    """``list_layers`` gave all, the weakest first, and told when each leaf was set."""
    rank = list(LayerKind)
    found = [one async for one in manager.iter_layers()]
    found.sort(key=lambda layer: (rank.index(layer.kind), layer.priority, layer.id))
    answers = to_builtins(found)
    for answer in answers:
        answer["section"]["times"] = dict(manager.twins.layers.get(answer["id"]).section.times)
    return answers


async def commands(manager, device=None):
    """``list_commands`` gave all by device and sequence, with what the store needs."""
    listed = manager.iter_commands() if device is None else manager.iter_device_commands(device)
    found = sorted([one async for one in listed], key=lambda one: (one.device, one.sequence))
    return await known(manager.commands.records, found, "result_hash", "version")


async def command(manager, name):
    """``get_command`` told what the store needs."""
    return (await known(manager.commands.records, [await manager.get_command(name)], "result_hash", "version"))[0]


async def twin_history(manager, device, section="desired"):
    """``twin_history`` gave all."""
    return await items(manager.list_twin_history, device, section=section)


async def past_twin(manager, device, time):
    """``twin_as_of``."""
    return await manager.get_past_twin(device, time)


async def rotation(manager):
    """``ca_rotation``."""
    return to_builtins(await manager.get_ca_rotation())


#: Calls that are other ones today.
TRANSLATED = {
    "get_trust": firmware_root,
    "list_trust": firmware_roots,
    "list_releases": releases,
    "get_release": release,
    "get_campaign": campaign,
    "list_layers": layers,
    "list_cas": lambda manager: every(manager.iter_cas()),
    "ca_rotation": rotation,
    "list_commands": commands,
    "get_command": command,
    "twin_history": twin_history,
    "twin_as_of": past_twin,
    "list_audit": audit,
    "list_tokens": lambda manager: items(manager.list_tokens),
    "list_roles": lambda manager, *principal: items(manager.list_roles, *principal),
    "list_groups": groups,
    "get_group": group,
    "get_fleet_health": lambda manager: health(manager.get_fleet_health),
    "get_group_health": lambda manager, group: health(manager.get_group_health, group),
    "get_device_health": lambda manager, device: health(manager.get_device_health, device),
    "list_devices": devices,
    "device_history": history,
    "get_location": location,
    "list_certificates": certificates,
    "list_enrollments": enrollments,
    "list_enrollment_tokens": enrollment_tokens,
    "list_claims": claims,
    "list_manufacturers": manufacturers,
    "why_device": lambda manager, device: diagnosis(manager, device),
    "count_devices": count,
    "list_operations": operations,
    "list_dead_letters": dead_letters,
    "list_series": series,
    "list_anomalies": lambda manager, *device: every(manager.iter_anomalies(*device)),
    "latest_telemetry": lambda manager, device: items(manager.list_device_latest_readings, device),
    "aggregate_telemetry": buckets,
    "export_devices": exported,
}


async def ask(manager, question):
    """A recorded question to the façade, answered by the present code."""
    translated = TRANSLATED.get(question["call"])
    if translated is not None:
        return await translated(manager, *question["args"], **question["options"])
    answer = await getattr(manager, question["call"])(*question["args"], **question["options"])
    if isinstance(answer, Response):
        return to_builtins(answer)
    return json.loads(json.dumps(answer.to_plain() if hasattr(answer, "to_plain") else answer))


async def get(client, question):
    """A recorded question to the API, answered by the present code: status, and the body."""
    token = {"Authorization": f"Bearer {SECRETS['operator_tokens'][question['who']]}"}
    path = question["path"]
    if path.startswith("audit?"):  # the oldest were first
        path += "&after=0"
    return await client.get(path, headers=token)


def served(fleet):
    return open_api(ApiConfig(listen="http://127.0.0.1:0"), fleet._context("api"), fleet)


def client_of(server):
    return httpx.AsyncClient(base_url=server.url + "/api/v1/", timeout=PATIENCE_S)


def differences(now, then, path="", *, growing=False):
    """Where something that was answered then is not answered now; a later release may say more."""
    if isinstance(then, dict):
        if not isinstance(now, dict):
            yield f"{path}: {now!r} is not an object"
            return
        for member in then.keys() - VARYING:
            if member == "version" and path.startswith(WITHOUT_VERSION):
                continue
            if any(path.startswith(place) and member in members for place, members in NOT_TOLD.items()):
                continue
            if path.endswith(COUNTED_ANEW[0]) and member == COUNTED_ANEW[1]:
                continue
            if member not in now and RENAMED.get(member) in now:
                yield from differences(now[RENAMED[member]], then[member], f"{path}/{RENAMED[member]}")
            elif member not in now:
                yield f"{path}/{member} is gone"
            elif member == "next":
                if (now[member] is None) is not (then[member] is None):  # what a cursor says is nobody's business
                    yield f"{path}/{member}: {now[member]!r} was {then[member]!r}"
            elif member in RISING and growing:
                if now[member] < then[member]:
                    yield f"{path}/{member}: {now[member]} is less than {then[member]}"
            else:
                yield from differences(now[member], then[member], f"{path}/{member}")
    elif isinstance(then, list):
        if not isinstance(now, list) or len(now) < len(then) or (len(now) > len(then) and not growing):
            yield f"{path}: {len(then)} items then, now {now!r:.200}"
            return
        if path.endswith(REORDERED):
            now, then = (sorted(items, key=lambda item: item["id"]) for items in (now, then))
        for at, item in enumerate(then):
            yield from differences(now[at], item, f"{path}/{at}")
    elif now != (reworded(then) if "/findings/" in path else then):
        yield f"{path}: {now!r} was {then!r}"


def reworded(finding):
    """A recorded finding in today's words."""
    for then, now in REWORDED.items():
        finding = finding.replace(then, now)
    return finding


async def differing_answers(manager, name):
    """What the façade answers otherwise than it did."""
    found = []
    for question in KNOWN["answers"][name]["facade"]:
        growing = question["call"] in GROWING or question["call"] == "verify_audit"
        place = f"{question['call']}{question['args']}"[:80]
        found += differences(await ask(manager, question), question["answer"], place, growing=growing)
    return found


async def test_every_recorded_answer_of_the_facade_still_holds(name, data, clock):
    async with IoTFleetManager(data, clock=clock) as manager:
        await manager.wait_idle()

        assert await differing_answers(manager, name) == []
        assert (await manager.check_storage()).problems == []


async def test_every_recorded_answer_of_the_api_still_holds(name, data, clock):
    found = []

    async with IoTFleetManager(data, clock=clock) as manager:
        fleet = await manager.open()
        async with served(fleet) as server, client_of(server) as client:
            for question in KNOWN["answers"][name]["api"]:
                reply = await get(client, question)
                place = f"{question['who']} {question['path']}"
                if reply.status_code != question["status"]:
                    found.append(f"{place}: {reply.status_code} {reply.text[:200]}")
                elif "json" in question:
                    found += differences(reply.json(), question["json"], place)
                elif base64.b64encode(reply.content).decode() != question["base64"]:
                    found.append(f"{place}: other bytes")
            # Last, for each of them is a row of the audit log.
            for question in KNOWN["answers"][name]["refused"]:
                reply = await get(client, question)
                if (reply.status_code, reply.json()["code"]) != (question["status"], question["code"]):
                    found.append(f"{question['who']} {question['path']}: {reply.status_code} {reply.text[:200]}")

    assert found == []


async def test_a_second_opening_changes_nothing(name, data, clock):
    async def opened():
        async with IoTFleetManager(data, clock=clock) as manager:
            await manager.wait_idle()
            return [await ask(manager, question) for question in KNOWN["answers"][name]["facade"]]

    first = await opened()

    assert await opened() == first


def test_the_command_line_shows_what_was_recorded(name, data, clock, monkeypatch):
    # By the machine's clock, what waits in the record would expire while the command looks.
    monkeypatch.setattr("fleetcore.runtime.app.SystemClock", lambda: clock)
    answers = {
        question["call"]: question["answer"]
        for question in KNOWN["answers"][name]["facade"]
        if not question["args"] and not question["options"]
    }
    found = []

    for call, words in {
        "list_devices": ["device", "list"],
        "list_groups": ["group", "list"],
        "list_operations": ["operation", "list"],
        "list_tokens": ["token", "list"],
        "list_claims": ["enrollment", "claim", "list"],
    }.items():
        done = CliRunner().invoke(Root(), [*words, "--data", str(data), "-o", "json"])
        assert done.exit_code == 0, (words, done.output, done.exception)
        then = answers[call]
        if call == "list_claims":  # what no call takes is not shown any more
            then = [{name: value for name, value in one.items() if name != "version"} for one in then]
        found += differences(json.loads(done.stdout), then, " ".join(words))
    verified = CliRunner().invoke(Root(), ["audit", "verify", "--data", str(data)])

    assert found == []
    assert verified.exit_code == 0, verified.output


# --- what was under way goes on, and what was handed out still opens what it opened ---------------------------------


async def test_operations_under_way_end(data, clock):
    async with IoTFleetManager(data, clock=clock) as manager:
        fleet = await manager.open()
        under_way = {one["kind"]: one for one in await manager.list_operations(limit=1000) if one["state"] == "running"}
        assert {kind: 0 < one["done"] < one["total"] for kind, one in under_way.items() if kind != "renewal"} == {
            "import": True,
            "command": True,
        }
        for kind in ("import", "command"):
            while (one := await manager.get_operation(under_way[kind]["id"]))["state"] == "running":
                await clock.advance(2)
                await fleet.operations.tick()
            assert (one["state"], one["failed"]) == ("succeeded", 0)

        assert (await manager.count_devices("gateway = 'gw-1'")).count == 21
        assert sum((await manager.count_commands(under_way["command"]["id"])).counts.values()) == 8


async def test_a_detector_goes_on_with_what_it_had_learnt(name, data, clock):
    known = {one["id"] for one in next(q["answer"] for q in KNOWN["answers"][name]["facade"] if q["call"] == "list_anomalies" and not q["args"])}  # fmt: skip

    async with IoTFleetManager(data, clock=clock) as manager:
        await manager.wait_idle()
        before = {one["id"] for one in await manager.list_anomalies(limit=1000)}
        # The series was quiet after its last finding; a detector without a past would still be warming up.
        for number in range(30):
            await manager.collect_telemetry("th-1", "temperature", 21.0, "C", time=clock.now_ms() - 100_000 + number)
        await manager.collect_telemetry("th-1", "temperature", 900.0, "C")
        await manager.wait_idle()
        new = [one for one in await manager.list_anomalies(limit=1000) if one["id"] not in before]

    assert before == known
    assert sorted(one["detector"] for one in new) == ["statistical", "too-hot"]


def request_of(device):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    key = ec.generate_private_key(ec.SECP256R1())
    return (
        x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    )


def der(pem):
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


async def test_credentials_open_what_they_opened_and_ended_ones_open_nothing(name, data, clock):
    certificates = SECRETS["certificates"]

    async with IoTFleetManager(data, clock=clock) as manager:
        security = (await manager.open()).security
        assert (await security.verify_token(SECRETS["device_token"]["th-1"])).device == "th-1"
        for device in ("c-1", "c-2", "c-3", *(["c-new"] if name == "data" else [])):
            assert (await security.identify(der(certificates[device])))[0] == device
        for device in ("c-old", "c-revoked"):
            with pytest.raises((NotAuthenticated, NotAuthorised)):
                await security.identify(der(certificates[device]))


async def test_enrolment_goes_on_by_token_and_by_claim(data, clock):
    claim = der(SECRETS["claim"]["certificate"])

    async with IoTFleetManager(data, clock=clock) as manager:
        security = (await manager.open()).security
        await security.enroll(
            EnrollRequest(csr=request_of("new-1"), token=SECRETS["enrolment_token"], source="192.0.2.40")
        )
        await security.enroll(
            EnrollRequest(certificate=claim, ownership=SECRETS["ownership_token"], parameters={"serial": "S2"})
        )
        await manager.wait_idle()
        assert [one["group"] for one in await manager.list_device_groups("new-1")] == ["hall"]
        assert (await manager.get_device("b-2"))["tags"] == ["plant-2"]


async def test_a_rotation_goes_on_to_its_end(name, data, clock):
    async with IoTFleetManager(data, clock=clock) as manager:
        assert (await manager.get_ca_rotation())["phase"] == {"data": "issuing", "backup": "announced"}[name]
        if name == "backup":
            await manager.rotate_ca("issue")
        await manager.rotate_ca("retire", force=True)
        assert (await manager.get_ca_rotation())["phase"] == "settled"


async def test_a_kept_answer_is_given_again(data, clock):
    kept = SECRETS["kept_answer"]
    headers = {"Authorization": f"Bearer {SECRETS['operator_tokens']['root']}", "Idempotency-Key": kept["key"]}

    async with (
        IoTFleetManager(data, clock=clock) as manager,
        served(await manager.open()) as server,
        client_of(server) as client,
    ):
        reply = await client.post(kept["path"], json=kept["json"], headers=headers)

    assert (reply.status_code, reply.headers["idempotency-replayed"]) == (kept["status"], "true")
    assert reply.json() == kept["answer"]


async def test_images_are_whole(data, clock):
    async with IoTFleetManager(data, clock=clock) as manager:
        storage = (await manager.open()).storage
        for sha256, size in SECRETS["artifacts"].items():
            pieces = [piece async for piece in storage.read_artifact(sha256)]
            assert sum(map(len, pieces)) == size


def test_the_record_has_every_state_that_it_is_there_for(name):
    answers = KNOWN["answers"][name]["facade"]

    def states(call, member="state"):
        found = [question["answer"] for question in answers if question["call"] == call]
        return {item[member] for answer in found for item in (answer if isinstance(answer, list) else [answer])}

    assert states("get_campaign") == {"succeeded", "running", "aborted", "draft"}
    assert states("list_operations") == {"running", "succeeded", "partly", "cancelled"}
    assert states("list_operations", "kind") == {"import", "command", "renewal"}
    assert states("list_commands") >= {"queued", "sent", "running", "succeeded", "failed", "rejected", "expired", "cancelled"}  # fmt: skip
    assert states("list_devices", "lifecycle") == {"registered", "provisioned", "active", "suspended", "quarantined", "retired"}  # fmt: skip
    assert states("list_enrollments") == {"pending", "accepted", "rejected"}
    executions = [one for question in answers if question["call"] == "get_campaign" for one in question["answer"]["executions"]]  # fmt: skip
    assert {one["state"] for one in executions} >= {"waiting", "offered", "downloading", "installing", "succeeded", "failed", "rejected", "cancelled"}  # fmt: skip
    verdict = next(question["answer"] for question in answers if question["call"] == "verify_audit")
    assert verdict["ok"]
    assert verdict["checkpoints"] >= 1

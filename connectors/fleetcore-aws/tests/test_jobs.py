"""A part of a campaign at AWS: a job whose execution follows it, in few calls, and whoever else moves it is seen."""

import json
import random

import boto3
import pytest
from attrs import evolve
from fleetcore_aws.actions import needed
from fleetcore_aws.config import AwsConfig
from fleetcore_aws.executions import STATUS, clean, details, read_back
from fleetcore_aws.names import job_id
from fleetcore_aws.testing.control import Control
from fleetcore_aws.testing.executions import Executions
from fleetcore_aws.testing.operations import arn
from fleetcore_aws.testing.rules import RefusedByAws, invalid
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.errors import Unavailable
from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.firmware import EXECUTION_ENDS, ExecutionState
from fleetcore.model.mirror import EntityKey, JobBody
from fleetcore.testing.cloud_contract import registration

KEY = EntityKey("job", "c1:sensor-1")
NAME = job_id("default", KEY.id)
AT = {"jobId": NAME, "thingName": "sensor-1"}
JOB = JobBody(device="sensor-1", campaign="c1", release="2.0", url="https://x.example/fw", state="waiting")


def part(state, **members):
    return evolve(JOB, state=str(state), **members)


async def applied(cloud, item, body=None):
    (result,) = await cloud.apply([item if body is None else evolve(item, body=body)])
    assert result.state == "done", result
    return evolve(item, body=body or item.body, remote_version=result.remote_version)


async def held(cloud):
    (read,) = await cloud.read([KEY])
    return read


async def execution(hub):
    return (await hub.call("iot", "describe_job_execution", **AT))["execution"]


async def status(hub):
    return (await hub.call("iot", "describe_job", jobId=NAME))["job"]["status"]


# -- the table ------------------------------------------------------------------------------------------------------


def test_every_state_of_a_part_has_a_status_and_ends_are_ends():
    assert STATUS.keys() == set(ExecutionState)
    assert {state for state, at in STATUS.items() if at not in {"QUEUED", "IN_PROGRESS"}} == EXECUTION_ENDS
    assert [state for state, at in STATUS.items() if at == "SUCCEEDED"] == [ExecutionState.SUCCEEDED]


def test_statuses_are_those_of_the_sdk():
    session = boto3.Session(aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1")
    shapes = session.client("iot-jobs-data").meta.service_model

    assert set(STATUS.values()) <= set(shapes.shape_for("JobExecutionStatus").enum)


@pytest.mark.parametrize("state", ExecutionState)
async def test_an_execution_follows_its_part_into_every_state_and_is_read_back(opened, front, state):
    control = Control(front)
    async with opened() as cloud:
        await cloud.apply([registration("sensor-1")])
        made = await applied(cloud, MirrorItem(key=KEY, body=JOB))
        body = part(state, progress=0.25, code="c", reason='wait for\n„Halle 7“ \\ "east" 🙂')

        moved = await applied(cloud, made, body)
        shown, read = await execution(control), await held(cloud)

    assert shown["status"] == STATUS[state]
    assert read == MirrorItem(key=KEY, body=body, remote_version=moved.remote_version)
    assert STATUS[state] == "QUEUED" or shown["statusDetails"]["detailsMap"]["state"] == state
    control.close()


@given(
    st.builds(
        JobBody,
        **dict.fromkeys(("device", "campaign", "release", "url"), st.just("x")),
        state=st.just("offered"),
        progress=st.none() | st.floats(0, 1),
        code=st.none() | st.text(min_size=1),
        reason=st.none() | st.text(min_size=1),
    )
)
def test_details_are_clean_and_tell_the_part_again(body):
    said = details(body)

    assert all(clean(value) == value for value in said.values())
    kept = {name: getattr(body, name) for name in ("state", "progress", "code", "reason")}
    assert read_back(said) == {name: value for name, value in kept.items() if value is not None}


# -- ends, and what is cut -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", sorted(EXECUTION_ENDS))
async def test_a_part_that_is_tried_again_after_its_end_is_told_and_does_not_loop(opened, front, end):
    async with opened() as cloud:
        await cloud.apply([registration("sensor-1")])
        made = await applied(cloud, MirrorItem(key=KEY, body=JOB))
        ended = await applied(cloud, await applied(cloud, made, part("installing")), part(end))
        front.calls.clear()

        again = await applied(cloud, ended, part("waiting"))
        third = await applied(cloud, again, part("offered"))
        read = await held(cloud)

    assert read == third
    assert front.calls["iot:UpdateJob"] == 2
    assert "iotjobsdata:UpdateJobExecution" not in front.calls


class Late(Executions):
    """AWS rolls executions out a while after it has made their job."""

    def make(self, job, targets):
        pass


async def test_a_job_whose_execution_aws_has_not_made_yet_waits_for_it(opened, front):
    late = front.back.hub.executions = Late()
    async with opened() as cloud:
        await cloud.apply([registration("sensor-1")])
        (early,) = await cloud.apply([MirrorItem(key=KEY, body=part("offered", progress=0.5, reason="r"))])
        read = await held(cloud)
        Executions.make(late, NAME, [arn("thing", "sensor-1")])
        (later,) = await cloud.apply([MirrorItem(key=KEY, body=part("offered"))])
        seen = await held(cloud)
        settled = await applied(cloud, evolve(seen, body=part("offered")))

    assert (early.state, read.body) == ("failed", JOB)
    assert (later.state, seen.body) == ("conflict", JOB)
    assert settled.body == part("offered")


async def test_another_version_is_a_conflict_whichever_error_aws_has_for_it(opened, front):
    back = front.back

    async def answer(call):
        try:
            return await back(call)
        except RefusedByAws as refused:
            raise (invalid(refused.message) if refused.code == "VersionMismatch" else refused) from refused

    front.back = answer
    async with opened() as cloud:
        await cloud.apply([registration("sensor-1")])
        made = await applied(cloud, MirrorItem(key=KEY, body=JOB))
        item = await applied(cloud, made, part("offered"))
        await applied(cloud, item, part("accepted"))

        (late,) = await cloud.apply([evolve(item, body=part("downloading"))])

    assert late.state == "conflict"


@pytest.mark.parametrize("fault", ["lost", "halved", "errors", "cut_heads", "cut_bodies"])
@pytest.mark.parametrize("seed", range(4))
async def test_a_part_arrives_whole_wherever_its_calls_are_cut(opened, front, fault, seed):
    """As the engine does it: again after a failure, and read after a conflict."""
    chance = random.Random(seed)
    back = front.faults
    async with opened() as cloud:
        await cloud.apply([registration("sensor-1")])
        item = MirrorItem(key=KEY, body=JOB)
        for state in ("waiting", "offered", "downloading", "installing", "succeeded", "waiting", "cancelled"):
            item = evolve(item, body=part(state, progress=chance.random()))
            for _ in range(40):
                setattr(back, fault, chance.randrange(2))
                back.only = (chance.choice(sorted(front.calls)),)
                try:
                    (result,) = await cloud.apply([item])
                    if result.state == "conflict":
                        (read,) = await cloud.read([KEY])
                        item = evolve(item, remote_version=None if read is None else read.remote_version)
                    if result.state == "done":
                        item = evolve(item, remote_version=result.remote_version)
                        break
                except Unavailable:
                    continue
            back.heal()
            assert (await held(cloud)).body == item.body
    assert len(front.back.hub.jobs) == 1


# -- at both counterparts --------------------------------------------------------------------------------------------


class JobsAtAws:
    @pytest.fixture
    async def hub(self, at):
        control = Control(at)
        yield control
        control.close()

    @pytest.fixture
    async def cloud(self, opened, at):
        async with opened(at=at) as cloud:
            await cloud.apply([registration("sensor-1")])
            at.calls.clear()
            yield cloud

    @pytest.fixture
    async def job(self, cloud):
        return await applied(cloud, MirrorItem(key=KEY, body=JOB))

    async def test_what_has_no_room_is_lost_and_what_fits_is_taken(self, cloud, job):
        fits = part("offered", code="c" * 900, reason="r" * 1024)
        too_long = part("offered", code="c" * 1025, reason="r" * 1025)

        assert cloud.fit(evolve(job, body=fits)).lost == ()
        await applied(cloud, job, fits)
        lost = cloud.fit(evolve(job, body=too_long))

        assert (lost.item.body, [each.path for each in lost.lost]) == (part("offered"), ["/reason", "/code"])
        assert cloud.fit(evolve(job, body=part("offered", code="", reason=""))).item.body == part("offered")
        assert cloud.fit(evolve(job, body=part("quite new"))).item is None

    async def test_a_part_costs_two_calls_to_make_four_to_begin_and_one_a_change(self, cloud, at):
        item = await applied(cloud, MirrorItem(key=KEY, body=JOB))
        assert at.calls == {"iot:DescribeThing": 1, "iot:CreateJob": 1}
        at.calls.clear()
        item = await applied(cloud, item, part("offered"))
        assert at.calls == {
            "iot:DescribeJob": 1,
            "iot:GetJobDocument": 1,
            "iot:DescribeJobExecution": 1,
            "iotjobsdata:UpdateJobExecution": 1,
        }
        at.calls.clear()

        for state in ("accepted", "downloading", "installing", "succeeded"):
            item = await applied(cloud, item, part(state))

        assert at.calls == {"iotjobsdata:UpdateJobExecution": 4}

    async def test_a_part_that_is_first_sent_when_it_is_offered_costs_four_calls_and_one_a_change(self, cloud, at):
        item = await applied(cloud, MirrorItem(key=KEY, body=part("offered")))
        assert at.calls == {
            "iot:DescribeThing": 1,
            "iot:CreateJob": 1,
            "iot:DescribeJobExecution": 1,
            "iotjobsdata:UpdateJobExecution": 1,
        }

        await applied(cloud, item, part("succeeded"))

        assert at.calls["iotjobsdata:UpdateJobExecution"] == sum(at.calls.values()) - 3 == 2

    async def test_a_job_of_a_part_that_has_ended_is_complete(self, cloud, job, hub):
        assert await status(hub) == "IN_PROGRESS"

        await applied(cloud, await applied(cloud, job, part("downloading")), part("succeeded"))

        assert (await status(hub), (await execution(hub))["status"]) == ("COMPLETED", "SUCCEEDED")

    async def test_a_part_that_is_under_way_when_it_is_first_sent_has_its_execution_moved(self, cloud, hub):
        await applied(cloud, MirrorItem(key=KEY, body=part("failed", code="no_space")))

        shown = await execution(hub)

        assert (shown["status"], shown["statusDetails"]["detailsMap"]) == (
            "FAILED",
            {"state": "failed", "code": "no_space"},
        )

    async def test_an_execution_that_was_cancelled_at_aws_is_drift_and_its_part_goes_on_in_the_description(
        self, cloud, job, hub
    ):
        item = await applied(cloud, job, part("downloading", progress=0.5))
        await hub.call("iot", "cancel_job_execution", force=True, **AT)

        seen = await held(cloud)
        (late,) = await cloud.apply([evolve(item, body=part("installing"))])
        settled = await applied(cloud, evolve(item, remote_version=seen.remote_version), part("installing"))
        read = await held(cloud)
        ended = await applied(cloud, settled, part("succeeded"))

        assert seen.body == part("cancelled", progress=0.5)
        assert late.state == "conflict"
        assert (read.body, read.remote_version) == (part("installing"), settled.remote_version)
        assert (await held(cloud)).body == part("succeeded")
        shown = await hub.call("iot", "describe_job", jobId=NAME)
        assert json.loads(shown["job"]["description"]) == {"since": 3, "state": "succeeded"}
        assert (await execution(hub))["status"] == "CANCELED"
        await applied(cloud, ended, part("succeeded"))

    async def test_a_part_that_waits_again_stays_under_way_at_aws(self, cloud, job, hub):
        item = await applied(cloud, await applied(cloud, job, part("offered")), part("waiting"))

        assert (await execution(hub))["status"] == "IN_PROGRESS"
        assert await held(cloud) == item

    @pytest.mark.parametrize(
        ("moved", "state"), [("IN_PROGRESS", "unknown"), ("SUCCEEDED", "succeeded"), ("REJECTED", "rejected")]
    )
    async def test_an_execution_that_another_writer_moved_is_drift_and_a_conflict(self, cloud, job, hub, moved, state):
        await hub.call("iot-jobs-data", "update_job_execution", status=moved, statusDetails={"step": "x"}, **AT)

        seen = await held(cloud)
        (late,) = await cloud.apply([evolve(job, body=part("offered"))])

        assert seen.body == part(state)
        assert late.state == "conflict"
        await applied(cloud, evolve(job, remote_version=seen.remote_version), part("offered"))
        assert (await held(cloud)).body == part("offered")

    async def test_details_that_another_writer_changed_meanwhile_are_not_written_over(self, cloud, job, hub):
        item = await applied(cloud, job, part("downloading"))
        await hub.call(
            "iot-jobs-data", "update_job_execution", status="IN_PROGRESS", statusDetails={"state": "x"}, **AT
        )

        (late,) = await cloud.apply([evolve(item, body=part("installing"))])

        assert (late.state, (await execution(hub))["statusDetails"]["detailsMap"]) == ("conflict", {"state": "x"})
        assert (await held(cloud)).body == part("unknown")

    async def test_a_job_that_was_cancelled_at_aws_is_drift(self, cloud, job, hub):
        await hub.call("iot", "cancel_job", jobId=NAME, force=True)

        assert (await held(cloud)).body == part("cancelled")

    async def test_a_job_that_another_one_made_under_our_id_is_not_moved(self, cloud, job, hub, at):
        item = await applied(cloud, job, part("offered"))
        await hub.call("iot", "delete_job", jobId=NAME, force=True)
        document = json.dumps({"fleetcore": {"fleet": "other", "id": KEY.id}})
        await hub.call("iot", "create_job", jobId=NAME, targets=[arn("thing", "sensor-1")], document=document)
        await hub.call("iot-jobs-data", "update_job_execution", status="IN_PROGRESS", **AT)

        for state in ("downloading", "cancelled"):
            (result,) = await cloud.apply([evolve(item, body=part(state))])
            assert result.state == "foreign"
        assert (await execution(hub))["versionNumber"] == 2

    async def test_details_that_another_writer_spoilt_are_read_as_far_as_they_go(self, cloud, job, hub):
        spoilt = {"state": "downloading", "progress": "half", "reason": "\\x", "code": "c"}
        await hub.call("iot-jobs-data", "update_job_execution", status="IN_PROGRESS", statusDetails=spoilt, **AT)

        assert (await held(cloud)).body == part("downloading", code="c")


class TestOwnCounterpart(JobsAtAws):
    @pytest.fixture
    async def at(self, front):
        return front


class TestMotoBehindTheStrictProxy(JobsAtAws):
    @pytest.fixture
    async def at(self, moto_front):
        return moto_front


async def test_the_endpoint_of_executions_is_asked_for_once_unless_it_is_given(opened, front, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_IOT", front.endpoint)
    back, asked = front.back, []

    async def answer(call):
        asked.extend(call.request.query.items())
        return await back(call)

    front.back = answer
    document = "0" * 16
    for told in (None, "http://other.invalid"):
        async with opened(endpoint=None, jobs_endpoint=told) as cloud:
            monkeypatch.setattr("fleetcore_aws.jobs._digest", lambda _text: document)
            with pytest.raises(Unavailable, match="counterpart.invalid" if told is None else "other.invalid"):
                await cloud.apply([MirrorItem(key=KEY, body=part("offered"), remote_version=f"1.2.{document}")])

    assert asked == [("endpointType", "iot:Jobs")]
    use = CloudUse(sends=frozenset({"job"}), readings=False)
    assert "iot:DescribeEndpoint" in needed(use, AwsConfig())
    assert "iot:DescribeEndpoint" not in needed(use, AwsConfig(jobs_endpoint="https://x.example"))

"""The levers of the recording plane that the real plane has no counterpart of, and claims."""

import asyncio
import json

import pytest

from fleetcore.errors import NotAuthorised
from fleetcore.model.credential import LocalCredential, TokenCredential
from fleetcore.model.message import Accepted, Inbound, Rejected
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.wire import messages


@pytest.fixture
async def plane():
    return RecordingPlane()


@pytest.fixture
async def session(plane):
    return await plane.authenticate(LocalCredential("dev1"), protocol="test")


def telemetry(payload=b"1", subject="dev1"):
    return Inbound(type=messages.TELEMETRY, subject=subject, payload=payload)


def asked(row, body=None):
    return Inbound(type=row, subject="dev1", payload=b"" if body is None else json.dumps(body).encode())


async def test_what_a_message_ends_with_is_told_by_the_function_then_the_list_then_the_one(plane, session):
    refused = {code: Rejected(code=code, reason="why") for code in ("overloaded", "limit_exceeded", "unit_mismatch")}
    plane.judge = lambda _, message: refused["overloaded"] if message.payload == b"!" else None
    plane.outcomes = [refused["limit_exceeded"]]
    plane.outcome = refused["unit_mismatch"]

    outcomes = [await plane.submit(session, telemetry(payload)) for payload in (b"!", b"1", b"2", b"3")]

    assert [outcome.code for outcome in outcomes] == ["overloaded", "limit_exceeded", "unit_mismatch", "unit_mismatch"]
    assert ([message.payload for _, message in plane.arrived], plane.received) == ([b"!", b"1", b"2", b"3"], [])


async def test_full_is_asked_to_stop_until_there_is_room(plane, session):
    outcomes = []
    plane.fill()
    told = plane.deliver(session, telemetry(), outcomes.append)
    reading = asyncio.ensure_future(plane.ready())
    await asyncio.sleep(0.01)
    early = reading.done()

    plane.make_room()
    await reading

    assert (told, early, outcomes) == (False, False, [Accepted(stored=1)])
    assert plane.deliver(session, telemetry(), outcomes.append) is True


async def test_what_is_lost_was_not_received_and_may_be_answered_late(plane, session):
    outcomes = []
    plane.hold()
    plane.deliver(session, telemetry(), outcomes.append)

    ((received, finish),) = plane.lose()
    plane.commit()
    await asyncio.sleep(0)
    early = list(outcomes)
    finish()
    await asyncio.sleep(0)

    assert (received.identity, early, outcomes) == ("dev1", [], [Accepted(stored=1)])


async def test_a_failure_is_raised_by_every_message(plane, session):
    plane.failure = RuntimeError("broken")

    for call in (plane.submit(session, telemetry()), plane.call(session, asked(messages.TWIN_GET))):
        with pytest.raises(RuntimeError, match="broken"):
            await call


async def test_authentication_and_calls_wait_until_they_are_let_go(plane, session):
    plane.hold_authentication()
    plane.hold_calls()
    waiting = [
        asyncio.ensure_future(plane.authenticate(TokenCredential(plane.token("dev2")), protocol="test")),
        asyncio.ensure_future(plane.call(session, asked(messages.TIME, {"client": 1}))),
    ]
    await asyncio.sleep(0.01)
    early = [task.done() for task in waiting]

    plane.let_in()
    plane.answer_calls()
    opened, reply = await asyncio.gather(*waiting)

    assert early == [False, False]
    assert (opened.identity, reply.body["client"]) == ("dev2", 1)


async def test_a_denial_is_written_down(plane, session):
    with pytest.raises(NotAuthorised):
        await plane.authenticate(LocalCredential("nobody"), protocol="test", peer="192.0.2.1:9")
    await plane.submit(session, telemetry(subject="dev2"))

    assert [denial[:3] for denial in plane.denials] == [
        ("nobody", "session", "device_unknown"),
        ("dev1", "dev2", "not_your_device"),
    ]


async def test_a_claim_enrols_and_does_nothing_else(plane):
    plane.accept_claim(b"DER", "spring")
    claim = await plane.claim(b"DER", protocol="test")

    enrolled = await claim.call(asked(messages.ENROLL, {"csr": "PEM", "parameters": {"serial": "1"}}))
    bad = await claim.call(asked(messages.ENROLL, {}))
    other = await claim.call(telemetry())

    assert (claim.name, enrolled.status, plane.enrollments[0].csr) == ("fleetcore:claim:spring", 201, b"PEM")
    assert (bad.status, other.error["code"]) == (422, "not_authorised")
    assert [denial[:3] for denial in plane.denials] == [("fleetcore:claim:spring", "telemetry", "not_authorised")]


async def test_a_disabled_batch_ends_its_claims_and_lets_none_in(plane):
    plane.accept_claim(b"DER", "spring")
    claim = await plane.claim(b"DER", protocol="test")

    plane.disable_claim("spring")

    assert (claim.ended, plane.claims) == ("not_authorised", [])
    with pytest.raises(NotAuthorised):
        await plane.claim(b"DER", protocol="test")
    assert await plane.claim(b"another", protocol="test") is None


async def test_revocations_are_told_to_those_who_watch(plane):
    seen = []
    end = plane.watch_revocations(seen.append)
    plane.revoke("dev1")
    plane.renew_revocations()
    end()
    plane.revoke("dev2")

    assert seen == [frozenset({"dev1"}), frozenset()]


async def test_an_artifact_breaks_off_as_often_as_it_is_told(plane, session):
    digest = plane.put_artifact(bytes(100), piece_bytes=10, breaks=1, breaks_at=50)
    reader = await plane.open_artifact(session, "dev1", digest)
    pieces = reader.read()

    assert [await anext(pieces) for _ in range(5)] == [bytes(10)] * 5
    with pytest.raises(OSError, match="the disk is gone"):
        await anext(pieces)
    assert b"".join([piece async for piece in reader.read()]) == bytes(100)


async def test_a_session_ends_without_a_word(session):
    ends = []
    session.on_end(ends.append)
    session.end_silently("replaced")

    assert (session.ended, ends) == ("replaced", [])

"""Handle: a typed body for the capability that registered, a refusal for anything else."""

import pytest

from fleetcore.errors import Conflict, StorageError
from fleetcore.model.message import UNKNOWN, Accepted, Inbound, Rejected
from fleetcore.pipeline.handlers import Handlers
from fleetcore.wire.messages import STATUS, TWIN_REPORT, Status
from fleetcore.wire.strict_json import dumps


def inbound(body, row=STATUS, **more):
    payload = body if isinstance(body, bytes) else dumps(body)
    return Inbound(type=row, subject="d", payload=payload, **more)


@pytest.fixture
def session(devices):
    devices.add("d")
    return devices.session("d")


@pytest.fixture
def handlers():
    return Handlers(depth=10)


async def test_a_handler_gets_the_typed_body_and_where_it_came_from(handlers, session):
    got = []

    async def handle(request, body):
        got.append((request, body))
        return Accepted()

    handlers.add({STATUS: handle})

    assert await handlers.handle(session, inbound({"state": "online"}, target="t", if_version=4)) == Accepted()
    ((request, body),) = got
    assert body == Status(state="online")
    assert (request.identity, request.subject, request.target, request.if_version) == ("d", "d", "t", 4)


async def test_a_body_that_does_not_fit_never_reaches_the_handler(handlers, session):
    async def handle(_request, _body):
        raise AssertionError("a handler saw a bad body")

    handlers.add({STATUS: handle})

    rejected = await handlers.handle(session, inbound({"state": "gone"}))

    assert (rejected.code, rejected.pointer) == ("schema_invalid", "/state")


async def test_what_a_handler_raises_is_an_outcome(handlers, session, caplog):
    async def conflict(_request, _body):
        raise Conflict("taken", code="already_exists")

    async def broken(_request, _body):
        raise ZeroDivisionError

    handlers.add({STATUS: conflict, TWIN_REPORT: broken})

    assert await handlers.handle(session, inbound({"state": "online"})) == Rejected(
        code="already_exists", reason="taken"
    )
    assert (await handlers.handle(session, inbound({}, TWIN_REPORT))).code == "internal"
    assert "Handling twin.report failed" in caplog.text


async def test_a_type_without_a_handler_is_unknown(handlers, session):
    assert (await handlers.handle(session, inbound({}, UNKNOWN))).code == "operation_unknown"


def test_two_capabilities_cannot_take_one_type(handlers):
    async def handle(_request, _body):
        return Accepted()

    async def other(_request, _body):
        return Accepted()

    handlers.add({STATUS: handle})
    with pytest.raises(ValueError, match="status has a handler already"):
        handlers.add({STATUS: other})


async def test_a_message_that_a_joint_handler_refuses_by_an_error_does_not_refuse_the_others(handlers, session):
    calls = []

    async def together(some):
        calls.append(len(some))
        if any(body.boot == "bad" for _, body in some):
            raise Conflict("taken", code="already_exists")
        return [Accepted() for _ in some]

    handlers.add_joint({STATUS: together})
    sent = [(session, inbound({"state": "online", "boot": boot})) for boot in ("good", "bad", "good")]

    outcomes = await handlers.handle_joint(STATUS, sent)

    assert [getattr(each, "code", "accepted") for each in outcomes] == ["accepted", "already_exists", "accepted"]
    assert calls == [3, 1, 1, 1]


async def test_messages_whose_commit_fails_are_refused_together_and_not_tried_again(handlers, session):
    calls = []

    async def together(some):
        calls.append(len(some))
        raise StorageError("the disk is full")

    handlers.add_joint({STATUS: together})

    outcomes = await handlers.handle_joint(STATUS, [(session, inbound({"state": "online"}))] * 3)

    assert [each.code for each in outcomes] == ["storage_failed"] * 3
    assert calls == [3]

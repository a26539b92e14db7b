"""What a request by a claim certificate becomes, whatever its body: a request to enrol of the right types, or a refusal."""

import asyncio
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore.fleet.process_state.denials import Denials
from fleetcore.model.message import Inbound, Reply
from fleetcore.pipeline.handlers import Handlers
from fleetcore.pipeline.refusals import Refusals
from fleetcore.runtime.plane.claims import BatchSession
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.sampled_from(["csr", "parameters", "ownership_token", "token"]), values).map(json.dumps)


@settings(max_examples=300, deadline=None)
@given(payload=bodies.map(str.encode) | values.map(json.dumps).map(str.encode) | st.binary(max_size=60))
def test_a_body_of_any_kind_is_a_request_or_refused(payload):
    made = []

    class Security:
        async def enroll(self, request):
            made.append(request)
            return Reply(status=201)

    session = BatchSession(
        Security(),
        Denials(None, MovableClock()),
        Handlers(10),
        Refusals(lambda *_: None),
        "spring",
        b"claim",
        "mqtt",
        "192.0.2.7",
    )
    message = Inbound(type=messages.ENROLL, subject=session.name, payload=payload, content_type="application/json")

    reply = asyncio.run(session.call(message))

    assert len(made) == (reply.status == 201)
    assert (reply.error is None) == (reply.status == 201)
    for request in made:
        assert isinstance(request.csr, bytes)
        assert isinstance(request.parameters, dict)
        assert request.csr or request.ownership
        assert (request.certificate, request.token, request.source) == (b"claim", None, "192.0.2.7")

"""Enrolment as a reply: whatever goes wrong is a problem document, never an exception."""

import logging

from fleetcore.errors import FleetError
from fleetcore.fleet.security import SecurityManager
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.message import Rejected, Reply
from fleetcore.pipeline.refusals import Refusals
from fleetcore.wire.replies import refusal, rejection

_log = logging.getLogger(__name__)


async def enroll(security: SecurityManager, request: EnrollRequest, refusals: Refusals) -> Reply:
    """See :meth:`fleetcore.interfaces.protocol.DevicePlane.enroll`.

    A refusal is counted and audited. It is never kept as a dead letter: the request may hold a token.
    """
    try:
        reply = await security.enroll(request)
    except FleetError as error:
        reply = refusal(rejection(error))
    except Exception:
        _log.exception("An enrolment failed")
        reply = refusal(Rejected(code="internal", reason="The enrolment could not be handled"))
    if reply.error is not None:
        refusals.count(request.protocol, str(reply.error["code"]))
    return reply

"""Enrolment as a reply: every error becomes a problem document, never an exception."""

import logging

from fleetcore.errors import FleetError
from fleetcore.fleet.security import SecurityManager
from fleetcore.fleet.security.enrollment import StrangerRefused
from fleetcore.interfaces.boundary import contained
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.message import Rejected, Reply
from fleetcore.pipeline.refusals import Refusals
from fleetcore.wire.replies import refusal, rejection

_log = logging.getLogger(__name__)


async def enroll(security: SecurityManager, request: EnrollRequest, refusals: Refusals) -> Reply:
    """See :meth:`fleetcore.interfaces.protocol.DevicePlane.enroll`.

    A refusal is counted and audited, even where an unknown peer gets the same answer for any id. It never becomes a
    dead letter: the request may contain a token.
    """
    try:
        reply = await security.enroll(request)
    except StrangerRefused as error:
        refusals.count(request.protocol, error.code)
        return error.answer
    except FleetError as error:
        reply = refusal(rejection(error))
    except BaseException as error:
        _log.error("An enrolment failed", exc_info=contained(error, "a part of it"))
        reply = refusal(Rejected(code="internal", reason="The enrolment could not be handled"))
    if reply.error is not None:
        refusals.count(request.protocol, str(reply.error["code"]))
    return reply

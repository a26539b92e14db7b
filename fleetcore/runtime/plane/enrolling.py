"""Enrolment as a reply: whatever goes wrong is a problem document, never an exception."""

import logging

from fleetcore.errors import FleetError
from fleetcore.fleet.security import SecurityManager
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.message import Rejected, Reply
from fleetcore.wire.replies import refusal, rejection

_log = logging.getLogger(__name__)


async def enroll(security: SecurityManager, request: EnrollRequest) -> Reply:
    """See :meth:`fleetcore.interfaces.protocol.DevicePlane.enroll`."""
    try:
        return await security.enroll(request)
    except FleetError as error:
        return refusal(rejection(error))
    except Exception:
        _log.exception("An enrolment failed")
        return refusal(Rejected(code="internal", reason="The enrolment could not be handled"))

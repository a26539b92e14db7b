"""Enrolment from the device's side, over a request-response protocol: one step by a token, two by a claim."""

from collections.abc import Awaitable, Callable, Mapping

from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.message import Reply
from fleetcore.wire.csr import as_pem


async def enroll(request: EnrollRequest, ask: Callable[[Mapping[str, object]], Awaitable[Reply]]) -> Reply:
    """Requests a certificate by ``ask(body)``, an ``enroll``; with ``at_once`` both steps of a claim in one request.

    Raises Refused (``csr_invalid``) for a request that cannot be read.
    """
    parameters = {"parameters": dict(request.parameters)} if request.parameters else {}
    if request.ownership is not None:
        return await ask({"ownership_token": request.ownership, **parameters})
    token = {"token": request.token} if request.token else {}
    begun = await ask({"csr": as_pem(request.csr).decode("ascii", "replace"), **token, **parameters})
    ownership = None if begun.body is None else begun.body.get("ownership_token")
    if ownership is None or not request.at_once:
        return begun
    return await ask({"ownership_token": ownership})

"""The enrolment of a gateway at the core."""

from fleetcore.errors import Unavailable
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.wire.identity import issued_chain, make_csr
from fleetcore.wire.replies import error_of
from fleetcore_edge.uplink.clients import MakeClient
from fleetcore_edge.uplink.credentials import Credentials


async def enrol(credentials: Credentials, make: MakeClient, url: str, *, token: str, ca: bytes) -> None:
    """Gets a certificate with a token, and keeps it with the core's CA.

    Where the enrolment waits for approval, the next try asks with the same key.

    Raises:
        FleetError: the core refuses, with its code; ``enrollment_pending`` where an operator has to approve it first.
    """
    key, pem = credentials.pending_key()
    gateway = credentials.gateway
    async with make(url, credentials.bare(ca)) as client:
        reply = await client.enroll(EnrollRequest(csr=make_csr(gateway, key), token=token))
    if reply.error is not None:
        raise error_of(reply)
    if reply.body is None or "certificate" not in reply.body:
        raise Unavailable(
            f"The core has not issued a certificate for {gateway} yet: the enrolment waits for approval",
            code="enrollment_pending",
            remedy="Approve it at the core, then enrol again",
        )
    credentials.keep(issued_chain(reply.body), pem)
    credentials.keep_ca(ca)

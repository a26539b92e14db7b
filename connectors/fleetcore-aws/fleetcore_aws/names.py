"""The alphabets of names at AWS, and the ids of jobs."""

import hashlib

from fleetcore.interfaces.escape import Escape

#: Things, thing types and thing groups: ``[a-zA-Z0-9:_-]{1,128}`` (API reference, CreateThing).
THING = Escape(plain="a-zA-Z0-9_-", mark=":", longest=128)
#: Jobs: ``[a-zA-Z0-9_-]{1,64}`` (API reference, CreateJob).
JOB = Escape(plain="a-zA-Z0-9-", mark="_", longest=64)


def fleet_digest(fleet: str) -> str:
    """Eight hexadecimal digits for a fleet, where its name does not fit."""
    return hashlib.sha256(fleet.encode()).hexdigest()[:8]


def job_id(fleet: str, id: str) -> str:
    """The id of a job: begins with the fleet's digest; a long id of ours is hashed, as :func:`job_key` recognises."""
    start = fleet_digest(fleet)
    return JOB.encode(id, f"{start}-") or f"{start}_{hashlib.sha256(id.encode()).hexdigest()[:40]}"


def is_job_of(fleet: str, name: str) -> bool:
    """Whether an id was made by :func:`job_id` for this fleet."""
    return name.startswith((f"{fleet_digest(fleet)}-", f"{fleet_digest(fleet)}_"))


def job_key(fleet: str, name: str) -> str | None:
    """Our id of a job; None if it was hashed, and is in the job's document."""
    return JOB.decode(name, f"{fleet_digest(fleet)}-")

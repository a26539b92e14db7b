"""Names in the fleet as names at AWS, and back: an escape that is reversible and cannot collide.

A character that AWS does not take is written as a mark and two hexadecimal digits for each of its UTF-8 bytes; the
mark itself is always escaped. Each name at AWS stands for at most one of the fleet, and no other spelling is read.
"""

import hashlib
import re

from attrs import frozen


@frozen(kw_only=True)
class Escape:
    """One alphabet.

    Attributes:
        plain: the characters that stay, as a class of a pattern.
        mark: what begins an escape; AWS takes it, and ``plain`` does not have it.
        longest: what AWS takes, in characters.
    """

    plain: str
    mark: str
    longest: int

    def encode(self, text: str, prefix: str = "") -> str | None:
        """The name at AWS; None where that would be empty or too long."""
        escaped = re.sub(f"[^{self.plain}]", self._hexadecimal, text)
        return prefix + escaped if text and len(prefix) + len(escaped) <= self.longest else None

    def decode(self, name: str, prefix: str = "") -> str | None:
        """The fleet's name; None for what :meth:`encode` does not give."""
        if not name.startswith(prefix):
            return None
        parts = re.split(f"((?:{re.escape(self.mark)}[0-9A-F]{{2}})+)", name[len(prefix) :])
        try:
            text = "".join(
                bytes.fromhex(part.replace(self.mark, "")).decode() if number % 2 else part
                for number, part in enumerate(parts)
            )
        except UnicodeDecodeError:
            return None
        return text if self.encode(text, prefix) == name else None

    def _hexadecimal(self, found: re.Match[str]) -> str:
        # A lone surrogate is no text that AWS could be sent; it becomes bytes that decode() does not read.
        return "".join(f"{self.mark}{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


#: Things, thing types and thing groups: ``[a-zA-Z0-9:_-]{1,128}`` (API reference, CreateThing).
THING = Escape(plain="a-zA-Z0-9_-", mark=":", longest=128)
#: Jobs: ``[a-zA-Z0-9_-]{1,64}`` (API reference, CreateJob).
JOB = Escape(plain="a-zA-Z0-9-", mark="_", longest=64)


def fleet_digest(fleet: str) -> str:
    """Eight hexadecimal digits that stand for a fleet where its name has no room."""
    return hashlib.sha256(fleet.encode()).hexdigest()[:8]


def job_id(fleet: str, id: str) -> str:
    """The id of a job: begins with the fleet's digest; a long id of ours is hashed, which :func:`job_key` tells."""
    start = fleet_digest(fleet)
    return JOB.encode(id, f"{start}-") or f"{start}_{hashlib.sha256(id.encode()).hexdigest()[:40]}"


def is_job_of(fleet: str, name: str) -> bool:
    """Whether an id was made by :func:`job_id` for this fleet."""
    return name.startswith((f"{fleet_digest(fleet)}-", f"{fleet_digest(fleet)}_"))


def job_key(fleet: str, name: str) -> str | None:
    """Our id of a job; None where it was hashed, and then stands in the job's document."""
    return JOB.decode(name, f"{fleet_digest(fleet)}-")

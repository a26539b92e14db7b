"""Entries of desired functions are verified; what has begun may start again after its manifest's end."""

import pytest
from fleetcore_edge.functions.wanted import TRUST, Verifier

from fleetcore.errors import Refused
from fleetcore.model.edge import Function
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.signers import START_MS, Signers, digest
from fleetcore.wire.strict_json import dumps

DAY_MS = 86_400_000


class Place:
    """A gateway's folder with the firmware root, and a clock."""

    def __init__(self, folder):
        self.folder, self.signers, self.clock = folder, Signers(), MovableClock(START_MS)
        (folder / TRUST).write_bytes(dumps(self.signers.trust(expires=START_MS + 100 * DAY_MS)))

    @property
    def verifier(self):
        return Verifier(self.folder, "G-1", self.clock)

    def entry(self, seq=1, days=30):
        module = b"module %d" % seq
        manifest = self.signers.manifest(
            module, name="quiet", seq=seq, version=f"{seq}.0.0", component="function.quiet", models=("G-1",),
            function=Function(metrics=("temperature",)), expires=START_MS + days * DAY_MS,
        )  # fmt: skip
        return {"version": f"{seq}.0.0", "sha256": digest(module), "size": len(module), "manifest": manifest}

    def code(self, entry):
        try:
            self.verifier.verify("quiet", entry)
        except Refused as refused:
            return refused.code
        return None


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.mark.parametrize(("days", "code"), [(31, "manifest_expired"), (101, "trust_expired")])
def test_a_function_that_has_begun_starts_again_after_the_end(place, days, code):
    entry, other = place.entry(), place.entry(seq=2)
    place.verifier.begun(place.verifier.verify("quiet", entry), None)
    place.clock.jump(days * DAY_MS)

    assert place.code(entry) is None
    assert place.code(other) == code


def test_what_was_removed_or_replaced_begins_anew(place):
    first, second = place.entry(), place.entry(seq=2)
    place.verifier.begun(place.verifier.verify("quiet", first), None)
    place.verifier.begun(place.verifier.verify("quiet", second), place.verifier.verify("quiet", first))
    place.clock.jump(31 * DAY_MS)
    replaced, running = place.code(first), place.code(second)
    place.verifier.ended(place.verifier.verify("quiet", second))

    assert (replaced, running) == ("manifest_expired", None)
    assert place.code(second) == "manifest_expired"


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"5", b"[1, null]"])
def test_a_damaged_note_counts_as_none(place, content):
    entry = place.entry()
    (place.folder / "begun.json").write_bytes(content)
    fresh = place.code(entry)
    place.clock.jump(31 * DAY_MS)

    assert (fresh, place.code(entry)) == (None, "manifest_expired")

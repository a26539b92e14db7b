"""The contract of :class:`~fleetcore.interfaces.admission.Admission`: decides about each candidate, in time, always."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import pytest
from attrs import evolve

from fleetcore.interfaces.admission import Admission, Admit, Candidate, Refuse, Verdict, Wait
from fleetcore.testing.contract import Contract, missing

#: The core's time limit for all admissions of an enrolment together.
TIMEOUT_S = 5.0
#: Parameters that a device may send.
HOSTILE: tuple[Mapping[str, object], ...] = (
    {},
    {"serial": None},
    {"serial": ["S-1"]},
    {"serial": {"$ne": ""}},
    {"serial": "S-1\x00"},
    {"serial": "' OR 1=1 --"},
    {"serial": "../../etc/passwd"},
    {"serial": "x" * 4000},
    {"serial": 1e308, "model": -1, "\u202e": True},
)


@pytest.mark.asyncio
class AdmissionContract(Contract):
    """Override ``admission``, ``admitted`` and ``refused``; ``waiting`` if it can let candidates wait."""

    @pytest.fixture
    def admission(self) -> Admission:
        """The opened admission."""
        raise missing(self, "admission")

    @pytest.fixture
    def admitted(self) -> Candidate:
        """A candidate that is admitted."""
        raise missing(self, "admitted")

    @pytest.fixture
    def refused(self) -> Candidate:
        """A refused candidate."""
        raise missing(self, "refused")

    @pytest.fixture
    def waiting(self) -> Candidate | None:
        """A candidate that has to wait; None if no candidate waits."""
        return None

    async def test_it_admits_and_refuses(self, admission: Admission, admitted: Candidate, refused: Candidate) -> None:
        assert await _decided(admission, admitted) == Admit()
        assert isinstance(await _decided(admission, refused), Refuse)

    async def test_it_has_a_candidate_wait(self, admission: Admission, waiting: Candidate | None) -> None:
        if waiting is None:
            pytest.skip("this admission lets no candidate wait")

        assert isinstance(await _decided(admission, waiting), Wait)

    async def test_a_repeat_is_answered_alike(
        self, admission: Admission, admitted: Candidate, refused: Candidate
    ) -> None:
        for candidate in (admitted, refused):
            first = await _decided(admission, candidate)
            for _ in range(3):
                assert await _decided(admission, candidate) == first, f"{candidate.device.id} is decided again"

    async def test_many_at_a_time_are_told_apart(
        self, admission: Admission, admitted: Candidate, refused: Candidate
    ) -> None:
        candidates = [admitted, refused] * 8

        verdicts = await asyncio.gather(*(_decided(admission, candidate) for candidate in candidates))

        assert [isinstance(verdict, Admit) for verdict in verdicts] == [True, False] * 8

    async def test_whatever_a_device_says_is_answered(self, admission: Admission, refused: Candidate) -> None:
        for parameters in HOSTILE:
            verdict = await _decided(admission, evolve(refused, parameters=parameters))
            assert not isinstance(verdict, Admit), f"a refused device is admitted with {parameters!r}"

    async def test_whatever_stands_beside_the_right_word_is_answered(
        self, admission: Admission, admitted: Candidate
    ) -> None:
        for name, value in admitted.parameters.items():
            for other in _beside(value):
                await _decided(admission, evolve(admitted, parameters={**admitted.parameters, name: other}))

    async def test_a_reason_is_one_line(self, admission: Admission, refused: Candidate) -> None:
        for parameters in (refused.parameters, *HOSTILE):
            verdict = await _decided(admission, evolve(refused, parameters=parameters))
            if isinstance(verdict, Refuse | Wait):
                assert verdict.reason.isprintable(), f"{verdict.reason!r} goes into a log"


def _beside(value: object) -> Sequence[object]:
    """Values that look like the right one."""
    text = str(value)
    # A superscript two and an Arabic-Indic digit are digits to Python; int() reads the second and refuses the first.
    words = [f"{text}{end}" for end in ("\u00b2", "\u0663", "\x00", "\n", " ", "\ud800", text * 500)]
    return [*words, "", text[:1], [value], {"": value}, None, True, -1, 10**400]


async def _decided(admission: Admission, candidate: Candidate) -> Verdict:
    """The verdict; an assertion that shows the candidate's parameters if it is late."""
    said = f"{str(dict(candidate.parameters))[:200]} of {candidate.device.id}"
    began = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            verdict: object = await admission.decide(candidate)
    except TimeoutError as error:
        raise AssertionError(f"no answer within {TIMEOUT_S:g} s to {said}") from error
    except Exception as error:
        raise AssertionError(f"decide raised {error!r} for {said}") from error
    # A timeout cannot end code that blocks: the answer is late, and nothing else of the server ran.
    took_s = time.monotonic() - began
    assert took_s < TIMEOUT_S, f"decide blocked for {took_s:.1f} s; a BlockingAdmission runs in a thread"
    assert isinstance(verdict, Admit | Refuse | Wait), f"decide answers {verdict!r} to {said}"
    return verdict

"""The contract of admissions passes for the example, and bites those that do not keep it."""

import asyncio
import importlib.util
import logging
import time
from pathlib import Path

import pytest

from fleetcore.interfaces import Admission, Admit, Candidate, Refuse, Wait
from fleetcore.interfaces.provider import Context
from fleetcore.model.device import Device
from fleetcore.testing import admission_contract
from fleetcore.testing.admission_contract import AdmissionContract
from fleetcore.testing.clock import MovableClock

ROOT = Path(__file__).parents[2]
ADMITTED = Candidate(device=Device(id="th-1", type="sensor"), parameters={"serial": "S-1"})
REFUSED = Candidate(device=Device(id="th-2", type="sensor"), parameters={"serial": "S-2"})


def example():
    spec = importlib.util.spec_from_file_location("one_file_admission", ROOT / "examples" / "one_file_admission.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestTheExample(AdmissionContract):
    @pytest.fixture
    async def admission(self, tmp_path):
        (tmp_path / "serials.txt").write_text("S-1\n\n S-3 \n")
        module = example()
        context = Context(
            name="serials", fleet="f", clock=MovableClock(), logger=logging.getLogger("x"), secret=str, data=tmp_path
        )
        async with module.open_serials(module.SerialsConfig(), context) as admission:
            yield admission

    @pytest.fixture
    def admitted(self):
        return ADMITTED

    @pytest.fixture
    def refused(self):
        return REFUSED


class _Scripted(Admission):
    """Answers by a function of the candidate and the number of the question."""

    def __init__(self, answer):
        self._answer, self._asked = answer, 0

    async def decide(self, candidate):
        self._asked += 1
        return self._answer(candidate, self._asked)


def _right(candidate, _number):
    return Admit() if candidate.parameters.get("serial") == "S-1" else Refuse("unknown")


BROKEN = {
    "admits all": ("test_it_admits_and_refuses", lambda _candidate, _number: Admit()),
    "answers True": ("test_it_admits_and_refuses", lambda _candidate, _number: True),
    "changes its mind": (
        "test_a_repeat_is_answered_alike",
        lambda candidate, number: Wait("later") if number == 2 else _right(candidate, number),
    ),
    "raises on a list": (
        "test_whatever_a_device_says_is_answered",
        lambda candidate, _number: Admit() if candidate.parameters["serial"] in {"S-1", "S-3"} else Refuse("unknown"),
    ),
    "looks at the beginning": (
        "test_whatever_stands_beside_the_right_word_is_answered",
        lambda candidate, _number: Admit() if int(str(candidate.parameters["serial"])[2:]) == 1 else Refuse("unknown"),
    ),
    "repeats what the device says": (
        "test_a_reason_is_one_line",
        lambda candidate, _number: Refuse(f"{candidate.parameters.get('serial')} is unknown"),
    ),
}


@pytest.mark.parametrize(("test", "answer"), BROKEN.values(), ids=BROKEN)
async def test_the_contract_bites(test, answer):
    contract, admission = AdmissionContract(), _Scripted(answer)
    cases = {
        "test_it_admits_and_refuses": (admission, ADMITTED, REFUSED),
        "test_a_repeat_is_answered_alike": (admission, ADMITTED, REFUSED),
        "test_whatever_a_device_says_is_answered": (admission, REFUSED),
        "test_whatever_stands_beside_the_right_word_is_answered": (admission, ADMITTED),
        "test_a_reason_is_one_line": (admission, REFUSED),
    }

    await getattr(AdmissionContract(), test)(*(_Scripted(_right), *cases[test][1:]))
    with pytest.raises(AssertionError) as failure:
        await getattr(contract, test)(*cases[test])

    assert str(failure.value).strip(), "a bare failure shows nothing"


class _Hangs(Admission):
    async def decide(self, candidate):
        await asyncio.Event().wait()


class _Blocks(Admission):
    async def decide(self, candidate):
        time.sleep(0.05)
        return _right(candidate, 1)


class _Raises(Admission):
    async def decide(self, candidate):
        raise LookupError("database")


@pytest.mark.parametrize(
    ("admission", "words"),
    [
        (_Hangs(), "no answer within 0.02 s to {'serial': 'S-1'} of th-1"),
        (_Blocks(), "a BlockingAdmission runs in a thread"),
        (_Raises(), r"decide raised LookupError\('database'\) for {'serial': 'S-1'} of th-1"),
    ],
    ids=["hangs", "blocks", "raises"],
)
async def test_the_contract_says_what_was_asked_and_what_went_wrong(admission, words, monkeypatch):
    monkeypatch.setattr(admission_contract, "TIMEOUT_S", 0.02)

    with pytest.raises(AssertionError, match=words):
        await AdmissionContract().test_it_admits_and_refuses(admission, ADMITTED, REFUSED)

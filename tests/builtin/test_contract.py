"""The machinery of contracts: no overriding, gaps with reasons, strict; and broken codecs do not pass theirs."""

import json

import pytest
from attrs import evolve

from fleetcore.builtin.json_codec import JsonCodec
from fleetcore.interfaces.codec import Decoded, DecodedReading
from fleetcore.model.message import Rejected
from fleetcore.testing.codec_contract import CodecContract, Sample
from fleetcore.testing.contract import Contract

pytest_plugins = "pytester"


class Sums(Contract):
    def test_two_and_two(self):
        assert self.add(2, 2) == 4

    def test_nothing(self):
        assert self.add(0, 0) == 0

    def add(self, one, other):
        return one + other


def test_a_test_of_a_contract_cannot_be_overridden():
    with pytest.raises(TypeError, match="test_nothing overrides"):

        class Cheats(Sums):
            def test_nothing(self):
                pass


def test_not_even_by_a_mixin_further_down():
    class Honest(Sums):
        pass

    with pytest.raises(TypeError, match="test_two_and_two overrides"):

        class Cheats(Honest):
            test_two_and_two = None


@pytest.mark.parametrize("gaps", [{"test_three": "reason"}, {"add": "reason"}, {"test_nothing": " "}])
def test_a_gap_names_a_test_and_a_reason(gaps):
    with pytest.raises(TypeError, match="gaps"):
        type("Vague", (Sums,), {"gaps": gaps})


def test_a_gap_must_fail_and_says_why(pytester):
    pytester.makepyfile(
        """
        from fleetcore.testing.contract import Contract

        class Sums(Contract):
            def test_two_and_two(self):
                assert self.add(2, 2) == 4

            def test_nothing(self):
                assert self.add(0, 0) == 0

        class TestWrong(Sums):
            gaps = {"test_two_and_two": "the adder is off by one", "test_nothing": "it is mended"}

            def add(self, one, other):
                return one + other + (one == 2)
        """
    )

    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")

    result = pytester.runpytest_inprocess("-rxX", "-p", "no:cacheprovider")

    result.assert_outcomes(xfailed=1, failed=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*it is mended*", "*XFAIL*the adder is off by one*"])


class RaisesOnBadBytes(JsonCodec):
    def decode(self, payload, received_ms):
        payload.decode()
        return super().decode(payload, received_ms)


class MediaTypeWithParameters(JsonCodec):
    media_types = ("Application/JSON; charset=utf-8",)


class LosesReadings(JsonCodec):
    def decode(self, payload, received_ms):
        decoded = super().decode(payload, received_ms)
        return evolve(decoded, readings=decoded.readings[1:]) if isinstance(decoded, Decoded) else decoded


class TruthIsOne(JsonCodec):
    def decode(self, payload, received_ms):
        decoded = super().decode(payload, received_ms)
        if isinstance(decoded, Rejected):
            return decoded
        return evolve(decoded, readings=[evolve(one, value=float(one.value)) for one in decoded.readings])


class Infinite(JsonCodec):
    def decode(self, payload, received_ms):
        return Decoded([DecodedReading(0, "a", float("inf"))])


class ReadsNaN(JsonCodec):
    def decode(self, payload, received_ms):
        try:
            plain = json.loads(payload)
        except ValueError:
            return Rejected(code="payload_unreadable", reason="no JSON")
        values = plain.get("values", plain)
        return Decoded([DecodedReading(index, name, value) for index, (name, value) in enumerate(values.items())])


class UnknownCode(JsonCodec):
    def decode(self, payload, received_ms):
        decoded = super().decode(payload, received_ms)
        return Rejected(code="overloaded", reason="busy") if isinstance(decoded, Rejected) else decoded


class NoReason(JsonCodec):
    def decode(self, payload, received_ms):
        decoded = super().decode(payload, received_ms)
        return evolve(decoded, reason="") if isinstance(decoded, Rejected) else decoded


class Remembers(JsonCodec):
    last = Decoded([])

    def decode(self, payload, received_ms):
        decoded = super().decode(payload, received_ms)
        if isinstance(decoded, Decoded) and payload[:1] == b"{":
            decoded, self.last = self.last, decoded
        return decoded


class ClaimsByDecoding(JsonCodec):
    def claims(self, payload):
        return payload.decode().startswith("{")


class Slow(JsonCodec):
    """Takes five seconds for a large message, by a clock that the test moves."""

    now = 0.0

    def decode(self, payload, received_ms):
        Slow.now += 5.5 if len(payload) > 200_000 else 0.0
        return super().decode(payload, received_ms)


SAMPLES = [
    Sample(payload=b'{"temperature": 25.5, "open": true}', readings=[("temperature", 25.5), ("open", True)]),
    Sample(payload=b'{"values": {"a": 1}}', readings=[("a", 1)]),
]


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (MediaTypeWithParameters, "test_media_types_are_lower_case_and_bare"),
        (LosesReadings, "test_samples_are_read"),
        (TruthIsOne, "test_samples_are_read"),
        (Infinite, "test_samples_are_read"),
        (ReadsNaN, "test_a_number_that_is_not_finite_is_never_a_reading"),
        (Remembers, "test_decoding_leaves_nothing_behind"),
        (RaisesOnBadBytes, "test_any_bytes_are_read_or_refused"),
        (UnknownCode, "test_any_bytes_are_read_or_refused"),
        (RaisesOnBadBytes, "test_damaged_samples_are_read_or_refused"),
        (NoReason, "test_cut_off_samples_are_read_or_refused"),
        (ClaimsByDecoding, "test_claims_answers_for_any_bytes"),
        (Slow, "test_work_is_bounded"),
    ],
)
def test_the_codec_contract_bites(broken, test, monkeypatch):
    if broken is Slow:
        monkeypatch.setattr("time.thread_time", lambda: Slow.now)
    given = {"codec": broken(), "samples": SAMPLES, "token": b"NaN"}
    method = getattr(CodecContract(), test)
    wanted = [name for name in given if name in method.__annotations__]

    with pytest.raises((AssertionError, UnicodeDecodeError)) as failure:
        method(**{name: given[name] for name in wanted})

    assert str(failure.value).strip(), "a bare failure shows nothing"

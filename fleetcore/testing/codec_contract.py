"""The contract of :class:`~fleetcore.interfaces.codec.Codec`: reads its formats, and survives everything else."""

import math
import re
import time
from collections.abc import Sequence

import pytest
from attrs import frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetcore.errors import CODES
from fleetcore.interfaces.codec import Codec, Decoded
from fleetcore.model.message import Rejected
from fleetcore.model.names import is_message_id
from fleetcore.testing.contract import Contract, missing

RECEIVED_MS = 1_767_225_600_000
#: The default message limit (wire.md §3).
MAX_BYTES = 256 * 1024
#: For one message of that size; ten times the time of a decoder in plain Python, on a busy machine.
TIME_LIMIT_S = 5.0
_REFUSALS = ("payload_unreadable", "schema_invalid", "limit_exceeded")

#: Placeholders for numbers in text, and the ways of formats and float() to write non-finite ones.
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_NOT_FINITE = (b"nan", b"NaN", b"inf", b"-inf", b"Infinity", b"-Infinity", b"1e999", b"-1e999")

# A codec is stateless, so one instance can be used for all examples; a contract's test runs in several classes.
_examples = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)


@frozen(kw_only=True)
class Sample:
    """A valid payload, and metric and value of its readings in order."""

    payload: bytes
    readings: Sequence[tuple[str, float | bool | str]]


class CodecContract(Contract):
    """Override ``codec`` and ``samples``."""

    @pytest.fixture
    def codec(self) -> Codec:
        """The opened codec."""
        raise missing(self, "codec")

    @pytest.fixture
    def samples(self) -> Sequence[Sample]:
        """Valid payloads, at least one; together they use all of the format."""
        raise missing(self, "samples")

    def test_media_types_are_lower_case_and_bare(self, codec: Codec) -> None:
        for media in codec.media_types:
            assert media == media.lower().strip(), media
            assert ";" not in media, media
            assert media.count("/") == 1, media

    def test_samples_are_read(self, codec: Codec, samples: Sequence[Sample]) -> None:
        assert samples, "a contract without samples tests nothing"
        for sample in samples:
            decoded = _checked(codec, sample.payload)
            assert isinstance(decoded, Decoded), f"{sample.payload!r} is refused: {decoded}"
            got = [(reading.metric, reading.value) for reading in decoded.readings]
            assert got == list(sample.readings), sample.payload
            assert [type(value) for _, value in got] == [type(value) for _, value in sample.readings], got
            assert not decoded.refused, decoded.refused

    def test_decoding_leaves_nothing_behind(self, codec: Codec, samples: Sequence[Sample]) -> None:
        first = [codec.decode(sample.payload, RECEIVED_MS) for sample in samples]
        for sample in samples:
            codec.decode(sample.payload[: len(sample.payload) // 2], RECEIVED_MS)

        assert [codec.decode(sample.payload, RECEIVED_MS) for sample in samples] == first

    @_examples
    @given(payload=st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused(self, codec: Codec, payload: bytes) -> None:
        _checked(codec, payload)

    @_examples
    @given(data=st.data())
    def test_damaged_samples_are_read_or_refused(
        self, codec: Codec, samples: Sequence[Sample], data: st.DataObject
    ) -> None:
        payload = bytearray(data.draw(st.sampled_from(samples)).payload)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(payload)))
            cut = data.draw(st.integers(0, 3))
            payload[at : at + cut] = data.draw(st.binary(max_size=4))
        _checked(codec, bytes(payload))

    def test_cut_off_samples_are_read_or_refused(self, codec: Codec, samples: Sequence[Sample]) -> None:
        for sample in samples:
            for end in range(len(sample.payload)):
                _checked(codec, sample.payload[:end])

    @pytest.mark.parametrize("token", _NOT_FINITE)
    def test_a_number_that_is_not_finite_is_never_a_reading(
        self, codec: Codec, samples: Sequence[Sample], token: bytes
    ) -> None:
        for sample in samples:
            for number in _NUMBER.finditer(sample.payload):
                _checked(codec, sample.payload[: number.start()] + token + sample.payload[number.end() :])

    @_examples
    @given(payload=st.binary(max_size=64))
    def test_claims_answers_for_any_bytes(self, codec: Codec, payload: bytes) -> None:
        assert codec.claims(payload) in (True, False)

    def test_work_is_bounded(self, codec: Codec, samples: Sequence[Sample]) -> None:
        hostile = [bytes([byte]) * MAX_BYTES for byte in b'[{"9-0 \x00\x80\x81\x9f\xa1\xbf\xff']
        hostile += [sample.payload * (MAX_BYTES // len(sample.payload)) for sample in samples if sample.payload]
        for payload in hostile:
            start = time.thread_time()
            codec.claims(payload)
            _checked(codec, payload)
            took = time.thread_time() - start
            assert took < TIME_LIMIT_S, f"{took:.1f} s for {payload[:20]!r}…"


def _checked(codec: Codec, payload: bytes) -> Decoded | Rejected:
    """Decodes, and checks the rules for every outcome, whatever the bytes."""
    outcome = codec.decode(payload, RECEIVED_MS)
    if isinstance(outcome, Rejected):
        assert outcome.code in _REFUSALS, outcome
        assert outcome.reason.strip(), "a refusal must have a reason"
        return outcome
    assert isinstance(outcome, Decoded), f"decode must return Decoded or Rejected, not {type(outcome).__name__}"
    places = [reading.index for reading in outcome.readings]
    assert places == sorted(places), f"readings must be in the order of sending, not {places}"
    assert all(place >= 0 for place in places), places
    for reading in outcome.readings:
        assert type(reading.metric) is str, reading
        assert type(reading.value) in (bool, int, float, str), reading
        assert isinstance(reading.value, str) or math.isfinite(reading.value), f"{reading.metric} is not finite"
        assert reading.unit is None or type(reading.unit) is str, reading
        assert reading.seq is None or (type(reading.seq) is int and reading.seq >= 0), reading
        assert reading.subject is None or type(reading.subject) is str, reading
    for place, metric, code, *reason in outcome.refused:
        assert place >= 0, f"{place} is not a place in a message"
        assert type(metric) is str, f"{metric!r} is not a name"
        assert all(type(sentence) is str for sentence in reason), reason
        assert code in CODES, f"{code!r} is not an error code"
        assert not CODES[code].temporary, f"{code!r} would make the device send bad bytes again"
    assert outcome.id is None or is_message_id(outcome.id), f"{outcome.id!r} is not a message id"
    return outcome

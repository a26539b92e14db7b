"""Names at AWS: reversible, without collisions, within AWS's alphabets."""

import re

from fleetcore_aws.names import JOB, THING, is_job_of, job_id, job_key
from hypothesis import example, given
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(TEXT)
@example("a.b")
@example("a:2Eb")
@example(":")
@example("ü \N{GRINNING FACE}")
def test_an_encoded_name_is_read_back_and_is_one_that_aws_takes(text):
    for escape, pattern in ((THING, r"[a-zA-Z0-9:_-]{1,128}"), (JOB, r"[a-zA-Z0-9_-]{1,64}")):
        name = escape.encode(text)
        if name is None:
            continue

        assert re.fullmatch(pattern, name, re.ASCII)
        assert escape.decode(name) == text


@given(st.text("aA0:_2EFf-", max_size=20))
@example(":2")
@example(":2e")
@example(":61")
@example(":FF")
def test_no_name_is_read_that_is_not_the_encoding_of_what_is_read(name):
    text = THING.decode(name)

    assert text is None or THING.encode(text) == name


def test_a_name_that_is_too_long_or_empty_has_no_encoding():
    assert THING.encode("a" * 128) == "a" * 128
    assert THING.encode("a" * 129) is None
    assert THING.encode("." * 43) is None
    assert THING.encode("") is None
    assert THING.encode("a" * 126, "p-") == "p-" + "a" * 126
    assert THING.encode("a" * 127, "p-") is None


def test_a_name_without_the_prefix_is_another_ones():
    assert THING.decode("q-a", "p-") is None
    assert THING.decode("p-a", "p-") == "a"


@given(TEXT, TEXT)
def test_jobs_of_two_ids_and_two_fleets_are_apart(one, other):
    assert (job_id("here", one) == job_id("here", other)) == (one == other)
    assert is_job_of("here", job_id("here", one))
    assert not is_job_of("there", job_id("here", one))
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", job_id("here", one), re.ASCII)
    assert job_key("here", job_id("here", one)) in {one, None}


def test_a_long_job_id_is_hashed_and_says_so():
    name = job_id("here", "c" * 100)

    assert len(name) <= 64
    assert job_key("here", name) is None

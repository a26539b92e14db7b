"""Topics: what is parsed, what may be subscribed to, and that the lists and the parser are one."""

import re

import pytest
from fleetcore_mqtt import topics
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.model.message import Downlink
from fleetcore.wire import messages

IDS = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", re.ASCII), fullmatch=True)
SENT = [one for one in messages.ALL if topics.downlink_topic("d", Downlink(type=one, subject="d"))]
LEVELS = st.text(st.sampled_from("ab+#/$.-_ \0é"), max_size=12)


def concrete(name):
    return name.replace("+", "x1")


@given(IDS, st.one_of(st.none(), IDS), st.sampled_from(topics.WRITE))
def test_every_topic_of_the_write_list_is_parsed(device, leaf, row):
    name, kind = row
    prefix = f"fleet/v1/{device}/" + (f"leaf/{leaf}/" if leaf else "")

    uplink = topics.parse(prefix + concrete(name))

    assert (uplink.device, uplink.subject, uplink.type) == (device, leaf or device, kind)
    assert (uplink.request is not None) == (name == "request/+")
    assert (uplink.target is not None) == (name == "commands/+/result")


@given(IDS, LEVELS)
def test_no_text_below_a_prefix_reaches_another_device(device, rest):
    uplink = topics.parse(f"fleet/v1/{device}/{rest}")

    assert uplink is None or uplink.device == device


@given(LEVELS, LEVELS)
def test_a_level_that_is_no_device_id_is_nobodys_topic(level, rest):
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", level, re.ASCII):
        return

    assert topics.parse(f"fleet/v1/{level}/{rest}") is None or "/" in level


@given(IDS, IDS, LEVELS)
def test_a_filter_that_may_be_subscribed_to_selects_nothing_of_another_device(device, other, rest):
    if device == other or not topics.is_filter(text := f"fleet/v1/{device}/{rest}"):
        return
    if topics.may_subscribe(device, text):
        assert not any(topics.matches(text, concrete(name)) for name in topics.filters(topics.READ, other))


@given(IDS, IDS, st.text(st.sampled_from("abfletv1/+#$"), max_size=20))
def test_a_filter_that_is_not_below_the_own_prefix_is_refused(device, other, text):
    if topics.may_subscribe(device, text):
        assert text.startswith(f"fleet/v1/{device}/")


def test_the_read_and_the_write_list_do_not_meet():
    for written in topics.filters([name for name, _ in topics.WRITE], "d"):
        for read in topics.filters(topics.READ, "d"):
            assert not topics.matches(written, concrete(read)), (written, read)


@given(IDS, IDS, st.sampled_from(SENT))
def test_a_downlink_is_understood_as_what_it_was(device, subject, kind):
    target = "c1" if kind is messages.COMMAND_CANCEL else None
    topic = topics.downlink_topic(device, Downlink(type=kind, subject=subject, target=target))

    assert topics.parse_downlink(topic) == (kind, subject, target)
    assert topics.may_subscribe(device, topic)


@given(IDS, IDS, st.sampled_from([name for name, kind in topics.WRITE if kind is not None]))
def test_an_uplink_is_understood_as_what_it_was(device, subject, name):
    kind = dict(topics.WRITE)[name]
    target = "c1" if kind is messages.COMMAND_RESULT else None

    uplink = topics.parse(topics.uplink_topic(device, kind, subject, target))

    assert (uplink.device, uplink.subject, uplink.type, uplink.target) == (device, subject, kind, target)


@pytest.mark.parametrize(
    ("shape", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("+/+", "a/b", True),
        ("#", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a//b", "a//b", True),
        ("a/+/b", "a//b", True),
    ],
)
def test_filters_select_as_the_standard_says(shape, topic, expected):
    assert topics.matches(shape, topic) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a/+/#", True), ("+", True), ("", False), ("a+", False), ("#/a", False), ("a/#b", False), ("a//", True)],
)
def test_filters_are_well_formed_as_the_standard_says(text, expected):
    assert topics.is_filter(text) is expected

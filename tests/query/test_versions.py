"""Versions against the library semver: the same grammar but for one old permission, and the same order.

Stored queries keep our own parser. It also takes build metadata with an empty identifier (``1.0.0+a..b``), which the
library refuses: with the library such a query would no longer be read, and such a device would leave its groups.
"""

import pytest
import semver
from hypothesis import example, given
from hypothesis import strategies as st

from fleetcore.query.versions import version_key

_NUMBERS = st.sampled_from(["0", "1", "2", "9", "10", "99999999999999999999", "01", "٣", ""])
_WORDS = st.sampled_from(["0", "1", "10", "01", "a", "B", "rc", "alpha", "-", "1a", "--1", "é", "_"])


def _join(words):
    return ".".join(words)


def _versions(core, words, ends):
    pre = st.lists(words, min_size=1, max_size=3).map(_join).map("-".__add__)
    build = st.lists(words, min_size=1, max_size=2).map(_join).map("+".__add__)
    parts = (core.map(_join), st.just("") | pre, st.just("") | build, st.sampled_from(ends))
    return st.tuples(*parts).map("".join)


_ANY = _versions(st.lists(_NUMBERS, min_size=2, max_size=4), _WORDS, ["", "", "", "\n", " "])
_VALID = _versions(
    st.lists(st.sampled_from(["0", "1", "10", "99999999999999999999"]), min_size=3, max_size=3),
    st.sampled_from(["0", "1", "9", "10", "a", "B", "rc", "-", "1a", "--1"]),
    [""],
)


def _by_library(text):
    try:
        return semver.Version.parse(text)
    except ValueError:
        return None


@given(_ANY)
@example("1.0.0\n")
@example("1.0.0-01")
def test_what_is_a_version(text):
    if text.endswith("\n"):
        assert version_key(text) is None
    else:
        assert (version_key(text) is None) == (_by_library(text) is None)


@given(_VALID, _VALID)
@example("1.0.0+a", "1.0.0+b")
@example("1.0.0-rc.1", "1.0.0-rc.1.0")
@example("1.0.0-9", "1.0.0-10")
@example("1.0.0-9", "1.0.0-a")
def test_the_order_of_versions_is_that_of_the_library(a, b):
    ours = (version_key(a) > version_key(b)) - (version_key(a) < version_key(b))

    assert ours == _by_library(a).compare(_by_library(b))


@pytest.mark.parametrize("text", ["1.0.0+", "1.0.0+a b", "1.0.0+ü"])
def test_build_metadata_that_is_no_word_is_refused(text):
    assert version_key(text) is None


@pytest.mark.parametrize("text", ["1.0.0+a..b", "1.0.0+."])
def test_stored_queries_keep_build_metadata_with_an_empty_identifier(text):
    assert version_key(text) == version_key("1.0.0")
    assert _by_library(text) is None

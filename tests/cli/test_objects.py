"""What takes a JSON object at the command line: the object itself, or NAME=VALUE words."""

import click
import pytest

from fleetcore.cli.twin import as_object, object_argument
from fleetcore.errors import Refused

ARGUMENT = object_argument("patch")


def read(*words):
    return as_object(click.Context(click.Command("set")), ARGUMENT, words)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (['{"a": "b=c"}'], '{"a": "b=c"}'),
        (["a=1", "b=on", "c=null", 'd={"e": [2]}'], '{"a": 1, "b": "on", "c": null, "d": {"e": [2]}}'),
        (["a=b=c"], '{"a": "b=c"}'),
        ([], None),
    ],
)
def test_an_object_is_read(words, text):
    assert read(*words) == text


@pytest.mark.parametrize(
    ("words", "problem"), [(["{a: 1}"], "not JSON"), (["[1]"], "not a JSON object"), (["a=1", "b"], "not NAME=VALUE")]
)
def test_what_is_none_is_refused(words, problem):
    with pytest.raises(Refused, match=problem):
        read(*words)

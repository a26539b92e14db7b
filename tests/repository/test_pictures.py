"""The pictures of the documentation are what the code gives, and the code can be drawn in layers."""

from graphlib import CycleError

import pytest

from scripts import pictures


def test_the_pictures_are_what_the_code_gives_today() -> None:
    assert list(pictures.stale()) == [], "run `make generate` and commit what it writes"


def test_a_package_stands_above_all_that_it_imports() -> None:
    edges = {"a": {"b", "c"}, "b": {"c"}, "c": set()}

    assert pictures.layers(edges) == [["c"], ["b"], ["a"]]


def test_an_import_that_a_longer_way_stands_for_is_not_drawn() -> None:
    edges = {"a": {"b", "c"}, "b": {"c"}, "c": set()}

    assert pictures.reduced(edges) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_packages_that_import_each_other_cannot_be_drawn() -> None:
    with pytest.raises(CycleError):
        pictures.layers({"a": {"b"}, "b": {"a"}})


def test_every_consumer_is_in_the_picture_of_the_data_path() -> None:
    assert {"detect", "notify", "mirror/readings", "seal_audit"} <= pictures.consumers().keys()

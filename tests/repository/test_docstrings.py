"""Sections of docstrings are laid out so that the reference pages show all of them."""

import re
from pathlib import Path

import pytest

from scripts.prose import sources

ROOT = Path(__file__).parents[2]
_SECTION = re.compile(r"^( *)(?:Attributes|Args|Raises):$")
_ENTRY = re.compile(r"^ *[\w`*.]+(?:, [\w`*.]+)*(?: \([^)]*\))?:(?:\s|$)")


def lost_lines(text):
    """The lines of sections that continue an entry at the indent of an entry: generated pages leave them out."""
    section = None
    for number, line in enumerate(text.split("\n"), start=1):
        indent = len(line) - len(line.lstrip())
        if (begun := _SECTION.match(line)) is not None:
            section = len(begun.group(1))
        elif section is not None and line.strip():
            if indent <= section:
                section = None
            elif indent == section + 4 and not _ENTRY.match(line):
                yield number


@pytest.mark.parametrize("file", list(sources()), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_line_of_a_section_is_lost(file):
    assert list(lost_lines(file.read_text(encoding="utf-8"))) == []


def test_the_check_sees_what_it_is_for():
    text = '"""X.\n\nArgs:\n    a: what\n    it is.\n    b, c: others,\n        told well.\n"""\n'

    assert list(lost_lines(text)) == [5]

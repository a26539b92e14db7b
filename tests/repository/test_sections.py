"""A citation of a section leads to one: in the code to a page's, or to a standard's that is named beside it.

``wire.md §3`` means the heading ``3.`` of ``docs/**/wire.md``, or of a page in the folder ``wire/`` beside it: where a
page is split, its parts go on with its numbers. A numbered row of a table is a section too.
"""

import re
from pathlib import Path

import pytest

from fleetcore.errors import CODES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_NUMBERED = re.compile(r"^(?:#+ |\| )(\d+(?:\.\d+)*)\.? ", re.MULTILINE)
_OF_A_PAGE = re.compile(r"\b([a-z][\w-]*)\.md\b(?:\]\([^)]*\))? §([\d.]*\d)", re.IGNORECASE)
_SECTION = re.compile(r"§ ?([\d.]*\d)")
#: A section is of one of these where no page is named.
_STANDARD = re.compile(r"RFC \d+|MQTT \d|MQTT-|Semantic Versioning|X\.690|The Update Framework|Finch|file format")
#: How many characters before a citation its standard is looked for: that of a paragraph.
_NEAR = 400

SOURCES = sorted(
    file
    for folder in ("fleetcore", "plugins", "connectors", "tests", "examples", "benchmarks", "scripts")
    for file in (ROOT / folder).rglob("*.py")
    if file != Path(__file__) and not {"build", ".venv"} & set(file.parts)
)
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("*/*/README.md")])


def family(page: Path) -> list[Path]:
    """A page with its parts: those in the folder of its name, or those beside it and the page above."""
    whole = page.parent.with_suffix(".md")
    top = whole if whole.is_file() else page
    return [top, *sorted(top.with_suffix("").glob("*.md"))]


def sections(page: Path) -> set[str]:
    return {number for part in family(page) for number in _NUMBERED.findall(part.read_text(encoding="utf-8"))}


def cited(text: str) -> list[tuple[str, str]]:
    """Page and section of each citation that names a page."""
    return _OF_A_PAGE.findall(text)


def missing(text: str) -> list[str]:
    """The citations of a page's section that lead nowhere."""
    found = []
    for stem, number in cited(text):
        pages = [page for page in DOCS.rglob("*.md") if page.stem == stem.lower()]
        if not any(number in sections(page) for page in pages):
            found.append(f"{stem}.md §{number}")
    return found


def own(text: str) -> list[str]:
    """The sections that are cited without a page, and without a standard near by."""
    named = {match.start(2) for match in _OF_A_PAGE.finditer(text)}
    return [
        match.group(1)
        for match in _SECTION.finditer(text)
        if match.start(1) not in named and not _STANDARD.search(text[max(0, match.start() - _NEAR) : match.start()])
    ]


def unnamed(text: str) -> list[str]:
    """As :func:`own`, but where the module's docstring names the standard that all of it is about."""
    return [] if _STANDARD.search(text[: text.find('"""', 3)]) else own(text)


def test_what_the_code_cites_of_a_page_is_there() -> None:
    wrong = {str(file.relative_to(ROOT)): found for file in SOURCES if (found := missing(file.read_text()))}

    assert sum(len(cited(file.read_text())) for file in SOURCES) > 60
    assert wrong == {}, "cite a section that exists, or write it"


def test_a_section_is_of_a_page_or_of_a_standard_that_is_named() -> None:
    wrong = {str(file.relative_to(ROOT)): found for file in SOURCES if (found := unnamed(file.read_text()))}

    assert wrong == {}, "name the page (wire.md §3) or the standard (RFC 7252 §4.2)"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_cites_sections_that_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert missing(text) == []
    assert [number for number in own(text) if number not in sections(page)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [("# wire.md §3", []), ("# wire.md §99", ["wire.md §99"]), ("# [wire.md](wire.md) §99", ["wire.md §99"])],
)
def test_a_citation_of_a_section_that_is_not_there_is_found(text: str, found: list[str]) -> None:
    assert missing(text) == found


@pytest.mark.parametrize(
    ("text", "found"), [('"""."""\n# (§4)', ["4"]), ('"""."""\n# RFC 7252 §4', []), ('"""MQTT 5.0."""\n# §4', [])]
)
def test_a_citation_that_names_nothing_is_found(text: str, found: list[str]) -> None:
    assert unnamed(text) == found


def test_no_specification_is_cited_that_is_not_in_the_repository() -> None:
    pages = {page for path in SOURCES for page in re.findall(r"\b[A-Z]{4,}\.md\b", path.read_text())}

    assert {page for page in pages if not (ROOT / page).exists()} == set()


_ROWS = re.findall(
    r"^\| (\d+\.\d+) \| [^|]+ \| ([^|]+) \| `([^`]+)` \|$",
    (DOCS / "explanation" / "hostile-inputs.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_each_hostile_input_has_a_test_and_codes_that_exist() -> None:
    words = {word for _, answer, _ in _ROWS for word in re.findall(r"`([a-z_]+)`", answer)}

    assert len(_ROWS) > 40
    assert {place for _, _, place in _ROWS if not (ROOT / place).is_file()} == set()
    assert words - CODES.keys() == set()

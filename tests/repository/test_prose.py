"""Pages and docstrings are plain English: the turns of phrase that ``scripts/prose.py`` lists do not come back."""

import pytest

from scripts import prose

#: Sentences over 30 words in all pages. Take some apart and lower it.
LONG_SENTENCES = 33


@pytest.mark.parametrize("page", prose.pages(), ids=lambda page: str(page.relative_to(prose.ROOT)))
def test_a_page_has_no_listed_phrase_and_is_not_too_long(page) -> None:
    text = page.read_text(encoding="utf-8")

    assert [f"{match!r}: {prose.PATTERNS[found]}" for found, match in prose.matches(prose.prose_of(text))] == []
    assert len(text.splitlines()) <= prose.LONGEST_PAGE, "split it by topic"


def test_sentences_over_thirty_words_become_fewer() -> None:
    assert sum(map(prose.long_sentences, prose.pages())) <= LONG_SENTENCES


def test_listed_phrases_in_docstrings_become_fewer() -> None:
    found, allowed = prose.in_docstrings(), prose.allowed()

    more = {path: count for path, count in found.items() if count > allowed.get(path, 0)}
    assert more == {}, "`python scripts/prose.py --all` names them"
    fewer = {path: count for path, count in allowed.items() if found[path] < count}
    assert fewer == {}, "run `python scripts/prose.py --lower` and commit the table"


@pytest.mark.parametrize(
    "text",
    [
        "It is no broker.",
        "A store has no copy of its own.",
        "Whoever connects is refused.",
        "Somebody says where a device is.",
        "Nobody may write it.",
        "A broker, for one, does.",
        "It is kept. Who owns the folder owns the fleet.",
        "A device is none of them.",
        "At most so many messages.",
    ],
)
def test_a_listed_phrase_is_found(text: str) -> None:
    assert list(prose.matches(text))


@pytest.mark.parametrize(
    "text",
    [
        "It is no longer there.",
        "Ask who changed it.",
        "One for one device.",
        "It is None.",
        "NotFound: there is no such device.",
    ],
)
def test_plain_english_is_left_alone(text: str) -> None:
    assert list(prose.matches(text)) == []


def test_code_is_not_prose() -> None:
    assert list(prose.matches(prose.prose_of("```\nnobody\n```\n`nobody` <!-- nobody -->"))) == []
    assert list(prose.docstrings('"""Reads ``nobody``."""')) == ["Reads `code`."]


def test_a_sentence_that_is_too_long_is_counted(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# {'word ' * 40}\n\nShort. {'Word ' * 31}end.\n\n- {'word ' * 10}\n\n| {'cell ' * 40} |\n")

    assert prose.long_sentences(page) == 1

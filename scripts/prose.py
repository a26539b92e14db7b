"""Measures the prose of the pages and finds the turns of phrase that the project does without.

``python scripts/prose.py`` prints, for README.md and docs/: words, pages over 300 lines, sentences over 30 words, and
the matches of listed patterns; then the matches in the docstrings of the code. ``--all`` names each match;
``--lower`` writes the docstrings' counts, where they have fallen, to the table that the test holds them to.
``tests/repository/test_prose.py`` holds the pages to none, and the docstrings to no more than there are.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: A page longer than this is split.
LONGEST_PAGE = 300
#: A sentence with more words than this is taken apart.
LONGEST_SENTENCE = 30

#: What is not written → what to write instead.
PATTERNS: dict[str, str] = {
    # "There is no such device" and "there is none" are plain English.
    r"(?<!\bthere )\bis no (?!longer\b|more\b)[a-z]+": 'say what it is, or "is not a …"',
    r"(?<!\bthere )\b(?:is|are|was|were) (?-i:none)\b": "say what it is",
    r"\bha(?:s|ve) no [^.]{0,60}\bof (?:its|their) own\b": "say what it uses instead",
    r"\bwhoever\b": "name the device, the operator, the program",
    r"\bsomebody\b": "name the device, the operator, the program",
    r"\bnobody\b": "name the device, the operator, the program",
    r"\bfor one(?=[.,;:)]|$)": '"for example", or leave it out',
    r"(?:^|(?<=[.:;] ))Who [a-z]+s? [^.?]*\.": "begin with the thing or the person that acts",
    r"\bfor ever\b": '"forever", or until when',
    r"\bin good standing\b": "say which state",
    r"\bwithout a word\b": '"silently"',
    r"\bword of (?:a|an|the)\b|'s (?:own )?word\b|\bown word\b": "name the message or the decision",
    r"\bcannot lie\b": "say how it is checked",
    r"\bso (?:much|many)\b(?! (?:that|as)\b)": "give the number, or say that it is limited",
}  # fmt: skip
_FOUND = {pattern: re.compile(pattern, re.IGNORECASE if pattern.islower() else 0) for pattern in PATTERNS}
TABLE = ROOT / "tests" / "repository" / "docstring_matches.txt"
_FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_INLINE = re.compile(r"`[^`\n]*`")
_SHOWN = re.compile(r"^::: .*$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def prose_of(text: str) -> str:
    """A page without its code blocks, comments and addresses of links; code in a line counts as one word."""
    text = _SHOWN.sub("", _COMMENT.sub("", _FENCE.sub("", text)))
    return _LINK.sub(r"\1", _INLINE.sub("`code`", text))


def sentences(text: str) -> Iterator[str]:
    """The sentences of the paragraphs and lists of a page; headings and tables have none."""
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\.)\s?)", prose_of(text)):
        line = " ".join(block.split())
        if line and not line.startswith(("|", "#")):
            yield from re.split(r"(?<=[.!?:;])\s+(?=[A-Z`\[*\"])", line)


def matches(text: str) -> Iterator[tuple[str, str]]:
    """Each pattern that some prose has, with the words that match."""
    flat = " ".join(text.split())
    for pattern, found in _FOUND.items():
        for match in found.finditer(flat):
            yield pattern, match.group()


def docstrings(text: str) -> Iterator[str]:
    """The docstrings of a module, code in them taken out."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield re.sub(r"``[^`]*``", "`code`", ast.get_docstring(node) or "")


def sources() -> Iterable[Path]:
    """The modules whose docstrings are held to the patterns: what is shipped, without tests and generated files."""
    for folder in ("fleetcore", "plugins", "connectors"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).parts
            if "tests" not in parts and "generated" not in parts and "build" not in parts:
                yield file


def in_docstrings() -> Counter[str]:
    """How often the docstrings of each file match, by its path; files without a match are left out."""
    found: Counter[str] = Counter()
    for file in sources():
        for text in docstrings(file.read_text(encoding="utf-8")):
            for _ in matches(text):
                found[file.relative_to(ROOT).as_posix()] += 1
    return found


def allowed() -> dict[str, int]:
    """How often the docstrings of each file may match, by its path."""
    rows = (line.split() for line in TABLE.read_text(encoding="utf-8").splitlines())
    return {path: int(count) for count, path in rows}


def lower() -> None:
    """Writes the counts that have fallen; a file that is not in the table, or has risen, stays as it was."""
    found, before = in_docstrings(), allowed()
    kept = {path: min(count, found[path]) for path, count in before.items() if found[path]}
    TABLE.write_text("".join(f"{count:3} {path}\n" for path, count in sorted(kept.items())), encoding="utf-8")


def long_sentences(page: Path) -> int:
    """How many sentences of a page are too long."""
    return sum(len(one.split()) > LONGEST_SENTENCE for one in sentences(page.read_text(encoding="utf-8")))


def main() -> None:
    """Prints the measures, or lowers the table."""
    if "--lower" in sys.argv:
        lower()
    words = over_long = long = 0
    shown: list[str] = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT).as_posix()
        words += len(prose_of(text).split())
        over_long += len(text.splitlines()) > LONGEST_PAGE
        long += long_sentences(page)
        shown += [f"{name}: {match!r} → {PATTERNS[pattern]}" for pattern, match in matches(prose_of(text))]
    found = in_docstrings()
    print(f"{len(pages())} pages, {words} words; {over_long} over {LONGEST_PAGE} lines")
    print(f"{long} sentences over {LONGEST_SENTENCE} words; {len(shown)} matches of listed patterns")
    print(f"docstrings: {sum(found.values())} matches in {len(found)} files")
    if "--all" in sys.argv:
        print("\n".join(shown))
        print("\n".join(f"{name}: {count}" for name, count in sorted(found.items())))


if __name__ == "__main__":
    main()

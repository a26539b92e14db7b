"""Fills marked regions of prose pages with generated text."""

_MARK = "<!-- {name}: written by scripts/reference.py -->"


def filled_in(page: str, region: str, text: str) -> str:
    """The page with ``text`` in its region; raises for a page without that region."""
    begin, end = _MARK.format(name=region), _MARK.format(name=f"end of {region}")
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"the page has no region {region}"
    return f"{before}{begin}\n{text.strip()}\n{end}{after}"

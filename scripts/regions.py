"""Pages that are prose with marked regions: what stands between two marks follows from the code."""

_MARK = "<!-- {name}: written by scripts/reference.py -->"


def filled_in(page: str, region: str, text: str) -> str:
    """The page with ``text`` in its region; a page without that region is a mistake."""
    begin, end = _MARK.format(name=region), _MARK.format(name=f"end of {region}")
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"the page has no region {region}"
    return f"{before}{begin}\n{text.strip()}\n{end}{after}"

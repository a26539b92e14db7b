"""The page of the example notebook is what the notebook gives; ``tests/examples`` runs it."""

import nbformat

from scripts import notebook


def test_the_page_is_what_the_notebook_gives():
    assert notebook.stale() == [], "run `make generate` and commit what it writes"


def test_a_changed_cell_makes_the_page_stale(tmp_path, monkeypatch):
    changed = notebook.read()
    changed.cells[-1].source += "\n# changed"
    nbformat.write(changed, tmp_path / "notebook.ipynb")
    monkeypatch.setattr(notebook, "NOTEBOOK", tmp_path / "notebook.ipynb")

    assert notebook.stale() == [notebook.PAGE]

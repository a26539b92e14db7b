"""The example notebook runs in a kernel as it stands, and its stored outputs are those of the run."""

import asyncio
import json

import nbformat
import pytest

from scripts import notebook

#: Behind the last cell: what the notebook has found, as JSON.
REPORT = """
import json
minutes = [(anomaly.device, (anomaly.time - int(views[0].time[0])) / 60_000) for anomaly in found]
print(json.dumps({"chosen": chosen, "faults": faults, "found": minutes}))
"""


def told(cell):
    """What a cell printed and answered, without pictures, which depend on the fonts."""
    return [(output.output_type, output.get("text") or output.data["text/plain"]) for output in cell.outputs]


def code(cells):
    return {cell.id: cell for cell in cells if cell.cell_type == "code"}


@pytest.fixture(scope="module")
def ran():
    """The notebook after a run, and its report."""
    given = notebook.read()
    given.cells.append(nbformat.v4.new_code_cell(REPORT))
    *cells, last = asyncio.run(notebook.run(given)).cells
    return code(cells), json.loads(last.outputs[0].text)


def test_the_stored_outputs_are_those_of_a_run(ran):
    cells, _ = ran

    stored = {name: told(cell) for name, cell in code(notebook.read().cells).items()}
    assert {name: told(cell) for name, cell in cells.items()} == stored


def test_no_cell_warns(ran):
    cells, _ = ran

    assert [o for cell in cells.values() for o in cell.outputs if o.get("name") == "stderr"] == []


def test_the_cells_that_plot_give_a_picture(ran):
    cells, _ = ran

    drawn = {name for name, cell in cells.items() for output in cell.outputs if "image/png" in output.get("data", {})}
    assert drawn == {"plot", "plot-all"}


def test_the_chosen_threshold_finds_exactly_the_faults(ran):
    _, report = ran

    assert len(report["found"]) == len(report["faults"]) == 2
    for device, begins, ends, _ in report["faults"]:
        assert [minute for found, minute in report["found"] if found == device and begins <= minute < ends]
    assert f"above = {report['chosen']}.0" in notebook.PAGE.read_text(encoding="utf-8")

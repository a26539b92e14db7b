"""Runs ``examples/notebook.ipynb`` and makes its page, ``docs/tutorials/notebook.md``, with its pictures.

``python scripts/notebook.py`` writes both (``make generate``). One test compares the page with the notebook, another
the notebook's outputs with those of a run.
"""

import asyncio
import copy
import os
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
PAGE = ROOT / "docs" / "tutorials" / "notebook.md"
#: A hang, never slowness.
_PATIENCE_S = 300
_SOURCE = """\
<!-- written by scripts/notebook.py -->
This page is `examples/notebook.ipynb` of the repository with the outputs of a run."""


def read() -> NotebookNode:
    """The notebook as it is stored."""
    notebook: NotebookNode = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]  # it has no types
    return notebook


async def run(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the outputs of a run in a fresh kernel, in a folder of its own.

    Raises:
        CellExecutionError: a cell raised an error.
    """
    ran = copy.deepcopy(notebook)
    with TemporaryDirectory() as folder:
        client = NotebookClient(
            ran,
            kernel_name="python3",
            timeout=_PATIENCE_S,
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": folder}},
            # Sockets in the folder: the kernel warns of TCP, which other users of the machine could read.
            config=Config({"AsyncKernelManager": {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}}),
        )
        await client.async_execute(env={**os.environ, "IPYTHONDIR": folder})
    ran.metadata = notebook.metadata  # the client notes the version of Python
    return ran


def pictures(notebook: NotebookNode) -> dict[str, bytes]:
    """The pictures among its outputs as PNG, by their names beside the page."""
    return {
        name: b64decode(output.data["image/png"])
        for cell in notebook.cells
        for name, output in _outputs(cell)
        if "image/png" in output.get("data", {})
    }


def page(notebook: NotebookNode) -> str:
    """The page: text, code, and what the code printed and drew."""
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source.replace("](../docs/", "](../"))
        else:
            parts.append(f"```python\n{cell.source}\n```")
            called = cell.source.splitlines()[-1]
            parts += [_shown(name, output, called) for name, output in _outputs(cell)]
    return "\n\n".join([parts[0], _SOURCE, *parts[1:]]) + "\n"


def _outputs(cell: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """The outputs of a cell, each with the name of its picture, if it is one."""
    for number, output in enumerate(cell.get("outputs", [])):
        yield f"notebook-{cell.id}{f'-{number}' if number else ''}.png", output


def _shown(name: str, output: NotebookNode, called: str) -> str:
    if output.output_type == "stream":
        return f"```text\n{output.text.rstrip()}\n```"
    if "image/png" in output.data:
        return f"![What `{called}` draws]({name})"
    return f"```text\n{output.data['text/plain']}\n```"


def stale() -> list[Path]:
    """The page and the pictures that differ from the notebook, including obsolete pictures."""
    made = _made(read())
    changed = [path for path, content in made.items() if not path.is_file() or path.read_bytes() != content]
    return sorted([*changed, *(set(PAGE.parent.glob("notebook-*.png")) - made.keys())])


def _made(notebook: NotebookNode) -> dict[Path, bytes]:
    drawn = {PAGE.parent / name: content for name, content in pictures(notebook).items()}
    return {PAGE: page(notebook).encode(), **drawn}


def main() -> None:
    """Runs the notebook, and writes what has changed."""
    stored = read()
    ran = asyncio.run(run(stored))
    if ran != stored:
        nbformat.write(ran, NOTEBOOK)  # type: ignore[no-untyped-call]  # it has no types
        print(NOTEBOOK)
    made = _made(ran)
    for path in stale():
        if path in made:
            path.write_bytes(made[path])
        else:
            path.unlink()
        print(path)


if __name__ == "__main__":
    main()

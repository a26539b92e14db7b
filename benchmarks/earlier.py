"""An earlier state of the repository to compare with: unpacked into a folder, its packages used from there."""

import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

#: Before open commands were kept in memory and a group of commits was written as one.
COMMIT = "e460a49"


@contextmanager
def earlier(commit: str = COMMIT) -> Iterator[Path | None]:
    """A folder with the files of ``commit``; None where this is no git checkout, or one that does not reach back."""
    root = Path(__file__).parent.parent
    with TemporaryDirectory() as folder:
        packed = Path(folder) / "earlier.tar"
        asked = ["git", "-C", str(root), "archive", "-o", str(packed), commit]
        try:
            subprocess.run(asked, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            yield None
            return
        with tarfile.open(packed) as archive:
            archive.extractall(Path(folder) / "tree", filter="data")
        yield Path(folder) / "tree"

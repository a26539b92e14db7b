"""Bundles: one file that updates a device without a network (docs/reference/wire/state.md §12).

A bundle is a tar archive (POSIX ustar) with ``manifest.json``, ``trust/1.json`` and the further trust roots in their
order, and at last ``image.bin``: a device reads it once from beginning to end, and has verified the manifest before the
first byte of the image.
"""

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fleetcore.errors import Conflict
from fleetcore.wire.manifest import check_image, peek_manifest
from fleetcore.wire.strict_json import dumps


def write_bundle(
    file: Path,
    manifest: Mapping[str, object],
    roots: Sequence[Mapping[str, object]],
    image: Path,
    sha256: str,
    size: int,
) -> None:
    """Writes a bundle completely or not at all. The same content gives the same bytes.

    Args:
        roots: every version of the trust root, the first one first.
        sha256, size: of the image.

    Raises:
        Conflict: the file exists already.
        Refused: ``hash_mismatch``, ``size_mismatch``: it is another image than the manifest's.
    """
    check_image(peek_manifest(manifest), sha256, size)
    if file.exists():
        raise Conflict(f"{file} exists already", remedy="Name another file with --out")
    beside = file.with_name(file.name + ".new")
    with beside.open("wb") as target:
        with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            _add(archive, "manifest.json", dumps(manifest))
            for number, root in enumerate(roots, 1):
                _add(archive, f"trust/{number}.json", dumps(root))
            with image.open("rb") as content:
                archive.addfile(_member("image.bin", size), content)
        target.flush()
        os.fsync(target.fileno())
    beside.replace(file)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_member(name, len(content)), io.BytesIO(content))


def _member(name: str, size: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size = size
    return made

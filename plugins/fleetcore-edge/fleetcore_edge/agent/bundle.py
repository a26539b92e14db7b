"""A release of the agent: a zip of wheels, unpacked into a folder of packages."""

import os
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from fleetcore.errors import Refused

#: The most that a bundle holds, unpacked.
MOST_BYTES, MOST_FILES = 512 << 20, 50_000
#: Where wheels keep what does not go into the folder of packages as it is (PEP 427).
_LIBRARIES = ("purelib", "platlib")


def unpack(bundle: Path, site: Path) -> None:
    """Unpacks the wheels of a bundle into a new folder. It appears when it is complete.

    Raises:
        Refused: ``schema_invalid``, it is not a zip of wheels, names places outside the folder, or is too large.
    """
    part = site.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700, parents=True)
    try:
        _extract_all(bundle, part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    os.sync()  # a release that is started is whole, also after a loss of power
    shutil.rmtree(site, ignore_errors=True)
    part.rename(site)


def _extract_all(bundle: Path, site: Path) -> None:
    left_bytes, left_files = MOST_BYTES, MOST_FILES
    try:
        with zipfile.ZipFile(bundle) as outer:
            wheels = [each for each in outer.infolist() if each.filename.endswith(".whl")]
            if not wheels:
                raise _invalid("it holds no wheel")
            for wheel in wheels:
                with outer.open(wheel) as opened, zipfile.ZipFile(opened) as inner:
                    for member in inner.infolist():
                        left_bytes, left_files = left_bytes - member.file_size, left_files - 1
                        if left_bytes < 0 or left_files < 0:
                            raise _invalid("it is too large")
                        _extract(inner, member, site)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise _invalid(str(error)) from error


def _extract(wheel: zipfile.ZipFile, member: zipfile.ZipInfo, site: Path) -> None:
    place = _place(member)
    if place is None or member.is_dir():
        return
    target = site / place
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    left = member.file_size
    with wheel.open(member) as source, target.open("wb") as file:
        while piece := source.read(1 << 20):
            left -= len(piece)
            if left < 0:
                raise _invalid(f"{member.filename} is longer than it says")
            file.write(piece)


def _place(member: zipfile.ZipInfo) -> PurePosixPath | None:
    """Where a member goes, below the folder; None for scripts and the like, which the agent does not need."""
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename or stat.S_ISLNK(member.external_attr >> 16):
        raise _invalid(f"{member.filename!r} lies outside the folder")
    if not path.parts or not path.parts[0].endswith(".data"):
        return path
    return PurePosixPath(*path.parts[2:]) if len(path.parts) > 2 and path.parts[1] in _LIBRARIES else None


def _invalid(why: str) -> Refused:
    return Refused(
        f"The bundle cannot be used: {why}", code="schema_invalid", remedy="Make it of wheels: zip agent.zip *.whl"
    )

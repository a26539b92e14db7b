"""The manifest of a backup: whose it is, and a digest of every file, so that damage is seen before it is restored."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen, validators

from fleetcore.errors import Refused

NAME = "manifest.json"
_PIECE = 1 << 20


@frozen(kw_only=True)
class Manifest:
    """What a backup holds.

    Attributes:
        fleet: the fleet's id.
        made: when, ms since the epoch.
        files: SHA-256 (hex) of each file by its path in the backup.
    """

    fleet: str
    name: str
    made: int
    files: dict[str, str] = field(factory=dict, validator=validators.instance_of(dict))


def write(folder: Path, *, fleet: str, name: str, made: int) -> None:
    """Reads every file of a backup and writes its manifest."""
    manifest = {"fleet": fleet, "name": name, "made": made, "files": dict(_digests(folder))}
    target = folder / NAME
    target.touch(mode=0o600)
    target.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def verify(folder: Path) -> Manifest | None:
    """Reads every file of a backup and compares; None for a backup of a release that wrote no manifest.

    Raises Refused, with the names of files that are damaged, missing or not of the backup.
    """
    source = folder / NAME
    if not source.is_file():
        return None
    try:
        manifest = Manifest(**json.loads(source.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise Refused(f"The manifest {source} cannot be read", remedy="Take another backup") from error
    found = dict(_digests(folder))
    wrong = sorted(name for name in found.keys() | manifest.files.keys() if found.get(name) != manifest.files.get(name))
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise Refused(
            f"The backup {folder} is damaged: {shown} {'is' if len(wrong) == 1 else 'are'} not as written",
            code="hash_mismatch",
            remedy="Take another backup",
            files=wrong[:100],
        )
    return manifest


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / NAME:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
            yield path.relative_to(folder).as_posix(), digest.hexdigest()

"""The manifest of a backup: its fleet, and a digest of every file, so that damage is found before it is restored."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import asdict, evolve, field, frozen, validators

from fleetcore.errors import Refused

NAME = "manifest.json"
_PIECE = 1 << 20


@frozen(kw_only=True)
class Manifest:
    """The content of a backup.

    Attributes:
        fleet: the fleet's id.
        made: its time, ms since the epoch.
        files: SHA-256 (hex) of each file by its path in the backup.
        digest: the digest of the manifest itself; None if an earlier release wrote it.
    """

    fleet: str
    name: str
    made: int
    files: dict[str, str] = field(factory=dict, validator=validators.instance_of(dict))
    digest: str | None = None

    def own_digest(self) -> str:
        """SHA-256 (hex) of everything but the digest."""
        said = {"fleet": self.fleet, "name": self.name, "made": self.made, "files": self.files}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def write(folder: Path, *, fleet: str, name: str, made: int) -> None:
    """Reads every file of a backup and writes its manifest."""
    manifest = Manifest(fleet=fleet, name=name, made=made, files=dict(_digests(folder)))
    said = asdict(evolve(manifest, digest=manifest.own_digest()))
    target = folder / NAME
    target.touch(mode=0o600)
    target.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def size(folder: Path) -> int:
    """The bytes of a backup's files: the work of :func:`verify`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def missing(folder: Path, remedy: str) -> Refused:
    """The error where a backup needs a manifest and has none."""
    return Refused(f"{folder} has no {NAME}, so its completeness cannot be checked", remedy=remedy)


def verify(folder: Path, read: Callable[[int], None] = lambda _: None) -> Manifest | None:
    """Reads every file of a backup and compares digests; None for a backup of a release that wrote no manifest.

    Args:
        read: called with the bytes read of each piece.

    Raises Refused, with the names of files that are damaged, missing or not part of the backup.
    """
    source = folder / NAME
    if not source.is_file():
        return None
    try:
        manifest = Manifest(**json.loads(source.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(source, "cannot be read") from error
    if manifest.digest not in (None, manifest.own_digest()):
        raise _damaged(source, "does not match its digest")
    found = dict(_digests(folder, read))
    wrong = sorted(name for name in found.keys() | manifest.files.keys() if found.get(name) != manifest.files.get(name))
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise Refused(
            f"The backup {folder} is damaged: {shown} {'does' if len(wrong) == 1 else 'do'} not match the manifest",
            code="hash_mismatch",
            remedy="Take another backup",
            files=wrong[:100],
        )
    return manifest


def _damaged(source: Path, how: str) -> Refused:
    return Refused(f"The manifest {source} {how}", code="hash_mismatch", remedy="Take another backup")


def _digests(folder: Path, read: Callable[[int], None] = lambda _: None) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / NAME:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
                    read(len(piece))
            yield path.relative_to(folder).as_posix(), digest.hexdigest()

"""``fleetcore firmware trust``: creates and signs trust roots away from the server, and gives them to the fleet.

Several people sign one file, each on their own machine, and pass it on.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from attrs import evolve

from fleetcore.cli.connect import Target, connect, fleet_option
from fleetcore.cli.derived import value
from fleetcore.cli.numbers import Number
from fleetcore.cli.output import output_option, show
from fleetcore.errors import Refused
from fleetcore.frontends.catalogue import core
from fleetcore.model.days import DAY_MS

_FILE = click.Path(path_type=Path, dir_okay=False)
_THERE = click.Path(path_type=Path, dir_okay=False, exists=True)

passphrase_option = click.option(
    "--passphrase", metavar="REF", help="The passphrase of the key: env:NAME or file:PATH, never the passphrase itself."
)


def passphrase_of(reference: str | None) -> str | None:
    """The passphrase that a reference names; raises ConfigError."""
    from fleetcore.runtime.config import secret

    return None if reference is None else secret(reference)


def now_ms() -> int:
    """The time of the signing machine."""
    return int(time.time() * 1000)


@click.group()
def trust() -> None:
    """Make, sign, show and set trust roots: who may sign firmware."""


def _models(pairs: tuple[str, ...]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for pair in pairs:
        model, mark, file = pair.rpartition("=")
        if not mark or not model:
            raise click.UsageError(f"{pair!r} is not MODEL=FILE")
        found.setdefault(model, []).append(Path(file))
    return found


@trust.command()
@click.argument("file", type=_FILE, default="trust.json", help="The trust root to write.  [default: trust.json]")
@click.option("--root", "root", type=_THERE, multiple=True, help="A public key that may sign trust roots; repeatable.")
@click.option("--threshold", type=click.IntRange(1), help="How many of them must sign.  [default: 1]")
@click.option(
    "--firmware", "makers", type=_THERE, multiple=True, help="A public key that may sign firmware; repeatable."
)
@click.option("--firmware-threshold", type=click.IntRange(1), help="How many of them must sign.  [default: 1]")
@click.option("--model", "models", multiple=True, metavar="MODEL=FILE", help="A key for one model only; repeatable.")
@click.option("--model-threshold", type=click.IntRange(1), help="How many of a model's keys must sign.  [default: 1]")
@click.option("--days", type=Number(0, min_open=True), default=365, show_default=True, help="Its validity.")
@click.option("--after", type=_THERE, help="The previous version: this is the next one, and keeps what is not given.")
@output_option
def init(
    file: Path,
    root: tuple[Path, ...],
    threshold: int | None,
    makers: tuple[Path, ...],
    firmware_threshold: int | None,
    models: tuple[str, ...],
    model_threshold: int | None,
    days: float,
    after: Path | None,
    output: str,
) -> None:
    """Write FILE, an unsigned trust root; `trust sign` signs it. Existing files are not overwritten."""
    import base64

    from fleetcore.cli import envelopes
    from fleetcore.cli.signing_keys import open_public
    from fleetcore.wire import dsse
    from fleetcore.wire.trust import TRUST_TYPE, FirmwareRoot, Role, raw_key, read_trust, write_trust

    old = None if after is None else read_trust(dsse.opened(envelopes.read(after), TRUST_TYPE))
    if old is None and not (root and (makers or models)):
        raise click.UsageError("A first trust root needs --root and --firmware or --model")
    keys: dict[str, bytes] = {} if old is None else dict(old.keys)

    def role(files: tuple[Path, ...] | list[Path], wanted: int | None, before: Role | None) -> Role | None:
        if not files:
            return before if before is None or wanted is None else evolve(before, threshold=wanted)
        public = [open_public(file) for file in files]
        keys.update({dsse.key_id(item): raw_key(item) for item in public})
        return Role(keys=frozenset(map(dsse.key_id, public)), threshold=wanted or 1)

    roots = role(root, threshold, old.root if old else None)
    assert roots is not None
    made = FirmwareRoot(
        version=1 if old is None else old.version + 1,
        expires=now_ms() + round(days * DAY_MS),
        keys=keys,
        root=roots,
        firmware=role(makers, firmware_threshold, old.firmware if old else None),
        models={} if old is None else old.models,
    )
    for model, files in _models(models).items():
        item = role(files, model_threshold, None)
        assert item is not None
        made = evolve(made, models={**made.models, model: item})
    used = made.root.keys.union(*(item.keys for item in (made.firmware, *made.models.values()) if item is not None))
    made = evolve(made, keys={name: raw for name, raw in keys.items() if name in used})
    payload = write_trust(made)
    read_trust(payload)  # an unreadable root must not be written
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": TRUST_TYPE, "signatures": []}
    envelopes.write(file, envelope, new=True)
    show(_trust_sheet(file, envelope, after), output)


@trust.command("sign")
@click.argument("file", type=_THERE, help="The trust root to sign.")
@click.option("--key", "key_file", type=_THERE, required=True, help="The private key.")
@passphrase_option
@output_option
def sign_trust(file: Path, key_file: Path, passphrase: str | None, output: str) -> None:
    """Add a signature to FILE, a trust root. Each signer uses their own key."""
    from fleetcore.cli import envelopes
    from fleetcore.cli.signing_keys import open_private
    from fleetcore.wire import dsse
    from fleetcore.wire.trust import TRUST_TYPE, read_trust

    envelope = envelopes.read(file)
    read_trust(dsse.opened(envelope, TRUST_TYPE))
    signed = dsse.add_signature(envelope, TRUST_TYPE, open_private(key_file, passphrase_of(passphrase)))
    envelopes.write(file, signed, new=False)
    show(_trust_sheet(file, signed, None), output)


@trust.command("show")
@click.argument("file", type=_THERE, required=False, help="A trust root; without it, the fleet's.")
@click.option("--after", type=_THERE, help="The previous version: check whether FILE may follow it.")
@fleet_option
@output_option
def show_trust(file: Path | None, after: Path | None, at: Target, output: str) -> None:
    """Show a trust root, FILE or the fleet's: its content, who has signed, and how many signatures are missing."""
    if file is not None:
        from fleetcore.cli import envelopes

        show(_trust_sheet(file, envelopes.read(file), after), output)
        return
    held = value(at, core()["get_firmware_root"], {})
    show({**_trust_sheet(None, held["envelope"], None), "added": held["added"], "by": held["by"]}, output)


def _trust_sheet(file: Path | None, envelope: Mapping[str, Any], after: Path | None) -> dict[str, Any]:
    """The content of a trust root, and who has signed it."""
    from fleetcore.cli import envelopes
    from fleetcore.errors import FleetError
    from fleetcore.wire import dsse
    from fleetcore.wire.times import format_time
    from fleetcore.wire.trust import TRUST_TYPE, first_trust, follow, read_trust

    found = read_trust(dsse.opened(envelope, TRUST_TYPE))
    try:
        signed = dsse.verify(envelope, TRUST_TYPE, found.public()).signers
    except FleetError:
        signed = frozenset()
    sheet: dict[str, Any] = {} if file is None else {"file": str(file)}
    sheet |= {
        "version": found.version,
        "expires": format_time(found.expires),
        "expired": found.expires <= now_ms(),
        "root": sorted(found.root.keys),
        "threshold": found.root.threshold,
        "firmware": [] if found.firmware is None else sorted(found.firmware.keys),
        "firmware_threshold": None if found.firmware is None else found.firmware.threshold,
        "models": {
            model: {"keys": sorted(item.keys), "threshold": item.threshold} for model, item in found.models.items()
        },
        "signed_by": sorted(signed),
        "missing": max(0, found.root.threshold - len(signed & found.root.keys)),
    }
    if after is not None:
        try:
            follow(first_trust(envelopes.read(after)), envelope)
            sheet["follows"] = True
        except Refused as error:
            sheet |= {"follows": False, "why": str(error)}
    return sheet


@trust.command("set")
@click.argument(
    "files", type=_THERE, nargs=-1, required=True, metavar="FILE…", help="Signed trust roots, the oldest version first."
)
@click.option("--reason", default="", help="The reason, for the audit log.")
@fleet_option
@output_option
def set_(files: tuple[Path, ...], reason: str, at: Target, output: str) -> None:
    """Give the fleet the next versions of its trust root, in order. The first one is trusted without a check."""
    from fleetcore.cli import envelopes

    found = [envelopes.read(file) for file in files]

    async def run() -> list[dict[str, Any]]:
        async with connect(at) as caller:
            return [await caller.run("set_firmware_root", {"envelope": item, "reason": reason}) for item in found]

    rows = [{name: item[name] for name in ("number", "expires", "added", "by")} for item in asyncio.run(run())]
    show(rows, output)

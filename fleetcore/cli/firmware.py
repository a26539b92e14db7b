"""``fleetcore firmware``: keys, trust roots and manifests away from the server; images and releases on it.

``keygen``, ``trust init``, ``trust sign``, ``trust show``, ``sign`` and ``verify`` need no fleet and no network: run
them on the machine that holds the private keys. The other commands send public data to the fleet.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from fleetcore.cli import envelopes
from fleetcore.cli.connect import Target, connect, fleet_option
from fleetcore.cli.derived import command
from fleetcore.cli.numbers import Number
from fleetcore.cli.output import output_option, show
from fleetcore.cli.trust import now_ms, passphrase_of, passphrase_option, trust
from fleetcore.errors import FleetError
from fleetcore.frontends.catalogue import core
from fleetcore.model.days import DAY_MS
from fleetcore.model.edge import component_of
from fleetcore.model.firmware import MAIN

_FILE = click.Path(path_type=Path, dir_okay=False)
_THERE = click.Path(path_type=Path, dir_okay=False, exists=True)
#: Components nest in a bill of materials.
_SBOM_DEPTH = 100


@click.group()
def firmware() -> None:
    """Sign firmware, and put it on the fleet."""


firmware.add_command(trust)


@firmware.command()
@click.argument("name", type=_FILE, help="The files' name, without its end; may have a folder.")
@passphrase_option
@output_option
def keygen(name: Path, passphrase: str | None, output: str) -> None:
    """Make a signing key: NAME.key, readable only by its owner, and NAME.pub, for trust roots."""
    from fleetcore.cli.signing_keys import make
    from fleetcore.wire.dsse import key_id

    private, public = name.with_name(name.name + ".key"), name.with_name(name.name + ".pub")
    key = make(private, public, passphrase_of(passphrase))
    show({"private": str(private), "public": str(public), "keyid": key_id(key)}, output)


# --- manifests --------------------------------------------------------------------------------------------------------


@firmware.command()
@click.argument("image", type=_THERE, help="The firmware image; with --add, its manifest.")
@click.option("--key", "key_files", type=_THERE, multiple=True, required=True, help="A private key; repeatable.")
@passphrase_option
@click.option("--add", is_flag=True, help="IMAGE is already a manifest: only add a signature to it.")
@click.option("--name", help="The product of this firmware; seq counts within it.")
@click.option("--version", "label", help="The version, for people.")
@click.option("--seq", type=click.IntRange(1), help="Its place in the order; devices never go back.")
@click.option(
    "--min-seq", type=click.IntRange(0), default=0, help="Once it is healthy, nothing below this seq is started again."
)
@click.option("--model", "models", multiple=True, help="A hardware model that it supports; repeatable.")
@click.option("--component", default=MAIN, help="The part of the device that it is for, such as modem.")
@click.option("--requires", type=click.IntRange(1), help="The seq that must already be running.")
@click.option(
    "--requires-component",
    "components",
    multiple=True,
    metavar="COMPONENT=NAME:SEQ",
    help="What another component must have, modem=acme-modem:12; repeatable.",
)
@click.option(
    "--function",
    "contract",
    type=_THERE,
    help="The contract of a function of gateways, as JSON; IMAGE is its module, NAME the function's name.",
)
@click.option("--sbom", type=_THERE, help="Its software bill of materials, CycloneDX or SPDX as JSON.")
@click.option(
    "--days", type=Number(0, min_open=True), default=90, show_default=True, help="How long it may be started."
)
@click.option("--chunk", type=click.IntRange(1024), help="Also sign digests of pieces of this length, in bytes.")
@click.option("--delta-from", type=_THERE, help="The image to which this one is a patch.")
@click.option("--out", type=_FILE, help="The manifest to write.  [default: IMAGE.manifest.json]")
@output_option
def sign(
    image: Path,
    key_files: tuple[Path, ...],
    passphrase: str | None,
    add: bool,
    out: Path | None,
    output: str,
    **given: Any,
) -> None:
    """Sign IMAGE: write a manifest with its product, version and hardware. Needs no fleet and no network."""
    from fleetcore.cli.signing_keys import open_private
    from fleetcore.wire import dsse
    from fleetcore.wire.manifest import MANIFEST_TYPE, read_manifest, write_manifest

    keys = [open_private(key_file, passphrase_of(passphrase)) for key_file in key_files]
    if add:
        envelope: dict[str, object] = envelopes.read(image)
        read_manifest(dsse.opened(envelope, MANIFEST_TYPE))
        for key in keys:
            envelope = dsse.add_signature(envelope, MANIFEST_TYPE, key)
        target = out or image
    else:
        missing = [name for name in ("name", "label", "seq", "models") if not given[name]]
        if missing:
            options = ", ".join({"label": "--version", "models": "--model"}.get(item, f"--{item}") for item in missing)
            raise click.UsageError(f"A manifest needs {options}")
        payload = write_manifest(_manifest_of(image, given))
        read_manifest(payload)  # an unreadable manifest must not be signed
        envelope = dsse.sign(payload, MANIFEST_TYPE, keys)
        target = out or image.with_name(image.name + ".manifest.json")
    envelopes.write(target, envelope, new=not add)
    show({"manifest": str(target), **_manifest_sheet(envelope)}, output)


def _manifest_of(image: Path, given: Mapping[str, Any]) -> Any:
    from fleetcore.wire.manifest import Chunks, Manifest

    sha256, size, pieces = _digest(image, given["chunk"])
    now = now_ms()
    base, component, function = given["delta_from"], given["component"], None
    if given["contract"] is not None:
        component = component_of(given["name"]) if component == MAIN else component
        function = _contract(given["contract"], component)
    return Manifest(
        name=given["name"],
        version=given["label"],
        seq=given["seq"],
        min_seq=given["min_seq"],
        models=given["models"],
        size=size,
        sha256=sha256,
        created=now,
        expires=now + round(given["days"] * DAY_MS),
        component=component,
        requires_seq=given["requires"] or 0,
        requires=tuple(_required(text) for text in given["components"]),
        sbom=None if given["sbom"] is None else _sbom(given["sbom"]),
        function=function,
        chunks=None if given["chunk"] is None else Chunks(size=given["chunk"], sha256=tuple(pieces)),
        delta_from=None if base is None else _digest(base)[0],
    )


def _required(text: str) -> Any:
    """What ``COMPONENT=NAME:SEQ`` means."""
    from fleetcore.wire.manifest import Required

    component, equals, release = text.partition("=")
    name, colon, seq = release.rpartition(":")
    if not equals or not colon or not seq.isdecimal():
        raise click.BadParameter(
            f"{text!r} is not COMPONENT=NAME:SEQ, such as modem=acme-modem:12", param_hint="--requires-component"
        )
    return Required(component=component, name=name, seq=int(seq))


def _contract(file: Path, component: str) -> Any:
    """The contract of a function in a file."""
    from fleetcore.wire.function import read_function
    from fleetcore.wire.members import Members
    from fleetcore.wire.strict_json import loads

    return read_function(Members(loads(file.read_bytes(), depth=_SBOM_DEPTH), f"{file}"), component)


def _sbom(file: Path) -> Any:
    """The reference to a software bill of materials: its format, by what is in it, and its digest."""
    from fleetcore.wire.manifest import Sbom
    from fleetcore.wire.strict_json import loads

    content = file.read_bytes()
    try:
        members = loads(content, depth=_SBOM_DEPTH)
    except FleetError:
        members = None
    if isinstance(members, Mapping):
        for member, form in (("bomFormat", "cyclonedx-json"), ("spdxVersion", "spdx-json")):
            if member in members:
                return Sbom(format=form, sha256=hashlib.sha256(content).hexdigest())
    raise click.BadParameter(f"{file} is neither CycloneDX nor SPDX, as JSON", param_hint="--sbom")


def _digest(
    file: Path, chunk: int | None = None, step: Callable[[int], None] | None = None
) -> tuple[str, int, list[str]]:
    """SHA-256, size, and the digests of pieces if requested."""
    whole, size, found = hashlib.sha256(), 0, []
    with file.open("rb") as source:
        while piece := source.read(chunk or 1 << 20):
            whole.update(piece)
            size += len(piece)
            if chunk is not None:
                found.append(hashlib.sha256(piece).hexdigest())
            if step is not None:
                step(len(piece))
    return whole.hexdigest(), size, found


def _manifest_sheet(envelope: object) -> dict[str, Any]:
    from fleetcore.wire.function import write_function
    from fleetcore.wire.manifest import peek_manifest
    from fleetcore.wire.times import format_time

    found = peek_manifest(envelope)
    function = {} if found.function is None else {"function": write_function(found.function)}
    signatures = envelope.get("signatures", ()) if isinstance(envelope, dict) else ()
    return {
        "name": found.name,
        "version": found.version,
        "seq": found.seq,
        "min_seq": found.min_seq,
        "models": list(found.models),
        "size": found.size,
        "sha256": found.sha256,
        "expires": format_time(found.expires),
        "component": found.component,
        "requires": found.requires_seq or None,
        "components": {each.component: f"{each.name}:{each.seq}" for each in found.requires} or None,
        "sbom": None if found.sbom is None else {"format": found.sbom.format, "sha256": found.sbom.sha256},
        "chunks": None if found.chunks is None else len(found.chunks.sha256),
        "signatures": len(signatures),
        **function,
    }


@firmware.command()
@click.argument("manifest", type=_THERE, help="The signed manifest.")
@click.option("--trust", "trust_file", type=_THERE, required=True, help="The trust root to verify against.")
@click.option("--image", type=_THERE, help="Also compare the image.")
@click.option(
    "--model", "models", multiple=True, help="Only for this model; repeatable. Without it, for all models it names."
)
@output_option
def verify(manifest: Path, trust_file: Path, image: Path | None, models: tuple[str, ...], output: str) -> None:
    """Check MANIFEST as a device does: signatures, models, time, the image's size and digest. Exit 5 if refused."""
    from fleetcore.wire.manifest import check_image, check_time, open_manifest
    from fleetcore.wire.trust import first_trust

    envelope, root = envelopes.read(manifest), first_trust(envelopes.read(trust_file))
    now = now_ms()
    root.check_time(now)
    found = open_manifest(envelope, root, models or None)
    check_time(found, now)
    if image is not None:
        sha256, size, _ = _digest(image)
        check_image(found, sha256, size)
    show({**_manifest_sheet(envelope), "trust": root.version, "verified_for": list(models or found.models)}, output)


# --- on the fleet -----------------------------------------------------------------------------------------------------


@firmware.command()
@click.argument("file", type=_THERE, help="The firmware image.")
@click.option("--sha256", help="The expected SHA-256; without it, the file's is computed first.")
@click.option("--size", type=click.INT, help="The expected size in bytes; without it, the file's size.")
@fleet_option
@output_option
def upload(file: Path, sha256: str | None, size: int | None, at: Target, output: str) -> None:
    """Put an image on the fleet, under its SHA-256. Repeating it changes nothing.

    An upload that was interrupted goes on where it was: by itself, or when the command is given again within a day.
    """
    from fleetcore.cli.progress import bytes_progress
    from fleetcore.cli.uploading import upload_file

    length = file.stat().st_size

    async def run() -> Any:
        async with connect(at) as caller:
            digest, announced = sha256, length if size is None else size
            if digest is None:
                with bytes_progress("hashing", length) as step:
                    digest = await asyncio.to_thread(lambda: _digest(file, step=step)[0])
            with bytes_progress("uploading", announced) as step:
                note = partial(click.echo, err=True)
                await upload_file(caller, file, digest, announced, step=step, note=note)
            return await caller.run("get_artifact", {"sha256": digest})

    show(asyncio.run(run()), output)


@firmware.command()
@click.argument("release", help="The release, NAME:SEQ.")
@click.argument("image", type=_THERE, help="Its image, as it was uploaded.")
@click.option("--out", type=_FILE, help="The file to write.  [default: IMAGE.update]")
@fleet_option
@output_option
def bundle(release: str, image: Path, out: Path | None, at: Target, output: str) -> None:
    """Write one file that updates devices without a network: the manifest, the trust roots, and IMAGE.

    The file is a tar archive. It has no secrets; a device checks all of it.
    """
    from fleetcore.cli.bundling import write_bundle
    from fleetcore.cli.progress import bytes_progress

    async def run() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        async with connect(at) as caller:
            roots, cursor = [], None
            while True:
                page = await caller.run("list_firmware_roots", {} if cursor is None else {"cursor": cursor})
                roots += page["items"]
                if (cursor := page["next"]) is None:
                    roots.sort(key=lambda root: root["number"])
                    return await caller.run("get_release", {"release": release}), roots

    found, roots = asyncio.run(run())
    target = out or image.with_name(image.name + ".update")
    with bytes_progress("hashing", image.stat().st_size) as step:
        sha256, size, _ = _digest(image, step=step)
    write_bundle(target, found["manifest"], [root["envelope"] for root in roots], image, sha256, size)
    show({"bundle": str(target), **_manifest_sheet(found["manifest"]), "trust_roots": len(roots)}, output)


@firmware.group()
def delta() -> None:
    """Make deltas between stored images, and list them."""


@firmware.group()
def release() -> None:
    """Release firmware, and list releases."""


def _short(_at: Target, _given: Mapping[str, Any], answer: dict[str, Any], output: str) -> dict[str, Any]:
    return answer if output != "table" else {**answer, "manifest": "…"}


_MANIFEST = click.Argument(["manifest"], type=_THERE, callback=envelopes.text, help="The signed manifest.")
_ADD = core()["add_release"]
release.add_command(command(_ADD, _ADD.command, {}, options=[_MANIFEST], finish=_short))

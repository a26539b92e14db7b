"""Firmware manifests: the maker's signed description of an image, ``fleetcore.firmware/1`` in a DSSE envelope.

The manifest is signed where the private key is, away from the server. Server, command line and device read and check it
with this module. It orders images by ``seq``; ``version`` is for people. The members follow the information model of
RFC 9124: ``seq`` is its monotonic sequence number, ``models`` its class identifiers, ``requires`` its prerequisites.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

from attrs import frozen

from fleetcore.errors import NotAuthenticated, Refused
from fleetcore.model.edge import Function, is_function
from fleetcore.model.firmware import MAIN
from fleetcore.model.names import check_label
from fleetcore.wire import dsse
from fleetcore.wire.function import read_function, write_function
from fleetcore.wire.members import Members
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.times import format_time
from fleetcore.wire.trust import FirmwareRoot

MANIFEST_TYPE = "application/vnd.fleetcore.firmware+json"
FORMAT = "fleetcore.firmware/1"
#: With the envelope's base64 it still fits one message of 256 KiB.
MANIFEST_BYTES = 128 * 1024
MAX_CHUNKS = 1500
MIN_CHUNK = 1024
#: The configuration of a function may be nested; every other member is decoded by itself.
_DEPTH = 7
_MAX_MODELS = 200
_MAX_COMPONENTS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_A_NAME = "1-64 characters of A-Z a-z 0-9 . _ -"
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@frozen(kw_only=True)
class Chunks:
    """Digests of pieces of ``size`` bytes, the last one shorter: faults are found before the whole image is loaded."""

    size: int
    sha256: tuple[str, ...]


@frozen(kw_only=True)
class Required:
    """Firmware of another component, which must be installed before: at least ``seq`` of ``name``."""

    component: str
    name: str
    seq: int


@frozen(kw_only=True)
class Sbom:
    """The software bill of materials of an image: the format and SHA-256 of a document."""

    format: str
    sha256: str


@frozen(kw_only=True)
class Manifest:
    """One image.

    Attributes:
        name: the name of the firmware; ``seq`` counts within it.
        seq: the order of images; a device never goes back.
        min_seq: once this image has proved healthy, no image below it may be started again.
        models: the hardware models that it is for.
        size: of the image in bytes; ``sha256`` is its digest.
        created, expires: ms since the epoch. After ``expires`` no device starts to install it.
        component: the part of the device that it is for, such as a modem; a device has one image of each.
        requires_seq: the least seq that must be running, for images that need an earlier step; 0 for any.
        requires: what other components must have.
        delta_from: SHA-256 of the image that this one is a patch for; None for a whole image.
        function: the contract of a function of gateways, whose component is ``function.NAME``; None for any other.
        digest: SHA-256 of the signed manifest, which an assignment refers to.
    """

    name: str
    version: str
    seq: int
    min_seq: int = 0
    models: tuple[str, ...]
    size: int
    sha256: str
    created: int
    expires: int
    component: str = MAIN
    requires_seq: int = 0
    requires: tuple[Required, ...] = ()
    chunks: Chunks | None = None
    delta_from: str | None = None
    sbom: Sbom | None = None
    function: Function | None = None
    digest: str = ""


def read_manifest(payload: bytes) -> Manifest:
    """Decodes only the document, without its signatures. Raises Refused for any invalid bytes."""
    members = Members.of(payload, "The manifest", limit_bytes=MANIFEST_BYTES, form=FORMAT, depth=_DEPTH)
    name = members.text("name", _NAME, _A_NAME)
    version, seq = members.version("version"), members.integer("seq", 1)
    min_seq = members.integer("min_seq", 0) if members.has("min_seq") else 0
    if min_seq > seq:
        raise members.wrong("min_seq", f"at most seq, {seq}")
    models = members.texts("models", _MAX_MODELS)
    for model in models:
        check_label(model, "model")
    if len(set(models)) != len(models):
        raise members.wrong("models", "a list of different models")
    size, sha256 = members.integer("size", 0), members.sha256("sha256")
    created, expires = members.time("created"), members.time("expires")
    if expires <= created:
        raise members.wrong("expires", "later than created")
    component = members.text("component", _NAME, _A_NAME) if members.has("component") else MAIN
    requires_seq, requires = (
        _requires(members.inner("requires"), seq, component) if members.has("requires") else (0, ())
    )
    delta_from = members.sha256("delta_from") if members.has("delta_from") else None
    chunks = _chunks(members.inner("chunks"), size) if members.has("chunks") else None
    sbom = _sbom(members.inner("sbom")) if members.has("sbom") else None
    function = read_function(members.inner("function"), component) if members.has("function") else None
    if is_function(component) and function is None:
        raise members.wrong("function", f"there, the contract of {component!r}")
    if function is not None and not is_function(component):
        raise members.wrong("component", "function.NAME, since there is the contract of a function")
    members.end()
    return Manifest(
        name=name, version=version, seq=seq, min_seq=min_seq, models=models, size=size, sha256=sha256, created=created,
        expires=expires, component=component, requires_seq=requires_seq, requires=requires, chunks=chunks,
        delta_from=delta_from, sbom=sbom, function=function, digest=hashlib.sha256(payload).hexdigest(),
    )  # fmt: skip


def _chunks(members: Members, size: int) -> Chunks:
    step = members.integer("size", MIN_CHUNK)
    digests = members.texts("sha256", MAX_CHUNKS, least=0)
    members.end()
    if len(digests) != -(-size // step) or not all(_DIGEST.fullmatch(digest) for digest in digests):
        raise members.wrong("sha256", "one SHA-256 for each piece of the image")
    return Chunks(size=step, sha256=digests)


def _requires(members: Members, seq: int, component: str) -> tuple[int, tuple[Required, ...]]:
    earlier = members.integer("seq", 1, seq - 1) if members.has("seq") else 0
    others = []
    if members.has("components"):
        inner = members.inner("components")
        if component in inner.names() or not 1 <= len(inner.names()) <= _MAX_COMPONENTS:
            raise members.wrong("components", f"1 to {_MAX_COMPONENTS} others than {component!r}")
        for name, wanted in inner.items():
            if not _NAME.fullmatch(name):
                raise members.wrong("components", f"by name, {_A_NAME}")
            others.append(
                Required(component=name, name=wanted.text("name", _NAME, _A_NAME), seq=wanted.integer("seq", 1))
            )
            wanted.end()
    members.end()
    if not earlier and not others:
        raise members.wrong("seq", "there, or components")
    return earlier, tuple(others)


def _sbom(members: Members) -> Sbom:
    found = Sbom(format=members.label("format"), sha256=members.sha256("sha256"))
    members.end()
    return found


def write_manifest(manifest: Manifest) -> bytes:
    """The document that is signed."""
    document: dict[str, object] = {
        "format": FORMAT,
        "name": manifest.name,
        "version": manifest.version,
        "seq": manifest.seq,
        "min_seq": manifest.min_seq,
        "models": list(manifest.models),
        "size": manifest.size,
        "sha256": manifest.sha256,
        "created": format_time(manifest.created),
        "expires": format_time(manifest.expires),
    }
    if manifest.component != MAIN:
        document["component"] = manifest.component
    requires: dict[str, object] = {"seq": manifest.requires_seq} if manifest.requires_seq else {}
    if manifest.requires:
        requires["components"] = {each.component: {"name": each.name, "seq": each.seq} for each in manifest.requires}
    if requires:
        document["requires"] = requires
    if manifest.delta_from is not None:
        document["delta_from"] = manifest.delta_from
    if manifest.chunks is not None:
        document["chunks"] = {"size": manifest.chunks.size, "sha256": list(manifest.chunks.sha256)}
    if manifest.sbom is not None:
        document["sbom"] = {"format": manifest.sbom.format, "sha256": manifest.sbom.sha256}
    if manifest.function is not None:
        document["function"] = write_function(manifest.function)
    return dumps(document)


def open_manifest(envelope: object, trust: FirmwareRoot, models: Iterable[str] | None = None) -> Manifest:
    """Opens a manifest that has enough valid signatures for each model, by the keys of the trust root.

    ``models`` are the models to check; None for all that it names. It is decoded only after a trusted key is found.
    Neither its expiry nor that of the trust root is checked.

    Raises Refused: ``signature_invalid``, ``model_mismatch`` for another model, and as :func:`read_manifest`.
    """
    try:
        verified = dsse.verify(envelope, MANIFEST_TYPE, trust.public())
    except NotAuthenticated as error:
        raise Refused(
            f"No key of the trust root, version {trust.version}, has signed the manifest", code="signature_invalid"
        ) from error
    manifest = read_manifest(verified.payload)
    wanted = manifest.models if models is None else tuple(models)
    for model in wanted:
        check_model(manifest, model)
        role = trust.role_of(model)
        found = verified.signers & (frozenset() if role is None else role.keys)
        if role is None or len(found) < role.threshold:
            raise Refused(
                f"Model {model!r} requires {role.threshold if role else 1} signatures; the manifest has {len(found)}",
                code="signature_invalid",
                remedy="Add one: fleetcore firmware sign --add",
                model=model,
            )
    return manifest


def peek_manifest(envelope: object) -> Manifest:
    """The content of an envelope without verification: for display, or where there is no trust root."""
    return read_manifest(dsse.opened(envelope, MANIFEST_TYPE))


def check_model(manifest: Manifest, model: str | None) -> None:
    """Raises Refused with ``model_mismatch``."""
    if model not in manifest.models:
        has = "has no model" if model is None else f"is a {model}"
        raise Refused(
            f"It {has}; {manifest.name} {manifest.version} is for {', '.join(manifest.models[:5])}",
            code="model_mismatch",
        )


def check_time(manifest: Manifest, now: int) -> None:
    """Raises Refused with ``manifest_expired``."""
    if now >= manifest.expires:
        raise Refused(
            f"The manifest of {manifest.name} {manifest.version} expired at {format_time(manifest.expires)}",
            code="manifest_expired",
            remedy="Sign a new one for the same image",
        )


def check_requires(manifest: Manifest, running: Mapping[str, int]) -> None:
    """Raises Refused with ``requires_unmet`` where an earlier step is missing.

    Args:
        running: the seq that each component runs; one that is not known is not judged.
    """
    for component, name, seq in (
        (manifest.component, manifest.name, manifest.requires_seq),
        *((each.component, each.name, each.seq) for each in manifest.requires),
    ):
        if component in running and running[component] < seq:
            raise Refused(
                f"{manifest.name} {manifest.version} requires seq {seq} of {name} first; the component {component!r} "
                f"has seq {running[component]}",
                code="requires_unmet",
                remedy=f"Add {name}:{seq} to the releases: campaigns then install it first",
            )


def check_order(manifest: Manifest, highest_seq: int) -> None:
    """Raises Refused with ``rollback_refused`` for an image that is older than the newest one installed before."""
    if manifest.seq < highest_seq:
        raise Refused(
            f"seq {manifest.seq} is below {highest_seq}, which was installed before",
            code="rollback_refused",
            remedy="To go back, sign the old image again under a higher seq",
        )


def check_image(manifest: Manifest, sha256: str, size: int) -> None:
    """Raises Refused with ``size_mismatch`` or ``hash_mismatch``."""
    if size != manifest.size:
        raise Refused(f"The image has {size} bytes, the manifest says {manifest.size}", code="size_mismatch")
    if sha256 != manifest.sha256:
        raise Refused(f"The image's SHA-256 is {sha256}, the manifest says {manifest.sha256}", code="hash_mismatch")

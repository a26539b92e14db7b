"""A device's certificates, registered without their CA: AWS gets certificates and no right to issue any.

AWS's id of a certificate is the fleet's fingerprint. A certificate admits a device once it is ACTIVE; attached to the
thing it identifies the device. Old certificates are deactivated before new ones are registered: a certificate that AWS
refuses must not keep another one valid.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from attrs import evolve, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore.interfaces.cloud import CloudUse, Fitted, MirrorItem, MirrorResult
from fleetcore.model.mirror import CertificateBody, DeviceCertificate, EntityKey, Loss
from fleetcore_aws import answers
from fleetcore_aws.brought import Brought, BroughtCertificates
from fleetcore_aws.clients import Clients
from fleetcore_aws.failures import CallFailed
from fleetcore_aws.names import THING
from fleetcore_aws.registry import FOREIGN, Thing, Things

_REGISTER, _UPDATE = "iot:RegisterCertificateWithoutCA", "iot:UpdateCertificate"
_DESCRIBE, _PRINCIPALS = "iot:DescribeCertificate", "iot:ListThingPrincipals"
_ATTACH, _DETACH = "iot:AttachThingPrincipal", "iot:DetachThingPrincipal"
#: Keys that AWS accepts in a client certificate (developer guide, X.509 client certificates: algorithms and keys).
_CURVES, _RSA_BITS = frozenset({"secp256r1", "secp384r1", "secp521r1"}), 2048
#: Characters of a PEM (API reference, RegisterCertificateWithoutCA).
_MAX_LENGTH = 65_536
#: The ids of old and new ones must fit into one shadow.
_MAX = 50
_FOREIGN = "There is a shadow certificates that this fleet did not create"


@frozen(kw_only=True)
class _Registered:
    """A certificate at AWS; ``good`` if it admits its device."""

    pem: str
    good: bool


class Certificates:
    """See the module. ``policy`` is attached to registered certificates."""

    def __init__(
        self, clients: Clients, things: Things, brought: BroughtCertificates, prefix: str, policy: str | None
    ) -> None:
        self._clients, self._things, self._brought = clients, things, brought
        self._prefix, self._policy = prefix, policy
        self.use = CloudUse()

    # -- pure -------------------------------------------------------------------------------------------------------

    def fit(self, item: MirrorItem, body: CertificateBody) -> Fitted:
        """As in the interface. If none fits, an empty body is left: it ends the earlier ones."""
        if THING.encode(item.key.id, self._prefix) is None:
            return Fitted(item=None, lost=(Loss("", "The device's id is too long for a thing's name"),))
        kept: list[DeviceCertificate] = []
        lost: list[Loss] = []
        for number, entry in enumerate(body.certificates):
            why = _unfit(entry.pem) if len(kept) < _MAX else f"A shadow can list {_MAX} certificates: revoke old ones"
            if why is None:
                kept.append(entry)
            else:
                lost.append(Loss(f"/certificates/{number}", why))
        fitted = evolve(item, body=CertificateBody(certificates=tuple(kept))) if lost else item
        return Fitted(item=fitted, lost=tuple(lost))

    # -- calls ------------------------------------------------------------------------------------------------------

    async def apply(self, item: MirrorItem, body: CertificateBody | None) -> MirrorResult:
        """As in the interface, for one item; raises CallFailed."""
        name = THING.encode(item.key.id, self._prefix)
        if name is None:
            return MirrorResult(state="done" if body is None else "invalid", reason="The id is too long")
        thing = await self._things.describe(name)
        if thing is not None and not self._things.owns(thing):
            return MirrorResult(state="foreign", reason=FOREIGN)
        brought = await self._brought.get(name)
        if brought is not None and not self._brought.is_own(brought):
            return MirrorResult(state="foreign", reason=_FOREIGN)
        if thing is None:
            if body is not None:
                return MirrorResult(state="failed", reason=f"There is no thing of {item.key.id} yet")
            return await self._left_behind(name, brought)
        if brought is None and body is None:
            return MirrorResult(state="done")
        return await self._bring_in_step(item, body, name, thing, brought)

    async def _bring_in_step(
        self, item: MirrorItem, body: CertificateBody | None, name: str, thing: Thing, brought: Brought | None
    ) -> MirrorResult:
        wanted = {} if body is None else {certificate.fingerprint: certificate.pem for certificate in body.certificates}
        known = () if brought is None else brought.ids
        there = await self._registered(name, known)
        coming = [each for each in wanted if each not in there or not there[each].good]
        going = [each for each in known if each not in wanted]
        version = None if brought is None else str(brought.version)
        if body is not None and brought is not None and not coming and not going:
            return MirrorResult(state="done", remote_version=version)
        if item.remote_version != version:
            return MirrorResult(state="conflict")
        brought = await self._brought.write(name, brought, {*known, *wanted})
        if going and not await self._ended(name, thing, going):
            return MirrorResult(state="failed", reason="AWS is still detaching a certificate")
        for each in coming:
            if (refused := await self._bring(name, _arn(thing, each), wanted[each])) is not None:
                return refused
        if body is None:
            await self._brought.remove(name)
            return MirrorResult(state="done")
        brought = await self._brought.write(name, brought, wanted)
        return MirrorResult(state="done", remote_version=str(brought.version))

    async def _bring(self, name: str, arn: str, pem: str) -> MirrorResult | None:
        """Attached last: an attached, ACTIVE certificate has its policy. Returns why an operator must act, or None."""
        try:
            answer = await self._clients.call(_REGISTER, certificatePem=pem, status="ACTIVE")
            answers.text(_REGISTER, answer, "certificateId")
        except CallFailed as failed:
            if failed.kind != "exists":
                raise
            await self._clients.call(_UPDATE, certificateId=_id(arn), newStatus="ACTIVE")
        if self._policy is not None:
            try:
                await self._clients.call("iot:AttachPolicy", policyName=self._policy, target=arn)
            except CallFailed as failed:
                if failed.kind != "missing":
                    raise
                reason = f"AWS has no policy {self._policy}: create it there, and resync the mirror"
                return MirrorResult(state="invalid", reason=reason)
        await self._clients.call(_ATTACH, thingName=name, principal=arn)
        return None

    async def _ended(self, name: str, thing: Thing, ids: Sequence[str]) -> bool:
        """Deactivates and removes certificates; False while AWS still lists one as attached: detaching takes time."""
        for each in ids:
            await self._end(each)
            await self._unless_missing(_DETACH, thingName=name, principal=_arn(thing, each))
        if not (await self._principals(name)).isdisjoint(ids):
            return False
        if self.use.deletes:
            for each in ids:
                await self._delete(each, _arn(thing, each))
        return True

    async def _left_behind(self, name: str, brought: Brought | None) -> MirrorResult:
        """Ends the certificates of a thing that was removed by hand, which removed its attachments."""
        if brought is None:
            return MirrorResult(state="done")
        for each in brought.ids:
            await self._end(each)
            if self.use.deletes:
                described = await self._described(each)
                if described is not None:
                    await self._delete(each, answers.text(_DESCRIBE, described, "certificateArn"))
        await self._brought.remove(name)
        return MirrorResult(state="done")

    async def _end(self, id: str) -> None:
        await self._unless_missing(_UPDATE, certificateId=id, newStatus="INACTIVE")

    async def _delete(self, id: str, arn: str) -> None:
        if self._policy is not None:
            await self._unless_missing("iot:DetachPolicy", policyName=self._policy, target=arn)
        try:
            await self._clients.call("iot:DeleteCertificate", certificateId=id)
        except CallFailed as failed:
            # A user has attached it to another policy or thing: it stays, but is inactive.
            if failed.kind not in {"missing", "in_use"}:
                raise

    async def _unless_missing(self, action: str, **arguments: object) -> None:
        try:
            await self._clients.call(action, **arguments)
        except CallFailed as failed:
            if failed.kind != "missing":
                raise

    async def _registered(self, name: str, ids: Collection[str]) -> Mapping[str, _Registered]:
        """The state of these at AWS."""
        attached = await self._principals(name) if ids else set()
        found: dict[str, _Registered] = {}
        for each in ids:
            described = await self._described(each)
            if described is not None:
                good = each in attached and answers.text(_DESCRIBE, described, "status") == "ACTIVE"
                found[each] = _Registered(pem=answers.text(_DESCRIBE, described, "certificatePem"), good=good)
        return found

    async def _described(self, id: str) -> answers.Answer | None:
        try:
            answer = await self._clients.call(_DESCRIBE, certificateId=id)
        except CallFailed as failed:
            if failed.kind == "missing":
                return None
            raise
        return answers.record(_DESCRIBE, answer, "certificateDescription")

    async def _principals(self, name: str) -> set[str]:
        """The ids of the certificates attached to a thing, also by others."""
        found: set[str] = set()
        more: dict[str, object] = {}
        while True:
            answer = await self._clients.call(_PRINCIPALS, thingName=name, **more)
            found.update(_id(arn) for arn in answers.texts(_PRINCIPALS, answer, "principals"))
            after = answers.optional_text(answer, "nextToken")
            if after is None:
                return found
            more = {"nextToken": after}

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """As in the interface, for one key; raises CallFailed."""
        name = THING.encode(key.id, self._prefix)
        thing = None if name is None else await self._things.describe(name)
        if name is None or thing is None or not self._things.owns(thing):
            return None
        brought = await self._brought.get(name)
        if brought is None or not self._brought.is_own(brought):
            return None
        there = await self._registered(name, brought.ids)
        good = [
            DeviceCertificate(fingerprint=each, pem=_own_form(item.pem)) for each, item in there.items() if item.good
        ]
        body = CertificateBody(certificates=tuple(sorted(good, key=lambda item: item.fingerprint)))
        return MirrorItem(key=key, body=body, remote_version=str(brought.version))

    async def entities(self) -> AsyncIterator[EntityKey]:
        """As in the interface; raises CallFailed. One call per thing."""
        async for device in self._things.devices():
            name = THING.encode(device, self._prefix)
            brought = None if name is None else await self._brought.get(name)
            if brought is not None and self._brought.is_own(brought):
                yield EntityKey("certificate", device)


def _unfit(pem: str) -> str | None:
    if len(pem) > _MAX_LENGTH:
        return f"AWS accepts certificates of up to {_MAX_LENGTH} characters: give the device a smaller one"
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    match key:
        case rsa.RSAPublicKey() if key.key_size >= _RSA_BITS:
            return None
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return None
    return "AWS accepts RSA from 2048 bits and EC on P-256, P-384 and P-521: renew the certificate with such a key"


def _own_form(pem: str) -> str:
    """A PEM as the fleet writes it: AWS may return other line ends."""
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.PEM).decode()


def _arn(thing: Thing, id: str) -> str:
    """A certificate's ARN, in the Region and account of the thing."""
    return f"{thing.arn.rpartition(':')[0]}:cert/{id}"


def _id(arn: str) -> str:
    return arn.rpartition("/")[2]

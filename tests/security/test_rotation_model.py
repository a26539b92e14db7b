"""Any order of steps, enrolments, renewals, revocations and restarts, against a small model of who must get in."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fleetcore.errors import Conflict
from fleetcore.fleet.security.authority import key_id, pem
from fleetcore.fleet.security.rotation import STEPS, phase_of
from fleetcore.model.credential import Phase
from fleetcore.testing.clock import MovableClock

from .conftest import csr, der, leaf_of
from .test_rotation import WHO, Fleet, refusal

DEVICES = st.sampled_from("abcd")


class Rotations(RuleBasedStateMachine):
    """The model: which CA issued each certificate, whether it was ended, and which CAs are trusted."""

    @initialize()
    def begin(self):
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.fleet = Fleet(self.folder / "data", MovableClock())
        self.run(self.fleet.open())
        self.certificates = {}
        self.revoked = set()
        self.lost = set()
        self.version = 1

    def run(self, work):
        return self.loop.run_until_complete(work)

    def teardown(self):
        if hasattr(self, "fleet"):
            self.run(self.fleet.security.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    @rule(step=st.sampled_from(sorted(STEPS)), force=st.booleans())
    def step(self, step, force):
        trust = self.fleet.security.authority.trust
        phase = phase_of(trust)
        leaving = self._leaving(step, phase, trust)
        locked_out = self._locked_out(leaving)
        options = {"force": force} if step in ("back", "retire") else {}
        if step == "retire":
            options["threshold"] = 0.0
        legal = phase in STEPS[step]
        work = getattr(self.fleet.rotation, step)(**options, **WHO)
        if legal and (force or not locked_out):
            done = self.run(work)
            assert done.phase is STEPS[step][phase]
            assert set(done.locked_out) == locked_out
            self.lost |= leaving
            return
        with pytest.raises(Conflict) as refused:
            self.run(work)
        assert refused.value.code == ("devices_would_be_locked_out" if legal else "illegal_transition")
        assert self.fleet.security.authority.trust is trust

    def _leaving(self, step, phase, trust):
        """The CAs that a step takes trust from."""
        if (step, phase) == ("retire", Phase.ISSUING):
            root = trust.roots[0]
        elif (step, phase) == ("back", Phase.ANNOUNCED):
            root = trust.roots[-1]
        else:
            return set()
        return {one.id for one in trust.issuing if trust.root_of(one) is root}

    def _good(self, device):
        return [
            certificate
            for certificate in self.certificates.get(device, ())
            if certificate.serial_number not in self.revoked and self._issuer(certificate) not in self.lost
        ]

    def _locked_out(self, leaving):
        return {
            device
            for device in self.certificates
            if self._good(device) and all(self._issuer(one) in leaving for one in self._good(device))
        }

    @staticmethod
    def _issuer(certificate):
        return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier.hex()

    @rule(device=DEVICES)
    def enrol(self, device):
        self.certificates.setdefault(device, []).append(self.run(self.fleet.device(device)))

    @rule(device=DEVICES)
    def renew(self, device):
        # By the session of a certificate that is good, which ends once the new one has connected.
        good = self._good(device)
        if not good:
            return
        current = self.run(self.fleet.security.identify(der(good[0])))[1]
        leaf = leaf_of(self.run(self.fleet.security.renew(device, csr(device), current=current)))
        self.run(self.fleet.security.identify(der(leaf)))
        self.revoked.add(good[0].serial_number)
        self.certificates[device].append(leaf)

    @rule(device=DEVICES)
    def revoke(self, device):
        self.run(self.fleet.security.revoke(device=device))
        self.revoked |= {one.serial_number for one in self.certificates.get(device, ())}

    @rule()
    def restart(self):
        self.run(self.fleet.security.close())
        before = self.fleet.security.authority.trust
        self.run(self.fleet.open())
        after = self.fleet.security.authority.trust
        assert (after.version, after.bundle(), after.signing, after.cross) == (
            before.version,
            before.bundle(),
            before.signing,
            before.cross,
        )

    @rule()
    def distrust(self):
        issuing = self.fleet.security.authority.trust.issuing
        chosen = issuing[0].id
        locked_out = self._locked_out({chosen})
        try:
            done = self.run(self.fleet.rotation.distrust(chosen, force=True, **WHO))
        except Conflict:
            trust = self.fleet.security.authority.trust
            beside = [one for one in trust.issuing if trust.root_of(one) is trust.root_of(issuing[0])]
            assert chosen == trust.signer.id or beside == [issuing[0]]
            return
        assert set(done.locked_out) == locked_out
        self.lost.add(chosen)

    @invariant()
    def exactly_the_good_get_in(self):
        if not hasattr(self, "fleet"):
            return
        for device, certificates in self.certificates.items():
            good = self._good(device)
            for certificate in certificates:
                why = self.run(refusal(self.fleet, certificate))
                assert (why is None) == (certificate in good), (device, why)

    @invariant()
    def all_that_is_trusted_hangs_together(self):
        if not hasattr(self, "fleet"):
            return
        trust = self.fleet.security.authority.trust
        assert 1 <= len(trust.roots) <= 2
        assert trust.root_of(trust.signer) is not None
        assert all(trust.root_of(one) is not None for one in trust.issuing)
        assert {one.id for one in trust.former}.isdisjoint(one.id for one in trust.issuing)
        assert trust.version >= self.version
        self.version = trust.version
        (leaf, *sent) = x509.load_pem_x509_certificates((self.fleet.pki / "server.pem").read_bytes())
        assert self._issuer(leaf) == trust.signer.id
        assert pem(sent) == self.fleet.security.authority.presented_pem()
        # With a second root that signs, the older one's peers get the cross certificate, and only then.
        crossed = [key_id(one) for one in sent[1:]]
        assert crossed == ([key_id(trust.roots[-1].certificate)] if phase_of(trust) is Phase.ISSUING else [])
        assert (self.fleet.pki / "ca.pem").read_bytes() == trust.bundle()


Rotations.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestRotations = Rotations.TestCase

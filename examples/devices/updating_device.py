"""A device that updates itself and cannot be bricked: two slots, an image on trial, a download that goes on anywhere.

It adds to ``stdlib_http.py`` what an update needs beyond an offer and a digest. It is what the slots of
``boot_loader.py`` hold, so it replaces itself. An image is a Python program in one file:

    mkdir app && cp boot_loader.py image_sources.py stdlib_http.py updating_device.py app
    python -m zipapp app -m updating_device:main -p python3 -o slot-a.img

An update goes on after a loss of power at any moment, or goes back; the server counts it once. ``--from-file FILE``
installs what ``fleetcore firmware bundle`` wrote, without a network. ``docs/how-to/update-with-two-slots.md`` has more.
"""

import contextlib
import hashlib
import http.client
import json
import os
import sys
import tarfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from boot_loader import BOOTS, Record, reset, sha256_of, step
from image_sources import PIECE, elsewhere, over_coap, over_http, patched
from stdlib_http import Device, Json, Reboot, Refusal, say

ENDED = 16  # remembered updates, to answer a repeated offer as before
SLOT_BYTES = 64 << 20
WRONG = (KeyError, TypeError, ValueError)  # how a signed document fails that is none

Source = Callable[[int], Iterator[bytes]]


class UpdatingDevice(Device):
    """One start of the device, from the image in one slot."""

    def __init__(self, folder: Path, slot: str) -> None:
        super().__init__(folder)
        self.record, self.running = Record(folder), slot
        self.note_firmware()

    def note_firmware(self) -> None:
        """What runs, and the numbers that never fall: it goes into the twin, and offers are judged by it."""
        image, record = self.record.now["slots"][self.running], self.record.now
        highest = max(record["highest_seq"], record["floor"])
        self.state["firmware"] = {name: image[name] for name in ("version", "seq", "sha256")} | {"highest_seq": highest}

    def now_ms(self) -> int:
        """As every device; one without a clock has only what the server signed."""
        return super().now_ms() if self.factory.get("clock", True) else int(self.state["signed_ms"])

    # --- after a start -----------------------------------------------------------------------------------------------

    def is_on_trial(self) -> bool:
        """Whether the running image has to prove itself yet."""
        return bool(self.record.now["trying"] == self.running)

    def connect(self, credential: str) -> None:
        """To have come this far is the proof of an image that came from the server."""
        super().connect(credential)
        if self.is_on_trial():
            step("version reported")
        self.prove()
        self.report()
        step("numbers reported")
        self.tell_end()

    def self_test(self) -> str:
        """What is wrong with this image on this device; empty if it may stay."""
        self.sample()
        return "" if self.queue else "the sensor gives no reading"

    def prove(self) -> None:
        """An image on trial becomes the active one, or the device goes back to the one before."""
        if not self.is_on_trial():
            return
        wrong = self.self_test()
        if wrong:
            self.record.give_up("health_failed", wrong)
            raise Reboot
        step("self-test passed")
        self.record.confirm()
        self.note_firmware()
        say("confirmed", self.state["firmware"]["version"])

    def prove_without_server(self) -> None:
        """What came in a file has to prove itself without a network."""
        job = self.record.now["job"]
        if job is not None and job["execution"] is None:
            self.prove()
            self.forget(job)

    def tell_end(self) -> None:
        """Tells the server once how an update has ended; a repeat after a loss of power changes nothing there."""
        job = self.record.now["job"]
        if job is not None and job.get("state"):
            self.status(job, **self.end_of(job))
            step("end reported")
            self.forget(job)

    def end_of(self, job: Json) -> Json:
        """The members of the report of an end."""
        more: Json = {name: job[name] for name in ("code", "reason") if name in job}
        return {"state": job["state"], "version": self.state["firmware"]["version"], **more}

    def forget(self, job: Json) -> None:
        """The update is over."""
        self.record.save("job forgotten", job=None, ended=[*self.record.now["ended"], job][-ENDED:])

    def status(self, job: Json, state: str, **more: object) -> None:
        """Reports a state of an update; one from a file has nobody to report to."""
        say("firmware", state, more)
        if job["execution"] is not None:
            ids = {"execution": job["execution"], "campaign": job["campaign"]}
            self.call("POST", "/firmware/status", {**ids, "state": state, **more})
        step(f"{state} reported")

    # --- offers ------------------------------------------------------------------------------------------------------

    def offered(self, body: Json) -> None:
        """Handles an offer to its end; one that comes again goes on where the last one stopped, or is answered anew."""
        offer, job = body["offer"], self.record.now["job"]
        if offer is None:
            if "cancel" in body:
                self.withdrawn(body["cancel"])
            return
        step("offer seen")
        under_way = job is not None and job["execution"] == offer["execution"]
        try:
            try:
                manifest, assignment = self.admitted(offer, under_way=under_way)
                self.check_fit(manifest)
            except WRONG as error:
                raise Refusal("schema_invalid", f"it cannot be read: {error!r}") from error
        except Refusal as refusal:
            if under_way:
                self.forget(job)
            self.status(offer, "rejected", code=refusal.code, reason=refusal.reason)
            return
        step("verified")
        image = {name: manifest[name] for name in ("version", "seq", "min_seq", "sha256", "size")}
        wanted = {"execution": offer["execution"], "campaign": offer["campaign"], "nonce": assignment["nonce"]}
        for ended in self.record.now["ended"]:
            if wanted.items() <= ended.items():
                self.status(ended, **self.end_of(ended))
                return
        if (image["seq"], image["sha256"]) == (self.state["firmware"]["seq"], self.state["firmware"]["sha256"]):
            self.status(offer, "succeeded", version=image["version"])
            return
        if job is None or not (wanted | {"image": image}).items() <= job.items():
            job = self.begin({**wanted, "image": image})
        self.install(job, manifest, offer)

    def withdrawn(self, execution: str) -> None:
        """The server wants it no more; what has been started is finished all the same."""
        job = self.record.now["job"]
        if job is not None and job["execution"] == execution:
            self.forget({**job, "state": "cancelled"})
        self.status({"execution": execution, "campaign": None}, "cancelled")

    def check_fit(self, manifest: Json) -> None:
        """Whether a slot holds it."""
        if manifest["size"] > int(self.factory.get("slot_bytes", SLOT_BYTES)):
            raise Refusal("no_space", f"a slot holds less than {manifest['size']} bytes")

    def begin(self, job: Json) -> Json:
        """Remembers an update, then empties the spare slot: from here on it counts as empty."""
        spare = self.record.spare()
        self.record.save("job saved", job=job, slots={**self.record.now["slots"], spare: None})
        self.record.slot(spare).unlink(missing_ok=True)
        step("spare erased")
        self.status(job, "accepted")
        return job

    def install(self, job: Json, manifest: Json, offer: Json) -> None:
        """Fills the spare slot, and starts it on trial unless the server wants that to wait."""
        spare = self.record.spare()
        try:
            if self.record.now["slots"][spare] != job["image"] or not self.record.is_startable(spare):
                self.load(job, manifest, offer)
                self.record.save("slot filled", slots={**self.record.now["slots"], spare: job["image"]})
                self.status(job, "downloaded")
        except Refusal as refusal:
            self.end(job, "rejected", refusal)
            return
        if offer.get("install") == "wait":
            return  # it is offered again when it may be started
        self.status(job, "installing")
        self.record.save("trial begun", trying=spare, boots_left=BOOTS)
        self.status(job, "rebooting")
        self.save(queue=list(self.queue))
        raise Reboot

    def end(self, job: Json, state: str, refusal: Refusal) -> None:
        """An update ends before its image was started."""
        ended = {**job, "state": state, "code": refusal.code, "reason": refusal.reason}
        self.record.save("refused", job=ended)
        self.tell_end()

    # --- the image ---------------------------------------------------------------------------------------------------

    def load(self, job: Json, manifest: Json, offer: Json) -> None:
        """Fills the spare slot and verifies it. Where a source breaks off, the next one goes on."""
        slot, size = self.record.slot(self.record.spare()), int(manifest["size"])
        there = slot.stat().st_size if slot.exists() else 0
        self.status(job, "downloading", bytes=there)
        if not there and self.load_by_delta(slot, manifest, offer):
            return
        for last in (False, True):
            parts = self.load_from_all(slot, manifest, offer)
            if sha256_of(slot) == manifest["sha256"]:
                step("image verified")
                return
            slot.unlink()
            # What a loss of power or another source left may be damaged: once more from the first byte.
            if last or (parts == 1 and not there):
                raise Refusal("hash_mismatch", f"the {size} bytes do not match the manifest")

    def load_from_all(self, slot: Path, manifest: Json, offer: Json) -> int:
        """Asks each source for what is missing; how many it took. Raises ConnectionError if they do not have it all.

        Raises Refusal only where every source has something else: another one may be right the next time.
        """
        size, failures = int(manifest["size"]), list[Exception]()
        for name, source in self.sources(offer, size):
            at = self.verified_length(slot, manifest)
            say("loading", name, "from byte", at)
            try:
                with contextlib.closing(self.checked(source(at) if at < size else iter(()), at, manifest)) as pieces:
                    self.append(slot, pieces, size)
                return len(failures) + 1
            except (OSError, http.client.HTTPException, Refusal) as error:
                failures.append(error)
                say("broken off", name, error)
        for failure in failures:
            if not isinstance(failure, Refusal):
                raise ConnectionError(f"the image did not come: {failure}") from failure
        raise failures[-1] if failures else Refusal("download_failed", "the offer does not say where the image is")

    def verified_length(self, slot: Path, manifest: Json) -> int:
        """From where a download goes on: of a piece that has a digest, none or all is kept."""
        at, chunks = slot.stat().st_size if slot.exists() else 0, manifest.get("chunks")
        if chunks and at < manifest["size"] and at % chunks["size"]:
            at -= at % chunks["size"]
            os.truncate(slot, at)
        return at

    def append(self, slot: Path, pieces: Iterator[bytes], size: int) -> None:
        """Writes what comes behind what is there."""
        with slot.open("ab") as file:
            for piece in pieces:
                begun = file.tell()
                file.write(piece)
                file.flush()
                self.sample()
                step("piece written")
                if begun < size // 2 <= file.tell():
                    step("half of it written")
            step("last piece written")
            os.fsync(file.fileno())
        step("image synced")

    def checked(self, pieces: Iterator[bytes], at: int, manifest: Json) -> Generator[bytes, None, None]:
        """The rest of an image, never longer than its manifest says; piece by piece verified where that has digests."""
        size, chunks = int(manifest["size"]), manifest.get("chunks")
        length = chunks["size"] if chunks else 1
        waiting = bytearray()
        for piece in pieces:
            waiting += piece
            if at + len(waiting) > size:
                raise Refusal("size_mismatch", f"there is more than the {size} bytes of the manifest")
            while waiting and (len(waiting) >= length or at + len(waiting) == size):
                part = bytes(waiting[:length] if chunks else waiting)
                if chunks and hashlib.sha256(part).hexdigest() != chunks["sha256"][at // length]:
                    raise Refusal("hash_mismatch", f"the piece at byte {at} does not match the manifest")
                del waiting[: len(part)]
                at += len(part)
                yield part
        if at != size:
            raise ConnectionError(f"it breaks off after {at + len(waiting)} of {size} bytes")

    def sources(self, offer: Json, size: int) -> Iterator[tuple[str, Source]]:
        """Where the image is: at the server over HTTPS and CoAP, and where the offer says. The digest decides."""
        if "path" in offer:
            yield "https", lambda at: over_http(self.server, offer["path"], at, size)
        if "path" in offer and "coap" in self.factory:
            yield "coap", lambda at: over_coap(self.tls("device.pem"), self.factory["coap"], offer["path"], at)
        if offer.get("url"):
            yield "url", lambda at: elsewhere(offer["url"], at, size)  # without the device's certificate

    # --- deltas ------------------------------------------------------------------------------------------------------

    def load_by_delta(self, slot: Path, manifest: Json, offer: Json) -> bool:
        """Makes the image from the running one, if a delta fits that; with any fault the whole image is loaded."""
        running = self.record.slot(self.running)
        base = sha256_of(running)  # read back: a delta on another base would be lost work
        for delta in offer.get("deltas", ()):
            if (delta["from"], delta["format"]) != (base, "bsdiff4") or delta["size"] >= manifest["size"]:
                continue
            try:
                patch = b"".join(over_http(self.server, delta["path"], 0, delta["size"]))
                if hashlib.sha256(patch).hexdigest() != delta["sha256"]:
                    raise ValueError("it is not the offered one")
                self.append(slot, patched(running.read_bytes(), patch, manifest["size"]), manifest["size"])
                if sha256_of(slot) != manifest["sha256"]:
                    raise ValueError("it makes another image")
            except (OSError, http.client.HTTPException, Refusal, *WRONG) as error:
                say("no delta", error)
                slot.unlink(missing_ok=True)
                return False
            say("delta", len(patch), "bytes for", manifest["size"])
            step("image verified")
            return True
        return False

    # --- files -------------------------------------------------------------------------------------------------------

    def install_file(self, file: Path) -> None:
        """Installs a bundle after the checks of an offer; the person at the device stands for the assignment."""
        try:
            with tarfile.open(file, "r:") as bundle:
                manifest, image = self.opened_bundle(bundle)
                if manifest["sha256"] == self.state["firmware"]["sha256"]:
                    say("runs already", manifest["version"])
                    return
                kept = {name: manifest[name] for name in ("version", "seq", "min_seq", "sha256", "size")}
                job = self.begin({"execution": None, "campaign": None, "nonce": None, "image": kept})
                slot = self.record.slot(self.record.spare())
                pieces = iter(lambda: image.read(PIECE), b"")
                self.append(slot, self.checked(pieces, 0, manifest), manifest["size"])
                if sha256_of(slot) != manifest["sha256"]:
                    raise Refusal("hash_mismatch", f"the {manifest['size']} bytes do not match the manifest")
        except (tarfile.TarError, OSError, *WRONG) as error:
            say("file refused", "schema_invalid", f"it is no update: {error!r}")
            return
        except Refusal as refusal:
            say("file refused", refusal.code, refusal.reason)
            return
        self.record.save("slot filled", slots={**self.record.now["slots"], self.record.spare(): kept})
        self.install(job, manifest, {})

    def opened_bundle(self, bundle: tarfile.TarFile) -> tuple[Json, Any]:
        """The manifest of a bundle, verified, and its image, from the first byte."""
        envelopes: list[Json] = []
        for member in bundle:  # in their order: the manifest, the trust roots, the image
            content = bundle.extractfile(member)
            if content is None:
                raise Refusal("schema_invalid", f"{member.name} is no file")
            if member.name == "image.bin":
                manifest, _ = self.genuine(envelopes[0], envelopes[1:], self.now_ms())
                self.check_fit(manifest)
                if member.size != manifest["size"]:
                    raise Refusal("size_mismatch", f"{member.size} bytes; the manifest says {manifest['size']}")
                return manifest, content
            if member.size > 1 << 20:
                raise Refusal("schema_invalid", f"{member.name} is too long")
            envelopes.append(json.load(content))
        raise Refusal("schema_invalid", "it has no image")


def main() -> None:
    """Runs until the next reset."""
    os.umask(0o077)
    folder, slot = Path(sys.argv[1]), sys.argv[2]
    device = UpdatingDevice(folder, slot)
    if device.is_on_trial():
        step("trial started")
    try:
        device.prove_without_server()
        if sys.argv[3:4] == ["--from-file"]:
            device.install_file(Path(sys.argv[4]))
        device.run()
    except Reboot:
        say("reboot")
        reset(folder)


if __name__ == "__main__":
    main()

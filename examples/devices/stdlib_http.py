"""A device over HTTPS with Python's standard library and the program openssl alone.

It enrols, sends readings, follows desired state, runs commands and updates itself: ``python stdlib_http.py FOLDER``.
The folder is the device's flash. The factory writes ``factory.json``, ``ca.pem`` (the CAs of the fleet), ``trust.json``
(whose firmware it installs) and ``command.pub`` (whose commands it runs). The device adds ``device.pem``,
``state.json`` and ``image``. ``docs/how-to/write-a-device.md`` explains each step.
"""

import base64
import hashlib
import http.client
import json
import os
import random
import ssl
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]

QUEUE = 10_000  # readings that wait for the network; a full queue drops its oldest
BATCH = 100  # readings of one message
RESULTS = 50  # remembered results, to answer a repeated command without running it again
RETRY_S = (0.5, 60.0)  # the first and the longest wait before the next connection
LOOK_S = 1.0  # between two looks for what waits, at least
LATER = (401, 403, 408, 429, 500, 502, 503, 504, 507)  # the same request may succeed later


class Refusal(Exception):
    """The device does not do what it was told; code and reason go to the server."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Later(ConnectionError):
    """The server does not take it now."""

    def __init__(self, status: int, code: str, after_s: float) -> None:
        super().__init__(f"{status} {code}")
        self.after_s = after_s


class Reconnect(Exception):
    """The device has another certificate to connect with."""


class Reboot(Exception):
    """What is in RAM is lost from here on."""


def say(*words: object) -> None:
    """The device's console."""
    print(*words, flush=True)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def ms(text: str) -> int:
    """The time of an RFC 3339 text."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def merged(base: object, patch: object) -> Any:
    """A document after a merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        result.pop(name, None) if value is None else result.update({name: merged(result.get(name), value)})
    return result


# --- signed documents ------------------------------------------------------------------------------------------------


SPKI = bytes.fromhex("302a300506032b6570032100")  # before the 32 bytes of an Ed25519 key (RFC 8410)


def openssl(*words: str | Path, given: bytes = b"") -> bytes:
    """What the program openssl writes; raises CalledProcessError."""
    return subprocess.run(["openssl", *words], input=given, capture_output=True, check=True).stdout  # noqa: S603, S607


def key_id(raw: bytes) -> str:
    """The id of an Ed25519 key: SHA-256 of its SubjectPublicKeyInfo."""
    return hashlib.sha256(SPKI + raw).hexdigest()


def is_signed(raw: bytes, signature: bytes, content: bytes) -> bool:
    """Whether one key has signed."""
    with tempfile.TemporaryDirectory() as folder:
        key, signed, bits = (Path(folder) / name for name in ("key", "signed", "signature"))
        for file, data in ((key, SPKI + raw), (signed, content), (bits, signature)):
            file.write_bytes(data)
        words = ("-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", key, "-in", signed, "-sigfile", bits)
        try:
            openssl("pkeyutl", *words)
        except subprocess.CalledProcessError:
            return False
        return True


def opened(envelope: Any, kind: str, keys: Mapping[str, bytes], threshold: int = 1) -> tuple[Json, bytes]:
    """The payload of a DSSE envelope that at least ``threshold`` of the keys have signed, and its bytes."""
    if not envelope or len(envelope["signatures"]) > 16:
        raise Refusal("signature_invalid", f"the server sent no signed {kind}")
    payload = base64.b64decode(envelope["payload"])
    signatures = [base64.b64decode(each["sig"]) for each in envelope["signatures"]]
    said = f"application/vnd.fleetcore.{kind}+json".encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(said), said, len(payload), payload)
    if sum(any(is_signed(raw, each, signed) for each in signatures) for raw in keys.values()) < threshold:
        raise Refusal("signature_invalid", f"the {kind} does not have {threshold} trusted signatures")
    return json.loads(payload), payload


def keys_of(trust: Json, role: Json) -> tuple[Json, int]:
    """The keys of a role of a trust root, each under its true id, and how many of them must sign."""
    keys = {key_id(raw): raw for raw in map(base64.b64decode, trust["keys"].values())}
    return {name: keys[name] for name in role["keys"]}, role["threshold"]


def trust_of(envelope: Json, before: Json | None = None) -> Json:
    """A trust root that its own root keys have signed and, if it is not the factory's, those of the one before.

    The one before where it is not newer: an offer that comes again may have those that the device follows already.
    """
    trust: Json = json.loads(base64.b64decode(envelope["payload"]))
    if before and trust["version"] <= before["version"]:
        return before
    for each in (trust, before or trust):
        opened(envelope, "trust", *keys_of(each, each["root"]))
    if before and trust["version"] != before["version"] + 1:
        raise Refusal("trust_invalid", f"it does not follow version {before['version']}")
    return trust


MANIFEST = {"format", "name", "version", "seq", "min_seq", "models", "size", "sha256", "created", "expires"}


def check_manifest(manifest: Json, model: str, running: Json, now: int) -> None:
    """Whether this device may install the image now."""
    required = manifest.get("requires", {})
    for code, refused in {
        # Not known members: they may forbid what the device is about to do.
        "schema_invalid": not manifest.keys() <= MANIFEST | {"component", "requires", "chunks", "sbom"}
        or manifest["format"] != "fleetcore.firmware/1",
        "model_mismatch": model not in manifest["models"] or manifest.get("component", "main") != "main",
        "manifest_expired": ms(manifest["expires"]) <= now,
        "rollback_refused": manifest["seq"] < running["highest_seq"]
        or (manifest["seq"] == running["seq"] and manifest["sha256"] != running["sha256"]),
        "requires_unmet": required.get("seq", 0) > running["seq"] or "components" in required,
    }.items():
        if refused:
            raise Refusal(code, f"seq {manifest['seq']} for {manifest['models']}; seq {running['seq']} runs")


# --- the device ------------------------------------------------------------------------------------------------------


class Device:
    """One start of the device, from its boot to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.factory: Json = json.loads((folder / "factory.json").read_bytes())
        self.name, self.model = str(self.factory["device"]), str(self.factory["model"])
        saved = folder / "state.json"
        self.state: Json = {
            "boots": 0, "queue": [], "desired": {}, "desired_version": 0, "results": {}, "sequences": {},
            "firmware": self.factory["firmware"], "renew_after": None, "renewing": None, "renewed": None,
            "signed_ms": 0,
        }  # fmt: skip
        self.state |= json.loads(saved.read_bytes()) if saved.exists() else {}
        self.queue: deque[Json] = deque(self.state["queue"], QUEUE)
        self.save(boots=self.state["boots"] + 1, queue=[])
        # It rises over restarts without a write for each reading: the number of the start, then that of the reading.
        self.seq = self.state["boots"] << 24
        raw = openssl("pkey", "-pubin", "-in", folder / "command.pub", "-outform", "DER").removeprefix(SPKI)
        self.command_keys = {key_id(raw): raw}
        self.next_sample = self.next_renewal = 0.0  # by the monotonic clock
        self.next_look = 0.0
        self.pending = ""  # what waits at the server, from its last answer
        self.server = http.client.HTTPSConnection("")

    def write(self, name: str, content: bytes) -> None:
        """Replaces a small file: after a loss of power the old or the new one is there, complete."""
        beside = self.folder / f"{name}.new"
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.folder / name)

    def save(self, **changes: object) -> None:
        """Changes what outlives a loss of power."""
        self.state |= changes
        self.write("state.json", json.dumps(self.state).encode())

    def run(self) -> None:
        """Enrols once; then connects, again and again."""
        failures = 0
        while True:
            try:
                if not (self.folder / "device.pem").exists():
                    self.enroll()
                self.connect(self.credential(failures))
                failures = 0
                self.serve()
            except (OSError, http.client.HTTPException) as error:
                failures += 1
                wait = min(RETRY_S[1], RETRY_S[0] * 2 ** min(failures, 10)) * random.uniform(0.5, 1)
                wait = max(wait, error.after_s if isinstance(error, Later) else 0.0)
                say("offline", f"{wait:.1f} s", type(error).__name__, error)
                self.pause(wait)
            except Reconnect:
                say("renewed")
            finally:
                self.server.close()

    # --- credentials -----------------------------------------------------------------------------------------------

    def request(self) -> tuple[str, str]:
        """A new key, which never leaves the device, and a certificate request for it."""
        key = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        csr = openssl("req", "-new", "-key", "/dev/stdin", "-subj", f"/CN={self.name}", given=key)
        return key.decode(), csr.decode()

    def enroll(self) -> None:
        """Gets the first certificate by the factory's token. The key is saved first, so it may be repeated."""
        if "enrolling" not in self.state:
            self.save(enrolling=self.request())
        private, csr = self.state["enrolling"]
        self.server = self.connection(None)
        asked = {"csr": csr, "token": self.factory["token"], "parameters": {"model": self.model}}
        status, answer = self.call("POST", "/enroll", asked)
        if status != 201:  # 202: an operator has to decide; else a person has to look
            raise Later(status, answer["code"], answer.get("retry_after_s", 30))
        self.keep("device.pem", private, answer)
        self.server.close()
        say("enrolled")

    def keep(self, name: str, private: str, answer: Json, **changes: object) -> None:
        """Saves key and certificates in one file, so that they are never of two different requests."""
        self.write("ca.pem", answer["ca"].encode())
        self.save(renew_after=ms(answer["renew_after"]), **changes)
        self.write(name, (private + answer["certificate"] + answer["chain"]).encode())

    def credential(self, failures: int) -> str:
        """The old certificate is good until the new one has connected: after a failure the device tries the other."""
        return "next.pem" if failures % 2 == 0 and (self.folder / "next.pem").exists() else "device.pem"

    def tls(self, credential: str | None) -> ssl.SSLContext:
        """Trusts only the fleet's CAs, and checks the name in the server's certificate."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if credential is not None:
            context.load_cert_chain(self.folder / credential)
        return context

    def connection(self, credential: str | None) -> http.client.HTTPSConnection:
        """To the server, not open yet."""
        url = urlsplit(self.factory["http"])
        return http.client.HTTPSConnection(url.hostname or "", url.port, timeout=70, context=self.tls(credential))

    def renew(self) -> None:
        """Gets the next certificate when it is time or wanted, with a new key; the old one stays until it works."""
        is_due = now_ms() >= self.state["renew_after"] or self.wanted("renew") not in (None, self.state["renewed"])
        if not is_due or time.monotonic() < self.next_renewal:
            return
        self.next_renewal = time.monotonic() + 3600  # the next try, if this one fails
        private, csr = self.request()
        status, answer = self.call("POST", "/certificates/renew", {"csr": csr})
        if status != 201:
            say("not renewed", status, answer.get("code"))
            return
        self.keep("next.pem", private, answer, renewing=self.wanted("renew"))
        raise Reconnect

    # --- the connection --------------------------------------------------------------------------------------------

    def connect(self, credential: str) -> None:
        """Opens a connection, and says that the device is there."""
        self.server = self.connection(credential)
        self.call("POST", "/status", {"state": "online"})
        if credential == "next.pem":
            (self.folder / "next.pem").replace(self.folder / "device.pem")
            self.save(renewed=self.state["renewing"])
        (self.folder / "next.pem").unlink(missing_ok=True)
        if self.factory.pop("token", None):  # it has done its work, as has the copy of the first key
            self.write("factory.json", json.dumps(self.factory).encode())
            self.state.pop("enrolling", None)
            self.save()
        self.report()
        say("online", credential)

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Json]:
        """Status and body of an answer; raises Later where the same request may succeed another time."""
        content = None if body is None else json.dumps(body)
        self.server.request(method, f"/device/v1{path}", content, {"Content-Type": "application/json"})
        answer = self.server.getresponse()
        said = json.loads(answer.read() or b"{}")
        self.pending = answer.headers.get("Fleetcore-Pending", "")
        if answer.status in LATER:
            raise Later(answer.status, said.get("code", ""), float(answer.headers.get("Retry-After", 0)))
        if answer.status >= 400:  # not to be sent again: it would be refused again
            say("refused", answer.status, said.get("code"), said.get("detail"))
        return answer.status, said

    def serve(self) -> None:
        """Works until the connection is lost."""
        while True:
            self.sample()
            self.send_readings()
            self.renew()
            left_s, now = self.next_sample - time.monotonic(), time.monotonic()
            if (left_s >= 1 or self.pending) and now >= self.next_look:
                self.next_look = now + LOOK_S
                try:
                    self.look(0 if self.pending else min(55, int(left_s)))
                except (KeyError, TypeError) as error:
                    say("not understood", repr(error))
            elif left_s > 0:
                time.sleep(min(left_s, max(0.0, self.next_look - now) or left_s))

    def look(self, wait_s: int) -> None:
        """Handles all that waits for the device; the server answers at once, or when there is something."""
        status, waiting = self.call("GET", f"/inbox?wait={wait_s}&since={self.state['desired_version']}")
        if status != 200:
            return
        if "desired" in waiting:
            change = waiting["desired"]
            if change["since"] in (0, self.state["desired_version"]):
                base = self.state["desired"] if change["since"] else {}
                self.follow(change["version"], merged(base, change["patch"]))
            else:  # versions between are missing
                _, twin = self.call("GET", "/twin")
                self.follow(twin["desired_version"], twin["desired"])
        for body in waiting.get("commands", {}).get("commands", ()):
            self.command(body)
        if "firmware" in waiting:
            self.offered(waiting["firmware"])

    # --- readings --------------------------------------------------------------------------------------------------

    def interval_s(self) -> float:
        """How often it measures."""
        return 10.0 if "/interval_s" in self.refused() else float(self.state["desired"].get("interval_s", 10))

    def sample(self) -> None:
        """Measures when it is time, and queues the reading."""
        if time.monotonic() >= self.next_sample:
            self.next_sample = time.monotonic() + self.interval_s()
            self.seq += 1
            reading = {"time": now_ms(), "seq": self.seq, "values": {"temperature": round(random.gauss(20, 2), 3)}}
            self.queue.append(reading)
            say("reading", json.dumps(reading))

    def pause(self, seconds: float) -> None:
        """Waits, and measures meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.sample()
            time.sleep(min(left, max(0.0, self.next_sample - time.monotonic())))

    def send_readings(self) -> None:
        """Sends the oldest readings; those that are stored, or refused for good, are dropped."""
        while self.queue:
            batch = list(self.queue)[:BATCH]
            status, answer = self.call("POST", "/telemetry", batch)
            if status == 200:
                say("readings refused", answer["rejected"])
            for _ in batch:
                self.queue.popleft()

    # --- desired state ---------------------------------------------------------------------------------------------

    def follow(self, version: int, desired: Json) -> None:
        """Adopts a newer desired document, and says what it did with it."""
        if version <= self.state["desired_version"]:
            return
        before = self.interval_s()
        self.save(desired=desired, desired_version=version)
        trust = self.wanted("trust")
        if trust and hashlib.sha256(trust["ca"].encode()).hexdigest() == trust["sha256"]:
            self.write("ca.pem", trust["ca"].encode())
        if self.interval_s() != before:
            self.next_sample = time.monotonic() + self.interval_s()
        self.next_renewal = 0.0
        self.report()
        self.call("POST", "/twin/ack", {"version": version, "refused": self.refused()})

    def wanted(self, name: str) -> Any:
        """What the server itself wants of every device: ``trust``, ``renew``."""
        return self.state["desired"].get("fleetcore", {}).get(name)

    def refused(self) -> Json:
        """The leaves of the desired document that this device does not follow, by pointer."""
        unknown = self.state["desired"].keys() - {"interval_s", "fleetcore"}
        wrong = {"/" + name.replace("~", "~0").replace("/", "~1"): {"code": "unknown"} for name in unknown}
        wanted = self.state["desired"].get("interval_s", 10)
        if not isinstance(wanted, int | float) or not 0.05 <= wanted <= 86_400:
            wrong["/interval_s"] = {"code": "out_of_range", "reason": "0.05 to 86400"}
        return wrong

    def report(self) -> None:
        """Reports what is so. It is a merge patch: saying it again changes nothing."""
        firmware = {**self.state["firmware"], "trust": self.trust()["version"]}
        said: Json = {"interval_s": self.interval_s(), "firmware": firmware, "fleetcore": {}}
        trust = self.wanted("trust")
        if trust and (self.folder / "ca.pem").read_text() == trust["ca"]:
            said["fleetcore"]["trust"] = {"version": trust["version"], "sha256": trust["sha256"]}
        if self.state["renewed"] is not None:
            said["fleetcore"]["renew"] = self.state["renewed"]
        self.call("PATCH", "/twin/reported", said)

    # --- commands --------------------------------------------------------------------------------------------------

    def command(self, body: Json) -> None:
        """Runs a command once, however often it comes."""
        name = body["id"]
        result = self.state["results"].get(name)
        if result is None and body.get("cancel"):  # what has begun here has also ended, and has a result
            result = {"status": "cancelled"}
        if result is None:
            try:
                order = self.order(body)
                self.call("POST", f"/commands/{name}/result", {"status": "accepted"})
                # Saved before it runs: a loss of power in the middle makes this the answer, not a second run.
                self.state["sequences"][order["lane"]] = order["sequence"]
                self.remember(name, {"status": "failed", "code": "interrupted"})
                result = self.perform(order)
            except Refusal as refusal:
                result = {"status": "rejected", "code": refusal.code, "reason": refusal.reason}
            self.remember(name, result)
        self.call("POST", f"/commands/{name}/result", result)

    def order(self, body: Json) -> Json:
        """What is signed, for only that counts: a command for this device, new, and not too late."""
        order, _ = opened(body.get("signed"), "command", self.command_keys)
        for code, refused in {
            "not_your_device": (order["device"], order["id"]) != (self.name, body["id"]),
            "not_authorised": order["sequence"] <= self.state["sequences"].get(order["lane"], 0),  # a replay
            "command_expired": ms(order["expires_at"]) <= now_ms(),
        }.items():
            if refused:
                raise Refusal(code, f"sequence {order['sequence']} until {order['expires_at']}")
        return order

    def remember(self, name: str, result: Json) -> None:
        """Saves the result of a command; the oldest ones go."""
        self.save(results=dict([*self.state["results"].items(), (name, result)][-RESULTS:]))

    def perform(self, order: Json) -> Json:
        """The commands of this device."""
        say("command", order["name"])
        if order["name"] != "identify":
            raise Refusal("unknown_command", "it knows identify")
        return {"status": "succeeded", "output": {"blinked": order["args"].get("times", 1)}}

    # --- firmware --------------------------------------------------------------------------------------------------

    def trust(self) -> Json:
        """The trust root in the flash."""
        return trust_of(json.loads((self.folder / "trust.json").read_bytes()))

    def offered(self, body: Json) -> None:
        """Handles an offer to its end; one that comes again goes on where the last one stopped."""
        offer = body["offer"]
        if offer is None:
            if "cancel" in body:
                self.call("POST", "/firmware/status", {"execution": body["cancel"], "state": "cancelled"})
            return

        def status(state: str, **more: object) -> None:
            ids = {"execution": offer["execution"], "campaign": offer["campaign"]}
            self.call("POST", "/firmware/status", {**ids, "state": state, **more})
            say("firmware", state, more)

        try:
            manifest, _ = self.admitted(offer)
            if manifest["sha256"] == self.state["firmware"]["sha256"]:
                status("succeeded", version=manifest["version"])
                return
            status("accepted")
            status("downloading")
            self.download(offer["path"], manifest["size"], manifest["sha256"])
        except Refusal as refusal:
            status("rejected", code=refusal.code, reason=refusal.reason)
            return
        status("downloaded")
        if offer["install"] == "wait":
            return  # it is offered again when it may be installed
        status("installing")
        # A board marks its second slot for a trial here; its boot loader goes back if that does not come up.
        (self.folder / "image.part").replace(self.folder / "image")
        firmware = {name: manifest[name] for name in ("version", "seq", "sha256")}
        self.save(firmware={**firmware, "highest_seq": manifest["seq"]}, queue=list(self.queue))
        status("rebooting")
        raise Reboot

    def now_ms(self) -> int:
        """By what expiry is judged: the later of its own clock and the latest time that the server signed."""
        return max(now_ms(), int(self.state["signed_ms"]))

    def genuine(self, envelope: Any, chain: Iterable[Json], now: int) -> tuple[Json, bytes]:
        """A manifest that the maker signed for this device, and its bytes; ``chain`` are the next trust roots."""
        trust = self.trust()
        for each in chain:
            before, trust = trust, trust_of(each, trust)
            if trust is not before:
                self.write("trust.json", json.dumps(each).encode())
        if ms(trust["expires"]) <= now:
            raise Refusal("trust_expired", f"the trust root expired at {trust['expires']}")
        role = trust.get("models", {}).get(self.model) or trust["firmware"]
        manifest, payload = opened(envelope, "firmware", *keys_of(trust, role))
        check_manifest(manifest, self.model, self.state["firmware"], now)
        return manifest, payload

    def admitted(self, offer: Json, *, under_way: bool = False) -> tuple[Json, Json]:
        """Manifest and assignment of an offer: the maker signed the one, the fleet the other for this device now.

        An update that is ``under_way`` may be finished after the end of its assignment.
        """
        assignment, _ = opened(offer.get("assignment"), "assignment", self.command_keys)
        signed_ms = ms(assignment["issued"]) if "issued" in assignment else 0
        now = max(self.now_ms(), signed_ms)
        manifest, payload = self.genuine(offer.get("manifest"), offer.get("trust", ()), now)
        expected = {
            "device": self.name, "execution": offer["execution"], "campaign": offer["campaign"],
            "manifest_sha256": hashlib.sha256(payload).hexdigest(), "seq": manifest["seq"],
        }  # fmt: skip
        if expected.items() - assignment.items():
            raise Refusal("signature_invalid", "the assignment is for another update")
        if ms(assignment["not_after"]) <= now and not under_way:
            raise Refusal("too_late", f"it had to start before {assignment['not_after']}")
        # Only with a manifest that is valid then: a server with a wrong clock does not end all updates for good.
        self.save(signed_ms=max(signed_ms, self.state["signed_ms"]))
        return manifest, assignment

    def download(self, path: str, size: int, sha256: str) -> None:
        """Loads what is missing of the image into ``image.part``, and verifies the whole."""
        part = self.folder / "image.part"
        if self.state.get("loading") != sha256:
            part.unlink(missing_ok=True)
            self.save(loading=sha256)
        with part.open("ab") as file:
            start = file.tell()
            if start < size:
                self.server.request("GET", path, headers={"Range": f"bytes={start}-"})
                answer = self.server.getresponse()
                if answer.status != 206:
                    raise ConnectionError(f"no image: {answer.status}")  # it is offered again
                while file.tell() < size and (piece := answer.read(min(65_536, size - file.tell()))):
                    file.write(piece)
                    self.sample()
                answer.close()
            file.flush()
            os.fsync(file.fileno())
        if hashlib.sha256(part.read_bytes()).hexdigest() != sha256:
            part.unlink()
            if start:
                raise ConnectionError("what was there of the image is damaged")  # the next try begins anew
            raise Refusal("hash_mismatch", "the image does not match its manifest")


def main() -> None:
    """Starts the device, again after each reboot."""
    os.umask(0o077)  # the folder holds a private key
    while True:
        try:
            Device(Path(sys.argv[1])).run()
        except Reboot:
            say("reboot")


if __name__ == "__main__":
    main()

"""A device without a clock, over MQTT 3.1.1, with nothing but what MicroPython has; CPython runs it too.

It enrols, sends readings, follows desired state, runs commands and updates itself: ``micropython micropython_style.py
FOLDER``. The folder is the device's flash. On the bench where it is flashed, ``openssl`` makes ``device.key`` and
``device.csr`` (MicroPython makes no keys); the factory adds ``factory.json``, ``ca.pem`` (the CAs of the fleet),
``trust.json`` (whose firmware it installs) and ``command.pub`` (whose commands it runs). The device writes
``device.pem``, ``state.json`` and ``image``. ``docs/how-to/write-a-device.md`` explains each step.
"""

import binascii
import errno
import hashlib
import json
import os
import select
import socket
import ssl
import struct
import sys
import time

QUEUE = 1000  # readings that wait for the network; a full queue drops its oldest
BATCH = 20  # readings of one message
RESULTS = 20  # remembered results, to answer a repeated command without running it again
RETRY_MS = (500, 60000)  # the first and the longest wait before the next connection
KEEPALIVE_S = 60
TOPICS = ("time", "twin", "twin/desired", "commands", "commands/+/cancel", "firmware", "reply/+", "errors")
MICROPYTHON = sys.implementation.name == "micropython"


def ticks_ms():
    """Milliseconds since the start. MicroPython's begin again every 12 days, which is the longest age of a reading."""
    return time.ticks_ms() if MICROPYTHON else time.monotonic_ns() // 1000000


def ticks_diff(later, earlier):
    """Milliseconds between two ticks."""
    return time.ticks_diff(later, earlier) if MICROPYTHON else later - earlier


def exists(name):
    """Whether there is a file."""
    try:
        os.stat(name)
    except OSError:
        return False
    return True


def remove(name):
    """Removes a file, if there is one."""
    if exists(name):
        os.remove(name)


def read(name):
    """The content of a small file."""
    with open(name, "rb") as file:
        return file.read()


def write(name, content):
    """Replaces a small file: after a loss of power littlefs has the old or the new one, complete."""
    with open("new", "wb") as file:
        file.write(content)
    os.rename("new", name)


def der(name):
    """The objects of a PEM file, which not every board's TLS reads itself."""
    blocks = read(name).decode().split("-----BEGIN ")[1:]
    return [binascii.a2b_base64(block.split("-----")[1]) for block in blocks]


def ms(text):
    """The time of an RFC 3339 text in UTC, since 1970 whatever the board's epoch is."""
    year, month, day, hour, minute = (int(text[at : at + 2]) for at in (2, 5, 8, 11, 14))
    year += 2000 - (month < 3)
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719469
    return ((days * 24 + hour) * 60 + minute) * 60000 + int(float(text[17:].rstrip("Z")) * 1000)


def merged(base, patch):
    """A document after a merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


# --- signatures: Ed25519 (RFC 8032), SHA-512 (FIPS 180-4). To verify there is no secret that the timing could tell. ---

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
MASK = 2**64 - 1


def root(number, power):
    """The integer root of a number."""
    found = 0
    for bit in range(72, -1, -1):
        if (found | 1 << bit) ** power <= number:
            found |= 1 << bit
    return found


PRIMES = [n for n in range(2, 410) if all(n % d for d in range(2, n))]
H = [root(prime << 128, 2) & MASK for prime in PRIMES[:8]]
K = [root(prime << 192, 3) & MASK for prime in PRIMES]


def turned(word, *turns):
    """The exclusive or of a word turned right by several numbers of bits."""
    result = 0
    for by in turns:
        result ^= (word >> by | word << 64 - by) & MASK
    return result


def sha512(message):
    """The SHA-512 of a message."""
    state = list(H)
    message += b"\x80" + bytes(-(len(message) + 17) % 128) + (8 * len(message)).to_bytes(16, "big")
    for at in range(0, len(message), 128):
        words = list(struct.unpack(">16Q", message[at : at + 128]))
        for i in range(16, 80):
            x, y = words[i - 15], words[i - 2]
            s0, s1 = turned(x, 1, 8) ^ x >> 7, turned(y, 19, 61) ^ y >> 6
            words.append((words[i - 16] + s0 + words[i - 7] + s1) & MASK)
        a, b, c, d, e, f, g, h = state
        for i in range(80):
            first = h + turned(e, 14, 18, 41) + (e & f ^ ~e & g) + K[i] + words[i]
            second = turned(a, 28, 34, 39) + (a & b ^ a & c ^ b & c)
            a, b, c, d, e, f, g, h = (first + second) & MASK, a, b, c, (d + first) & MASK, e, f, g
        state = [(old + new) & MASK for old, new in zip(state, (a, b, c, d, e, f, g, h))]
    return struct.pack(">8Q", *state)


D = -121665 * pow(121666, P - 2, P) % P


def added(p, q):
    """The sum of two points, in extended coordinates."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number, point):
    """A multiple of a point."""
    result = (0, 1, 1, 0)
    while number:
        if number & 1:
            result = added(result, point)
        point, number = added(point, point), number >> 1
    return result


def point_of(coded):
    """The point that 32 bytes stand for; raises ValueError."""
    y = int.from_bytes(coded, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or y >= P or (x == 0 and sign):
        raise ValueError("not a point")
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = point_of(b"\x58" + b"\x66" * 31)


def is_signed(raw, signature, content):
    """Whether an Ed25519 key has signed."""
    number = int.from_bytes(signature[32:], "little")
    if len(raw) != 32 or len(signature) != 64 or number >= L:
        return False
    try:
        key, point = point_of(raw), point_of(signature[:32])
    except ValueError:
        return False
    factor = int.from_bytes(sha512(signature[:32] + raw + content), "little") % L
    left, right = times(number, BASE), added(point, times(factor, key))
    return not ((left[0] * right[2] - right[0] * left[2]) % P or (left[1] * right[2] - right[1] * left[2]) % P)


# --- signed documents ------------------------------------------------------------------------------------------------

SPKI = binascii.unhexlify("302a300506032b6570032100")  # before the 32 bytes of an Ed25519 key (RFC 8410)


class Refusal(Exception):
    """The device does not do what it was told; the code goes to the server."""


def sha256(content):
    """The SHA-256 of some bytes, in hexadecimal."""
    return binascii.hexlify(hashlib.sha256(content).digest()).decode()


def opened(envelope, kind, keys, threshold=1):
    """The payload of a DSSE envelope that at least ``threshold`` of the keys have signed, and its bytes."""
    if not envelope or len(envelope["signatures"]) > 16:
        raise Refusal("signature_invalid")
    payload = binascii.a2b_base64(envelope["payload"])
    kind = "application/vnd.fleetcore." + kind + "+json"
    signed = b" ".join((b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(payload)).encode(), payload))
    found = set()
    for each in envelope["signatures"]:
        for name in [each["keyid"]] if each.get("keyid") in keys else keys:
            if is_signed(keys[name], binascii.a2b_base64(each["sig"]), signed):
                found.add(name)
    if len(found) < threshold:
        raise Refusal("signature_invalid")
    return json.loads(payload), payload


def keys_of(trust, role):
    """The keys of a role of a trust root, each under its true id, and how many of them must sign."""
    raws = [binascii.a2b_base64(coded) for coded in trust["keys"].values()]
    keys = {sha256(SPKI + raw): raw for raw in raws}
    return {name: keys[name] for name in role["keys"]}, role["threshold"]


def trust_of(envelope, before=None):
    """A trust root that its own root keys have signed and, if it is not the factory's, those of the one before.

    The one before where it is not newer: an offer that comes again may have those that the device follows already.
    """
    trust = json.loads(binascii.a2b_base64(envelope["payload"]))
    if before and trust["version"] <= before["version"]:
        return before
    for each in (trust, before or trust):
        opened(envelope, "trust", *keys_of(each, each["root"]))
    if before and trust["version"] != before["version"] + 1:
        raise Refusal("trust_invalid")
    return trust


# --- connections -----------------------------------------------------------------------------------------------------


class Stream:
    """A TLS connection: it trusts only the fleet's CAs, and checks the name in the server's certificate."""

    def __init__(self, host, port, credential):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_mode = ssl.CERT_REQUIRED
        for certificate in der("ca.pem"):
            context.load_verify_locations(cadata=certificate)
        if credential and MICROPYTHON:
            context.load_cert_chain(der(credential)[0], der("device.key")[-1])
        elif credential:
            context.load_cert_chain(credential, "device.key")
        raw = socket.socket()
        raw.settimeout(20)
        try:
            raw.connect(socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][-1])
            self._stream = context.wrap_socket(raw, server_hostname=host)
        except (OSError, ValueError) as error:  # MicroPython says ValueError of a certificate
            raw.close()
            raise OSError(*error.args)
        self._timed = raw if MICROPYTHON else self._stream
        self._poll = select.poll()
        self._poll.register(self._stream, select.POLLIN)
        self.write, self.close = self._stream.write, self._stream.close

    def read(self, count):
        """Exactly so many bytes; raises OSError if they do not come."""
        found = b""
        while len(found) < count:
            piece = self._stream.read(count - len(found))
            if not piece:
                raise OSError(errno.ECONNRESET)
            found += piece
        return found

    def byte(self, wait_ms):
        """The next byte, or None where none comes within a time."""
        began = ticks_ms()
        while True:
            self._timed.settimeout(0)
            try:
                found = self._stream.read(1)
            except OSError as error:
                if error.args[0] not in (errno.EAGAIN, getattr(ssl, "SSL_ERROR_WANT_READ", errno.EAGAIN)):
                    raise
                found = None
            finally:
                self._timed.settimeout(20)
            if found == b"":
                raise OSError(errno.ECONNRESET)
            left = wait_ms - ticks_diff(ticks_ms(), began)
            if found or left <= 0:
                return found
            self._poll.poll(left)

    def line(self):
        """A line of an HTTP head, without its end."""
        found = b""
        while not found.endswith(b"\r\n"):
            found += self.read(1)
        return found[:-2].decode()


class Mqtt:
    """MQTT 3.1.1 as far as a device needs it: QoS 1, one message of its own at a time.

    Attributes:
        inbox: topics and bodies that have come, in their order.
    """

    def __init__(self, stream, client_id, will_topic, will):
        self._stream, self._number, self.inbox = stream, 0, []
        self._sent = ticks_ms()
        # CONNECT: clean session, a will with QoS 1
        head = b"\0\4MQTT\4\x0e" + struct.pack(">H", KEEPALIVE_S)
        self._send(0x10, head + text(client_id) + text(will_topic) + text(will))
        kind, body = self._packet(20000)
        if kind != 0x20 or body[1] != 0:
            raise OSError(errno.ECONNREFUSED)

    def _send(self, kind, body):
        size, rest = b"", len(body)
        while True:
            size += bytes([rest & 127 | (128 if rest > 127 else 0)])
            rest >>= 7
            if not rest:
                break
        self._stream.write(bytes([kind]) + size + body)
        self._sent = ticks_ms()

    def _packet(self, wait_ms):
        """Type and body of the next packet; (0, b"") where none comes within a time."""
        first = self._stream.byte(wait_ms)
        if not first:
            return 0, b""
        size, shift = 0, 0
        while True:
            digit = self._stream.read(1)[0]
            size |= (digit & 127) << shift
            shift += 7
            if digit < 128:
                break
        return first[0], self._stream.read(size)

    def wait(self, wait_ms):
        """Files what comes, until something has come or a time is over; returns the packet's type and number."""
        if ticks_diff(ticks_ms(), self._sent) > KEEPALIVE_S * 500:
            self._send(0xC0, b"")
        kind, body = self._packet(wait_ms)
        if kind & 0xF0 != 0x30:
            return kind & 0xF0, body[:2]
        end = 2 + struct.unpack(">H", body[:2])[0]
        self.inbox.append((body[2:end].decode(), json.loads(body[end + 2 :])))
        self._send(0x40, body[end : end + 2])  # all that is sent here has QoS 1
        return 0x30, b""

    def _ask(self, kind, body, answer):
        """Sends a packet with a number, and returns when it is acknowledged; what comes meanwhile is filed."""
        self._number = self._number % 65535 + 1
        number = struct.pack(">H", self._number)
        self._send(kind, body(number))
        began = ticks_ms()
        while self.wait(1000) != (answer, number):
            # The server does not acknowledge what it cannot store now, and closes after 30 s.
            if ticks_diff(ticks_ms(), began) > 60000:
                raise OSError(errno.ETIMEDOUT)

    def publish(self, topic, body):
        """Sends a message with QoS 1; returns when it is stored, or refused for good."""
        self._ask(0x32, lambda number: text(topic) + number + json.dumps(body).encode(), 0x40)

    def subscribe(self, topics):
        """Subscribes with QoS 1."""
        self._ask(0x82, lambda number: number + b"".join(text(topic) + b"\1" for topic in topics), 0x90)

    def disconnect(self):
        """Ends the connection, so that the server does not publish the will."""
        self._send(0xE0, b"")


def text(content):
    """A text as MQTT has it, after its length."""
    content = content.encode()
    return struct.pack(">H", len(content)) + content


# --- the device ------------------------------------------------------------------------------------------------------


class Reboot(Exception):
    """What is in RAM is lost from here on: a board calls ``machine.reset()``."""


class Reconnect(Exception):
    """The device has another certificate to connect with."""


class Device:
    """One start of the device, from its boot to the next; its files are in the working folder."""

    def __init__(self):
        self.factory = json.loads(read("factory.json"))
        self.name = self.factory["device"]
        self.state = {
            "boots": 0, "queue": [], "desired": {}, "desired_version": 0, "results": [], "sequences": {},
            "firmware": self.factory["firmware"], "renew_after": 0, "loading": "",
        }  # fmt: skip
        if exists("state.json"):
            self.state.update(json.loads(read("state.json")))
        self.queue = self.state["queue"]
        self.save(boots=self.state["boots"] + 1, queue=[])
        key = der("command.pub")[0]
        self.command_keys = {sha256(key): key[-32:]}
        self.number = 0  # of the last reading of this start
        self.next_sample = ticks_ms()
        self.offset = None  # from ticks to the server's clock
        self.mqtt = None

    def save(self, **changes):
        """Changes what outlives a loss of power."""
        self.state.update(changes)
        write("state.json", json.dumps(self.state).encode())

    def run(self):
        """Enrols once; then connects, again and again."""
        failures = 0
        while True:
            stream = None
            try:
                if not exists("device.pem"):
                    self.enroll()
                # The old certificate is good until the new one has connected: after a failure it tries the other.
                credential = "next.pem" if failures % 2 == 0 and exists("next.pem") else "device.pem"
                host, port = self.address("mqtt")
                stream = Stream(host, port, credential)
                self.connect(stream, credential)
                failures = 0
                self.serve()
            except Reconnect:
                print("renewed")
            except OSError as error:
                wait = min(RETRY_MS[1], RETRY_MS[0] << min(failures, 7)) * (128 + os.urandom(1)[0] // 2) // 256
                failures += 1
                print("offline", wait, "ms", error)
                self.pause(wait)
            finally:
                if stream:
                    stream.close()

    def address(self, scheme):
        """Host and port of an endpoint of the server."""
        host, _, port = self.factory[scheme].split("://")[1].partition(":")
        return host, int(port)

    # --- credentials and HTTP --------------------------------------------------------------------------------------

    def https(self, credential, head, body=b""):
        """Sends a request: the open connection, the status and the length of the answer."""
        host, port = self.address("http")
        stream = Stream(host, port, credential)
        ends = f"\r\nHost: {host}:{port}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        stream.write((head + ends).encode() + body)
        status, length = int(stream.line().split(" ")[1]), 0
        while True:
            name, _, value = stream.line().partition(":")
            if not name:
                return stream, status, length
            if name.lower() == "content-length":
                length = int(value)

    def enroll(self):
        """Gets the first certificate by the factory's token, for the request that was made with the key."""
        head = "POST /device/v1/enroll HTTP/1.1\r\nContent-Type: application/pkcs10\r\nAuthorization: Bearer "
        stream, status, length = self.https(None, head + self.factory["token"], read("device.csr"))
        answer = json.loads(stream.read(length))
        stream.close()
        if status != 201:  # 202: an operator has to decide; else a person has to look
            print("not enrolled", status, answer["code"])
            raise OSError(errno.EACCES)
        self.keep("device.pem", answer)
        print("enrolled")

    def keep(self, name, answer):
        """Saves certificates."""
        write("ca.pem", answer["ca"].encode())
        self.save(renew_after=ms(answer["renew_after"]))
        write(name, (answer["certificate"] + answer["chain"]).encode())

    # --- the connection --------------------------------------------------------------------------------------------

    def connect(self, stream, credential):
        """Opens a connection, asks for the time, and says that the device is there."""
        session = binascii.hexlify(os.urandom(4)).decode()
        will = json.dumps({"state": "offline", "session": session})
        self.mqtt = Mqtt(stream, self.name, self.topic("status"), will)
        if credential == "next.pem":
            os.rename("next.pem", "device.pem")
        remove("next.pem")
        if self.factory.pop("token", None):  # it has done its work
            write("factory.json", json.dumps(self.factory).encode())
        self.mqtt.subscribe([self.topic(topic) for topic in TOPICS])
        self.publish("time/get", {"client": ticks_ms()})
        while self.offset is None:  # before anything is judged that has an end
            self.mqtt.wait(1000)
            for topic, body in self.mqtt.inbox:
                if topic == self.topic("time"):
                    self.told(["time"], body)
        self.publish("status", {"state": "online", "session": session})
        self.report()
        print("online", credential)

    def topic(self, name):
        """A topic of this device."""
        return "fleet/v1/" + self.name + "/" + name

    def publish(self, name, body):
        """Sends a message and waits until it is acknowledged; raises OSError where the connection is lost."""
        self.mqtt.publish(self.topic(name), body)

    def serve(self):
        """Works until the connection is lost."""
        while True:
            self.sample()
            self.send_readings()
            if self.now_ms() >= self.state["renew_after"]:
                self.save(renew_after=self.now_ms() + 3600000)  # the next try, if this one fails
                body = {"csr": read("device.csr").decode()}
                self.publish("request/renew", {"op": "certificate.renew", "body": body})
            if not self.mqtt.inbox:
                self.mqtt.wait(max(0, ticks_diff(self.next_sample, ticks_ms())))
            while self.mqtt.inbox:
                topic, body = self.mqtt.inbox.pop(0)
                try:
                    self.told(topic.split("/")[3:], body)
                except (KeyError, TypeError, ValueError) as error:
                    print("not understood", topic, repr(error))

    def told(self, topic, body):
        """What the server says."""
        if topic == ["time"]:
            self.offset = body["sent_ms"] - ticks_ms()
        elif topic == ["twin"]:
            self.follow(body["desired_version"], body["desired"])
        elif topic == ["twin", "desired"]:
            if body["since"] in (0, self.state["desired_version"]):
                self.follow(body["version"], merged(self.state["desired"] if body["since"] else {}, body["patch"]))
            else:  # versions between are missing
                self.publish("twin/get", {})
        elif topic == ["commands"]:
            self.command(body)
        elif topic[0] == "commands":  # a cancellation: a command has ended before the next message is read
            self.publish("commands/" + topic[1] + "/result", self.result(topic[1]) or {"status": "cancelled"})
        elif topic == ["firmware"]:
            self.offered(body)
        elif topic == ["reply", "renew"] and body["ok"]:
            self.keep("next.pem", body["body"])
            raise Reconnect
        elif topic == ["errors"]:
            print("refused", body["code"], body.get("topic"), body.get("detail"))

    # --- readings --------------------------------------------------------------------------------------------------

    def now_ms(self):
        """The server's time."""
        return ticks_ms() + self.offset

    def interval_ms(self):
        """How often it measures."""
        wanted = self.state["desired"].get("interval_s", 10)
        return 10000 if "/interval_s" in self.refused() else int(wanted * 1000)

    def sample(self):
        """Measures when it is time, and queues the reading under an id that no other has."""
        if ticks_diff(self.next_sample, ticks_ms()) > 0:
            return
        self.next_sample = ticks_ms() + self.interval_ms()
        self.number += 1
        name = "{}-{}".format(self.state["boots"], self.number)
        value = 15 + struct.unpack(">H", os.urandom(2))[0] % 10000 / 1000
        if len(self.queue) >= QUEUE:
            self.queue.pop(0)
        self.queue.append({"id": name, "ticks": ticks_ms(), "values": {"temperature": value}})
        print("reading", json.dumps(self.queue[-1]))

    def pause(self, wait_ms):
        """Waits, and measures meanwhile."""
        began = ticks_ms()
        while ticks_diff(ticks_ms(), began) < wait_ms:
            self.sample()
            time.sleep(0.02)

    def send_readings(self):
        """Sends the oldest readings with their age, which is new each time, and their id, which is not."""
        while self.queue:
            batch = []
            for reading in self.queue[:BATCH]:
                said = {"id": reading["id"], "values": reading["values"]}
                if "time" in reading:
                    said["time"] = reading["time"]
                else:
                    said["age_ms"] = ticks_diff(ticks_ms(), reading["ticks"])
                batch.append(said)
            self.publish("telemetry", batch)
            self.queue[: len(batch)] = []

    def reboot(self):
        """Saves the readings that wait: their ticks mean nothing after it, so they get the server's time."""
        for reading in self.queue:
            reading["time"] = reading.get("time") or reading["ticks"] + self.offset
        self.save(queue=self.queue)
        self.mqtt.disconnect()
        raise Reboot

    # --- desired state ---------------------------------------------------------------------------------------------

    def follow(self, version, desired):
        """Adopts a newer desired document, and says what it did with it."""
        if version <= self.state["desired_version"]:
            return
        before = self.interval_ms()
        self.save(desired=desired, desired_version=version)
        trust = desired.get("fleetcore", {}).get("trust")
        if trust and sha256(trust["ca"].encode()) == trust["sha256"]:
            write("ca.pem", trust["ca"].encode())
        if self.interval_ms() != before:
            self.next_sample = ticks_ms() + self.interval_ms()
        self.report()
        self.publish("twin/ack", {"version": version, "refused": self.refused()})

    def refused(self):
        """The leaves of the desired document that this device does not follow, by pointer."""
        wrong, desired = {}, self.state["desired"]
        for name in desired:
            if name not in ("interval_s", "fleetcore"):
                wrong["/" + name.replace("~", "~0").replace("/", "~1")] = {"code": "unknown"}
        wanted = desired.get("interval_s", 10)
        if not isinstance(wanted, (int, float)) or not 0.05 <= wanted <= 86400:
            wrong["/interval_s"] = {"code": "out_of_range", "reason": "0.05 to 86400"}
        if desired.get("fleetcore", {}).get("renew") is not None:
            wrong["/fleetcore/renew"] = {"code": "unsupported", "reason": "this device makes no keys"}
        return wrong

    def report(self):
        """Reports what is so. It is a merge patch: saying it again changes nothing."""
        firmware = dict(self.state["firmware"])
        firmware["trust"] = trust_of(json.loads(read("trust.json")))["version"]
        said = {"interval_s": self.interval_ms() / 1000, "firmware": firmware}
        trust = self.state["desired"].get("fleetcore", {}).get("trust")
        if trust and read("ca.pem") == trust["ca"].encode():
            said["fleetcore"] = {"trust": {"version": trust["version"], "sha256": trust["sha256"]}}
        self.publish("twin/reported", said)

    # --- commands --------------------------------------------------------------------------------------------------

    def result(self, name):
        """The remembered result of a command, or None."""
        for known, result in self.state["results"]:
            if known == name:
                return result
        return None

    def remember(self, name, result):
        """Saves the result of a command; the oldest ones go."""
        others = [each for each in self.state["results"] if each[0] != name]
        self.save(results=(others + [[name, result]])[-RESULTS:])

    def command(self, body):
        """Runs a command once, however often it comes."""
        name = body["id"]
        if self.result(name) is None:
            try:
                order = self.order(body)
                self.publish("commands/" + name + "/result", {"status": "accepted"})
                # Saved before it runs: a loss of power in the middle makes this the answer, not a second run.
                self.state["sequences"][order["lane"]] = order["sequence"]
                self.remember(name, {"status": "failed", "code": "interrupted"})
                self.remember(name, self.perform(order))
            except Refusal as refusal:
                self.remember(name, {"status": "rejected", "code": refusal.args[0]})
        self.publish("commands/" + name + "/result", self.result(name))

    def order(self, body):
        """What is signed, for only that counts: a command for this device, new, and not too late."""
        order, _ = opened(body.get("signed"), "command", self.command_keys)
        if (order["device"], order["id"]) != (self.name, body["id"]):
            raise Refusal("not_your_device")
        if order["sequence"] <= self.state["sequences"].get(order["lane"], 0):
            raise Refusal("not_authorised")  # a replay
        if ms(order["expires_at"]) <= self.now_ms():
            raise Refusal("command_expired")
        return order

    def perform(self, order):
        """The commands of this device."""
        print("command", order["name"])
        if order["name"] != "identify":
            raise Refusal("unknown_command")
        return {"status": "succeeded", "output": {"blinked": order["args"].get("times", 1)}}

    # --- firmware --------------------------------------------------------------------------------------------------

    def status(self, offer, state, **more):
        """Reports progress."""
        more.update({"execution": offer["execution"], "campaign": offer["campaign"], "state": state})
        print("firmware", state, more.get("code", ""))
        self.publish("firmware/status", more)

    def offered(self, body):
        """Handles an offer to its end; one that comes again goes on where the last one stopped."""
        offer, running = body["offer"], self.state["firmware"]
        if offer is None:
            if "cancel" in body:
                self.publish("firmware/status", {"execution": body["cancel"], "state": "cancelled"})
            return
        try:
            manifest = self.admitted(offer)
            if manifest["sha256"] == running["sha256"]:
                self.status(offer, "succeeded", version=running["version"])
                return
            self.status(offer, "accepted")
            self.status(offer, "downloading")
            self.download(offer["path"], manifest["size"], manifest["sha256"])
        except Refusal as refusal:
            self.status(offer, "rejected", code=refusal.args[0])
            return
        self.status(offer, "downloaded")
        if offer["install"] == "wait":
            return  # it is offered again when it may be installed
        self.status(offer, "installing")
        # A board writes the image to its other partition and marks that for a trial here (on an ESP32 esp32.Partition);
        # its boot loader goes back if that does not come up.
        os.rename("image.part", "image")
        firmware = {name: manifest[name] for name in ("version", "seq", "sha256")}
        firmware["highest_seq"] = manifest["seq"]
        self.save(firmware=firmware)
        self.status(offer, "rebooting")
        self.reboot()

    def admitted(self, offer):
        """The manifest of an offer: the maker signed that it is genuine, the fleet that it is for this device now."""
        trust, running = trust_of(json.loads(read("trust.json"))), self.state["firmware"]
        for envelope in offer.get("trust", ()):
            before, trust = trust, trust_of(envelope, trust)
            if trust is not before:
                write("trust.json", json.dumps(envelope).encode())
        role = trust.get("models", {}).get(self.factory["model"]) or trust["firmware"]
        manifest, payload = opened(offer.get("manifest"), "firmware", *keys_of(trust, role))
        given, _ = opened(offer.get("assignment"), "assignment", self.command_keys)
        known = ("format", "name", "version", "seq", "min_seq", "models", "size", "sha256", "created", "expires")
        known += ("component", "requires", "chunks", "sbom")
        required = manifest.get("requires", {})
        same = manifest["seq"] == running["seq"] and manifest["sha256"] != running["sha256"]
        ids = [given[name] for name in ("device", "execution", "campaign", "manifest_sha256", "seq")]
        for code, refused in (
            ("trust_expired", ms(trust["expires"]) <= self.now_ms()),
            # Not known members: they may forbid what the device is about to do.
            ("schema_invalid", [name for name in manifest if name not in known]),
            ("schema_invalid", manifest["format"] != "fleetcore.firmware/1"),
            ("model_mismatch", self.factory["model"] not in manifest["models"]),
            ("model_mismatch", manifest.get("component", "main") != "main"),
            ("manifest_expired", ms(manifest["expires"]) <= self.now_ms()),
            ("rollback_refused", manifest["seq"] < running["highest_seq"] or same),
            ("requires_unmet", required.get("seq", 0) > running["seq"] or "components" in required),
            (
                "signature_invalid",
                ids != [self.name, offer["execution"], offer["campaign"], sha256(payload), manifest["seq"]],
            ),
            ("too_late", ms(given["not_after"]) <= self.now_ms()),
        ):
            if refused:
                raise Refusal(code)
        return manifest

    def download(self, path, size, expected):
        """Loads what is missing of the image into ``image.part``, and verifies the whole."""
        if self.state["loading"] != expected:
            remove("image.part")
            self.save(loading=expected)
        start = os.stat("image.part")[6] if exists("image.part") else 0
        if start < size:
            head = f"GET {path} HTTP/1.1\r\nRange: bytes={start}-"
            stream, status, length = self.https("device.pem", head)
            if status != 206 or length != size - start:
                raise OSError(errno.EIO)  # it is offered again
            try:
                with open("image.part", "ab") as file:
                    while length:
                        length -= file.write(stream.read(min(4096, length)))
                        self.sample()
                        self.mqtt.wait(0)
            finally:
                stream.close()
        digest = hashlib.sha256()
        with open("image.part", "rb") as file:
            while True:
                piece = file.read(4096)
                if not piece:
                    break
                digest.update(piece)
        if binascii.hexlify(digest.digest()).decode() != expected:
            remove("image.part")
            if start:
                raise OSError(errno.EIO)  # what was there is damaged: the next try begins anew
            raise Refusal("hash_mismatch")


def main():
    """Starts the device, again after each reboot."""
    os.chdir(sys.argv[1])
    while True:
        try:
            Device().run()
        except Reboot:
            print("reboot")


if __name__ == "__main__":
    main()

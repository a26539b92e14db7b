"""A device over each protocol, by a program that was not written here: one process for each thing that it does.

mosquitto_pub, mosquitto_rr and mosquitto_sub for MQTT, curl for HTTP, libcoap's coap-client for CoAP, aiocoap's
client under OSCORE, npm's ws.
"""

import asyncio
import hashlib
import json
import os
import re
import sys
from abc import ABC, abstractmethod
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import cbor2
from attrs import define, frozen

from fleetcore.model.message import Direction
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages

HERE = Path(__file__).parent
BUILD = Path(__file__).parents[2] / "build"
#: How long a program waits for what it is to be told.
_TOLD_S = 60
#: RFC 9290: our own members of a concise problem.
_OWN = -60_000
_COAP_CODES = {"2.01": 201, "2.03": 304, "2.04": 204, "2.05": 200}


@frozen
class Heard:
    """What a device heard: the code of a refusal, or empty; the body of an answer; the version of a section."""

    code: str = ""
    body: object = None


@define
class Identity:
    """The files of a device, and a device token."""

    device: str
    certificate: Path
    key: Path
    ca: Path
    token: str

    def shared_key(self):
        """The token's id and key, made of it as a shell would."""
        digest = hashlib.sha256(self.token.removeprefix(f"fc_dev_{self.device}_").encode()).hexdigest()
        return f"{self.device}:{digest[:16]}", digest[32:]


class Peer(ABC):
    """One device.

    Attributes:
        used: the message types that it has sent, asked or been told.
    """

    programs: tuple[str, ...]

    def __init__(self, protocol: str, endpoint: str, identity: Identity) -> None:
        self.protocol = protocol
        self.url, self.identity = urlsplit(endpoint), identity
        self.used: set[messages.MessageType] = set()
        self._number = count(1)

    async def say(self, row, body=None, *, leaf=None, target=None, id=None, reported=None) -> Heard:
        """Sends a message, or asks a question; ``reported`` is the version that a report expects."""
        heard = await self._say(row, body, leaf=leaf, target=target, id=id, reported=reported)
        if not heard.code:
            self.used.add(row)
        return heard

    async def told(self, row) -> object:
        """What the server tells a device that comes and listens, or None."""
        body = await self._told(row)
        if body is not None:
            self.used.add(row)
        return body

    async def told_while(self, row, listening, doing) -> object:
        """What it is told while it listens, of what is done meanwhile."""
        hearing = asyncio.ensure_future(self.told(row))
        await listening()
        await doing
        return await hearing

    @abstractmethod
    async def _say(self, row, body, *, leaf, target, id, reported) -> Heard: ...

    @abstractmethod
    async def _told(self, row) -> object: ...


async def ran(*command, environment=None) -> tuple[int, bytes, str]:
    """Status, output and complaints of a program."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment
    )
    async with asyncio.timeout(PATIENCE_S):
        out, complaints = await process.communicate()
    return process.returncode, out, complaints.decode("utf-8", "replace")


def payload(body) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


class Mosquitto(Peer):
    """MQTT 5."""

    programs = ("mosquitto_pub", "mosquitto_rr", "mosquitto_sub")

    def _options(self, *topic: str) -> list[object]:
        own = self.identity
        secrets = ["--cafile", own.ca, "--cert", own.certificate, "--key", own.key, "-i", own.device]
        return ["-h", self.url.hostname, "-p", self.url.port, *secrets, "-V", "mqttv5", "-q", 1, *topic]

    def _topic(self, name: str, leaf: str | None = None) -> str:
        below = "" if leaf is None else f"leaf/{leaf}/"
        return f"fleet/v1/{self.identity.device}/{below}{name}"

    async def _say(self, row, body, *, leaf, target, id, reported):
        if row.direction is Direction.CALL or reported is not None:
            return await self._ask(row, body, leaf, reported)
        topic = self._topic(row.mqtt[0].replace("{target}", target or "").replace("+", target or ""), leaf)
        named = [] if id is None else ["-D", "publish", "user-property", "id", id]
        _, _, complaints = await ran("mosquitto_pub", *self._options("-t", topic), *named, "-m", payload(body).decode())
        if "failed" not in complaints:
            return Heard()
        topics = self._options("-t", topic, "-e", self._topic("errors"))
        _, out, complaints = await ran("mosquitto_rr", *topics, "-W", _TOLD_S, "-m", payload(body).decode())
        assert out, complaints
        told = json.loads(out)
        self.used.add(messages.ERRORS)
        return Heard(told["code"], told)

    async def _ask(self, row, body, leaf, reported):
        number = f"r{next(self._number)}"
        asked = {"op": row.name, "body": {} if body is None else body}
        asked |= {} if reported is None else {"if_version": reported}
        asked |= {} if leaf is None else {"device": leaf}
        topics = self._options("-t", self._topic(f"request/{number}"), "-e", self._topic(f"reply/{number}"))
        _, out, complaints = await ran("mosquitto_rr", *topics, "-W", _TOLD_S, "-m", payload(asked).decode())
        assert out, complaints
        reply = json.loads(out)
        return Heard(body=reply.get("body")) if reply["ok"] else Heard(reply["error"]["code"], reply["error"])

    async def _told(self, row):
        topic = self._topic(row.mqtt_down.replace("{target}", "+"))
        _, out, _ = await ran("mosquitto_sub", *self._options("-t", topic), "-C", 1, "-W", _TOLD_S)
        body = json.loads(out) if out else None
        return {"commands": [body]} if body is not None and row is messages.COMMAND else body


class Curl(Peer):
    """HTTP/1.1."""

    programs = ("curl",)

    async def _say(self, row, body, *, leaf, target, id, reported):
        query = f"?client={body['client']}" if row is messages.TIME else ""
        headers = [] if id is None else ["-H", f"Idempotency-Key: {id}"]
        headers += [] if reported is None else ["-H", f'If-Match: "d1.r{reported}"']
        if "GET" not in row.methods:
            kind = row.media_types[0] if row.media_types else "application/json"
            headers += ["-X", row.methods[0], "-H", f"Content-Type: {kind}", "--data-binary", payload(body).decode()]
        status, out = await self._curl(row.path.replace("{target}", target or "") + query, leaf, headers)
        return _heard(status, out)

    async def _curl(self, path, leaf, options):
        own = self.identity
        secrets = ["--cacert", own.ca, "--cert", own.certificate, "--key", own.key]
        below = "" if leaf is None else f"leaf/{leaf}/"
        url = f"https://{self.url.netloc}/device/v1/{below}{path}"
        _, out, complaints = await ran("curl", "-sS", *secrets, *options, "-w", "\n%{http_code}", url)
        out, _, status = out.rpartition(b"\n")
        assert status, complaints
        return int(status), out

    async def _told(self, row):
        status, out = await self._curl(row.path, None, [])
        return json.loads(out) if status == 200 else None


def _heard(status: int, out: bytes) -> Heard:
    if status >= 400:
        problem = json.loads(out)
        return Heard(problem["code"], problem)
    try:
        return Heard(body=json.loads(out) if out else None)
    except ValueError:
        return Heard(body=out)


class Coap(Peer):
    """CoAP, whatever protects it."""

    async def _say(self, row, body, *, leaf, target, id, reported):
        method = row.coap_method.partition(",")[0].partition(" ")[0].lower()
        queries = [f"client={body['client']}"] if row is messages.TIME else []
        queries += [] if id is None else [f"id={id}"]
        path = row.path.replace("{target}", target or "") + ("?" + "&".join(queries) if queries else "")
        given = {} if reported is None else {"if_match": f"{1:08x}{reported:08x}"}
        if method != "get":
            given |= {"form": "50" if row is not messages.TWIN_REPORT else "52", "payload": payload(body).decode()}
        return await self._heard(method, path, leaf, **given)

    async def _heard(self, method, path, leaf, **given):
        below = "" if leaf is None else f"leaf/{leaf}/"
        success, body = await self._ask(method, f"//{self.url.netloc}/device/v1/{below}{path}", **given)
        if not success:
            problem = cbor2.loads(body)
            own_members = next(value for key, value in problem.items() if isinstance(value, dict) and "code" in value)
            return Heard(own_members["code"], own_members)
        try:
            return Heard(body=json.loads(body) if body else None)
        except ValueError:
            return Heard(body=body)

    async def _told(self, row):
        return (await self._heard("get", row.path, None, accept="50")).body

    @abstractmethod
    async def _ask(self, method, url, *, if_match=None, form=None, payload=None, accept=None) -> tuple[bool, bytes]:
        """One request: whether it succeeded, and the body of its answer."""


class CoapClient(Coap):
    """CoAP over DTLS."""

    programs = ("coap-client-openssl",)

    async def _ask(self, method, url, *, if_match=None, form=None, payload=None, accept=None):
        options = ["-m", method]
        for flag, value in (("-t", form), ("-e", payload), ("-A", accept)):
            options += [] if value is None else [flag, value]
        options += [] if if_match is None else ["-O", f"1,0x{if_match}"]
        with TemporaryDirectory() as folder:
            file = Path(folder) / "out"
            told = ("-v", 7, "-B", _TOLD_S, "-o", file)
            command = ["coap-client-openssl", *told, *self._shown(), *options, f"coaps:{url}"]
            _, out, _ = await ran(*command)
            body = file.read_bytes() if file.exists() else b""
        text = out.decode("utf-8", "replace")
        codes = [
            line.partition(" c:")[2][:4] for line in text.splitlines() if line.startswith("v:1 ") and " c:" in line
        ]
        answers = [code for code in codes if code[0] in "245"]
        assert answers, text
        if answers[-1][0] == "2":
            return True, body
        # It shows the body of an error, and writes none into the file.
        return False, bytes.fromhex(re.findall(r"<<([0-9a-f]+)>>", text)[-1])

    def _shown(self):
        own = self.identity
        return ["-R", own.ca, "-c", own.certificate, "-j", own.key]


class CoapKeyClient(CoapClient):
    """CoAP over DTLS with the key of a device token."""

    def _shown(self):
        name, key = self.identity.shared_key()
        return ["-u", name, "-k", key]


class OscoreClient(Coap):
    """CoAP under OSCORE: aiocoap's client, whose context lies in a folder from one process to the next."""

    programs = ()

    async def _ask(self, method, url, *, if_match=None, form=None, payload=None, accept=None):
        given = {"method": method, "url": f"coap:{url}", "context": str(self._context())}
        given |= {"if_match": if_match, "form": form, "payload": payload, "accept": accept}
        status, out, complaints = await ran(sys.executable, HERE / "once_oscore.py", json.dumps(given))
        assert status == 0, complaints
        answer = json.loads(out)
        return answer["code"].startswith("2."), bytes.fromhex(answer["payload"])

    def _context(self):
        """As a device's maker would write it."""
        folder = self.identity.certificate.parent / "oscore"
        if not folder.exists():
            folder.mkdir()
            name, key = self.identity.shared_key()
            settings = {"sender-id_hex": "", "recipient-id_hex": "01", "id-context_ascii": name, "secret_ascii": key}
            (folder / "settings.json").write_text(json.dumps(settings))
        return folder


#: The environment in which node finds ws.
NODE = {**os.environ, "NODE_PATH": os.pathsep.join([str(BUILD / "node_modules"), os.environ.get("NODE_PATH", "")])}


class Ws(Peer):
    """WebSocket, JSON."""

    programs = ("node",)

    async def _say(self, row, body, *, leaf, target, id, reported):
        frame = {"op": row.name, "id": 1}
        given = {"device": leaf, "target": target, "message_id": id, "if_version": reported}
        frame |= {name: value for name, value in given.items() if value is not None}
        text = json.dumps(frame)
        if body is not None:
            text = text[:-1] + ', "body": ' + payload(body).decode() + "}"
        frames = await self._ws({"send": text, "until": {"re": 1}})
        (reply,) = [each for each in frames if each.get("re") == 1]
        return Heard(body=reply.get("body")) if reply["ok"] else Heard(reply["error"]["code"], reply["error"])

    async def _ws(self, given):
        own = self.identity
        given |= {"url": self.url.geturl(), "ca": str(own.ca), "cert": str(own.certificate), "key": str(own.key)}
        status, out, complaints = await ran("node", HERE / "once.js", json.dumps(given), environment=NODE)
        assert status == 0, complaints or out
        return [json.loads(line) for line in out.splitlines()]

    async def _told(self, row):
        frames = await self._ws({"until": {"op": row.name}})
        body = next(each["body"] for each in frames if each.get("op") == row.name)
        return {"commands": [body]} if row is messages.COMMAND else body


PEERS = {
    "mqtt": Mosquitto,
    "http": Curl,
    "coap": CoapClient,
    "coap by key": CoapKeyClient,
    "oscore": OscoreClient,
    "websocket": Ws,
}

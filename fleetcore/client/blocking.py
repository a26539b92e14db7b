"""The blocking client. ``scripts/client.py`` writes this file: change aio.py."""

import base64
import ssl
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy as np

from fleetcore.client import wire
from fleetcore.client.wire import given, match, path
from fleetcore.errors import NotFound, Refused
from fleetcore.frontends import catalogue
from fleetcore.frontends.generated.calls_blocking import BlockingCalls
from fleetcore.frontends.registration import registration
from fleetcore.frontends.requests import answer, request
from fleetcore.model.device import ROW_MEMBERS
from fleetcore.model.telemetry import Series, SeriesData, SeriesKind, TextReading
from fleetcore.views import TelemetryView, View
from fleetcore.wire.pieces import pieces, size_of
from fleetcore.wire.times import format_time, parse_time

T = TypeVar("T")
#: Checkpoints that a request takes.
_CHECKPOINTS = 250


class FleetClient(BlockingCalls):
    """A remote fleet, with the calls of :class:`IoTFleetManager`.

    Args:
        url: where the operators' API listens, ``https://HOST:PORT``.
        token: a token of ``fleetcore token create``.
        ca: the fleet's CA (``pki/ca.pem`` of its data folder); None believes the system's.

    Each read sees what this client wrote before. A read, and a POST with the key that it is given here, is tried again
    where the server is away or busy. The same errors are raised as by the library, and Unavailable where nothing
    answers. What stays in the server's own shell (backup, plugins, fleet.toml) is not here.
    """

    def __init__(self, url: str, token: str, *, ca: str | Path | None = None) -> None:
        self._url = wire.base_of(url)
        self._position: str | None = None
        verify: ssl.SSLContext | bool = wire.trust(ca) if self._url.startswith("https") else True
        self._http = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=wire.TIMEOUT_S,
            verify=verify,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; idempotent."""
        self._http.close()

    # --- requests -----------------------------------------------------------------------------------------------

    def _answer(
        self,
        method: str,
        at: str,
        *,
        body: object = None,
        content: bytes | Iterator[bytes] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = wire.TIMEOUT_S,
    ) -> httpx.Response:
        sent = dict(headers or {})
        if method == "POST" and content is None:
            sent.setdefault("Idempotency-Key", wire.fresh_key())
        if self._position is not None and (method == "GET" or at == "/queries"):
            sent["Fleetcore-Position"] = self._position
        if content is not None:
            sent["Content-Type"] = "application/octet-stream"
        for attempt in range(1, wire.ATTEMPTS + 1):
            try:
                answer = self._http.request(
                    method,
                    at,
                    json=body,
                    content=content,
                    params=params,
                    headers=sent,
                    timeout=timeout_s,
                )
            except httpx.TransportError as error:
                again = method in ("GET", "POST") and (content is None or isinstance(content, bytes))
                if attempt == wire.ATTEMPTS or not again or isinstance(error, httpx.ConnectError):
                    raise wire.unreachable(self._url, error) from error
                wait_s = 0.2 * 2**attempt
            else:
                if answer.is_success:
                    self._position = answer.headers.get(wire.POSITION, self._position)
                    return answer
                again_s = wire.again_after(answer.status_code, answer.headers, attempt)
                if again_s is None or not (content is None or isinstance(content, bytes)):
                    raise wire.refusal(answer.status_code, answer.content)
                wait_s = again_s
            clock.sleep(wait_s)
        raise AssertionError

    def call(self, name: str, /, **given: Any) -> Any:
        """A call by its name, as plain data; raises Refused where the server has none."""
        return self._value(name, given, Any)

    def _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:
        call = catalogue.core().get(name)
        if call is None:
            raise Refused(f"There is no call {name!r}", code="operation_unknown")
        sent, wait_s, begun_s = request(call, given), float(given.get("wait_s") or 0.0), wire.now_s()
        answered = self._answer(
            sent.method, sent.path, body=sent.body, params=sent.query, headers=sent.headers,
            timeout_s=wire.TIMEOUT_S + min(wait_s, wire.WAIT_S),
        )  # fmt: skip
        found: Any = answer(answered.content, kind)
        # The server waits shorter than it was asked to: the rest of the time it is asked again.
        while (left_s := wait_s - (wire.now_s() - begun_s)) > 0 and found["finished_at"] is None:
            clock.sleep(min(1.0, left_s))
            found = self._value("get_command", {"command": found["id"]}, kind)
        waited: T = found
        return waited

    def _get(self, at: str, /, **params: Any) -> Any:
        return (self._answer("GET", at, params=given(**params))).json()

    def _post(self, at: str, body: object = None, /, **params: Any) -> Any:
        return (self._answer("POST", at, body={} if body is None else body, params=given(**params))).json()

    def _patch(self, at: str, body: object, version: int | None = None, **params: Any) -> Any:
        answer = self._answer("PATCH", at, body=body, params=given(**params), headers=match(version))
        return answer.json()

    def _delete(self, at: str, reason: str, **params: Any) -> httpx.Response:
        return self._answer("DELETE", at, params=params | ({"reason": reason} if reason else {}))

    def _all(self, at: str, most: int | None = None, page: int = wire.PAGE, **params: Any) -> list[View]:
        """Items of all pages, or the first ``most``."""
        found: list[View] = []
        cursor: str | None = None
        while most is None or len(found) < most:
            limit = page if most is None else min(page, most - len(found))
            answer = self._get(at, **params, limit=limit, cursor=cursor)
            found += [View(one) for one in answer["items"]]
            cursor = answer["next"]
            if cursor is None:
                break
        return found

    # --- devices ------------------------------------------------------------------------------------------------

    def register_device(
        self, device_id: str, device_type: str, properties: Mapping[str, Any] | None = None, *, reason: str = ""
    ) -> str:
        """Registers a device and returns its id: ``create_device`` with free members."""
        members = registration(properties)
        return (self.create_device(device_id, device_type, **members, reason=reason)).id

    def count_devices(self, where: str | None = None) -> int:
        """How many devices there are, or how many a query selects."""
        answer = self._post("/queries", {"where": where or "exists id", "count": True})
        return int(answer["count"])

    def explain_query(self, device_id: str, where: str) -> View:
        """Whether a query selects a device, which clause decided, and what it saw."""
        answer = self._post("/queries", {"where": where, "explain": device_id})
        return View(device=device_id, selected=answer["selected"], why=answer["why"])

    def import_devices(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        dry_run: bool = False,
        reason: str = "",
        operation: str | None = None,
        more: bool = False,
    ) -> View:
        """Registers many devices, at most 10,000 at once; gives the operation. The same rows again change nothing.

        A larger file comes in parts: all but the last with ``more``, all but the first with the ``id`` of the first
        answer as ``operation``.
        """
        body: dict[str, Any] = {"rows": list(rows), "reason": reason}
        if operation is not None:
            body["operation"] = operation
        if more:
            body["more"] = True
        answer = self._post("/imports", body, dry_run=dry_run or None)
        if dry_run:
            return View({"total": answer.pop("count"), **answer})
        return View(answer)

    def export_devices(self, *, after: str | None = None, limit: int = 1000) -> View:
        """Devices as rows that can be imported: ``items``, and ``next`` to go on after, None at the end."""
        answer = self._get("/devices", limit=limit, cursor=after)
        return View(items=[wire.row(one, ROW_MEMBERS) for one in answer["items"]], next=answer["next"])

    # --- operations ---------------------------------------------------------------------------------------------

    def get_operation(self, operation: str) -> View:
        """How far long work is, and what failed."""
        return View(self._get(path("operations", operation)))

    def list_operations(self, kind: str | None = None) -> list[View]:
        """All long work, the newest first."""
        found = self._all("/operations")
        return [one for one in reversed(found) if kind in (None, one["kind"])]

    def cancel_operation(self, operation: str, *, reason: str = "") -> View:
        """Stops long work before its next item; a bulk command's queued commands are cancelled too."""
        return View(self._post(path("operations", operation, "cancel"), {"reason": reason}))

    def run_operation(self, operation: str) -> View:
        """Waits until long work has ended."""
        while True:
            current = self.get_operation(operation)
            if current["state"] != "running":
                return current
            clock.sleep(wire.LOOK_S)

    # --- events -----------------------------------------------------------------------------------------------------

    def watch(self, after: int | None = None) -> Iterator[View]:
        """Every event as it is committed, beginning after a position of the feed, None for now; for ever.

        Connects again where the stream breaks. Raises NotFound where the feed after that position is not kept any more.
        """
        events = wire.Events()
        events.last = None if after is None else str(after)
        while True:
            try:
                headers = {} if events.last is None else {"Last-Event-ID": events.last}
                with self._http.stream("GET", "/events", headers=headers, timeout=60.0) as answer:
                    if not answer.is_success:
                        raise wire.refusal(answer.status_code, answer.read())
                    for line in answer.iter_lines():
                        event = events.take(line)
                        if event is not None and "type" not in event:
                            raise NotFound("The feed after that position is not kept any more", **event)
                        if event is not None:
                            yield event
            except httpx.ConnectError as error:
                raise wire.unreachable(self._url, error) from error
            except httpx.TransportError:
                clock.sleep(1.0)

    # --- certificates -----------------------------------------------------------------------------------------

    def check_certificate(self, pem: str) -> View:
        """What a certificate (PEM) is worth here and now: ``valid``, and ``refusal`` says why not."""
        return View(given(**self._post("/certificate-checks", {"pem": pem})))

    def get_crl(self) -> View:
        """The revocation lists of every issuing CA that has living certificates: ``crl``, PEM, one after the other."""
        return View(self._get("/revocation-lists"))

    def list_cas(self) -> list[View]:
        """The CAs: roots, issuing CAs, former ones, the cross certificate; which signs, and when each is due."""
        return self._all("/cas")

    def forecast_certificates(
        self,
        *,
        per: str = "week",
        periods: int = 12,
        by: str | None = None,
        where: str | None = None,
        next: int = 10,
    ) -> View:
        """How many certificates end in each of the next weeks or months, by ``type`` or ``group``; the late renewers.

        Beside the devices' it tells when the CAs and the server's own certificates end.
        """
        asked = {"per": per, "periods": periods, "by": by, "where": where, "next": next}
        return View(self._get("/certificate-forecast", **asked))

    def ca_incident(self, ca: str) -> View:
        """Which devices hang on an issuing CA (by its id) whose key is lost; ``alone`` have no other certificate."""
        return View(self._get(path("cas", ca, "incident")))

    def distrust_ca(self, ca: str, *, force: bool = False, reason: str = "") -> View:
        """Ends trust in an issuing CA whose key is lost; with ``force`` though devices have no other certificate."""
        return View(self._post(path("cas", ca, "distrust"), {"force": force, "reason": reason}))

    def ca_rotation(self) -> View:
        """How far a rotation is: its phase, how many devices trust the new root, and whom ``retire`` would lock out."""
        return View(self._get("/ca-rotation"))

    def rotate_ca(self, step: str, *, threshold: float = 1.0, force: bool = False, reason: str = "") -> View:
        """Takes a step from one root to the next: ``begin``, ``issue``, ``retire``, or ``back``.

        A root's key that is kept offline is lent on the server's own machine.
        """
        body = {"threshold": threshold, "force": force, "reason": reason}
        return View(self._post(path("ca-rotation", step), body))

    def renew_issuing_ca(self, *, reason: str = "") -> View:
        """Makes a new issuing CA below the same root, which signs from now on; the one before stays trusted."""
        return View(self._post("/cas", {"reason": reason}))

    def plan_renewals(
        self,
        *,
        where: str | None = None,
        devices: Sequence[str] = (),
        outdated: bool = False,
        waves: Sequence[str] = ("1", "10%"),
        cap: int = 1000,
    ) -> View:
        """Whom :meth:`renew_certificates` would ask: ``plan``, count, a sample, the waves, the cap."""
        body = {"devices": list(devices), "outdated": outdated, "waves": list(waves), "cap": cap, **given(where=where)}
        return View(self._post("/renewals", body, dry_run=True))

    def renew_certificates(
        self,
        *,
        where: str | None = None,
        devices: Sequence[str] = (),
        outdated: bool = False,
        waves: Sequence[str] = ("1", "10%"),
        cap: int = 1000,
        rate_per_s: float | None = None,
        timeout_s: float = 86_400.0,
        most_failed: float = 0.05,
        plan: str | None = None,
        reason: str = "",
    ) -> View:
        """Asks devices for new certificates, in waves, in the background; gives the operation.

        ``outdated``: those without a certificate of the CA that signs now. It stops where more than the share
        ``most_failed`` has failed. With ``plan`` it asks exactly whom :meth:`plan_renewals` said.
        """
        if plan is None:
            made = self.plan_renewals(where=where, devices=devices, outdated=outdated, waves=waves, cap=cap)
            plan = made["plan"]
        body = {"devices": list(devices), "outdated": outdated, "waves": list(waves), "cap": cap, "plan": plan}
        more = {"timeout_s": timeout_s, "most_failed": most_failed, "reason": reason}
        return View(self._post("/renewals", {**body, **more, **given(where=where, rate_per_s=rate_per_s)}))

    def reissue_certificate(self, device_id: str, *, timeout_s: float = 86_400.0, reason: str = "") -> View:
        """Asks one device for a new certificate; the operation it gives follows whether it comes with it."""
        return View(self._post(path("devices", device_id, "renew"), {"timeout_s": timeout_s, "reason": reason}))

    # --- telemetry ----------------------------------------------------------------------------------------------

    def collect_telemetry(
        self,
        device_id: str,
        metric: str,
        value: float | bool | str,
        unit: str | None = None,
        *,
        time: int | str | None = None,
        id: str | None = None,
    ) -> View:
        """Puts one reading in, through the whole data path; it is committed when this returns."""
        body = {"metric": metric, "value": value, **given(unit=unit, time=time, id=id)}
        return View(self._post(path("devices", device_id, "telemetry"), body))

    def query_telemetry(
        self, device_id: str, metric: str, *, start: int | str | None = None, end: int | str | None = None
    ) -> TelemetryView:
        """The points of a series with ``start <= time < end``, as columns, numbers and text alike."""
        unit: str | None = None
        points: list[tuple[str, Any]] = []
        since = None if start is None else format_time(parse_time(start))
        until = None if end is None else format_time(parse_time(end))
        found = False
        more = True
        while more:
            page = self._get("/telemetry", device=device_id, metric=metric, start=since, end=until, points=wire.POINTS)
            more = False
            for series in page["items"]:
                found, unit = True, series["unit"]
                points += series["points"]
                if series["more"] is not None:
                    more, since = True, series["more"]
        if not found:
            self.get_device(device_id)
            raise NotFound(f"Device {device_id!r} has no series {metric!r}", device=device_id)
        texts = [TextReading(0, parse_time(one), 0, value) for one, value in points if isinstance(value, str)]
        points = [(one, value) for one, value in points if not isinstance(value, str)]
        data = SeriesData(
            series=Series(index=0, device=device_id, metric=metric, unit=unit, kind=SeriesKind.NUMBER),
            time=np.array([parse_time(one) for one, _ in points], np.int64),
            value=np.array([value for _, value in points], np.float64),
            quality=np.zeros(len(points), np.uint8),
        )
        return TelemetryView(data, texts)

    def latest_telemetry(self, device_id: str) -> list[View]:
        """The newest reading of each metric, by event time."""
        return [View(one) for one in (self._get(path("devices", device_id, "telemetry")))["items"]]

    def aggregate_telemetry(self, device_id: str, metric: str, bucket_s: float) -> list[View]:
        """min, max, mean, sum, count, first and last per bucket; empty buckets are left out."""
        found = (self._get("/telemetry/buckets", device=device_id, metric=metric, bucket_s=bucket_s))["items"]
        if not found:
            self.get_device(device_id)
            raise NotFound(f"Device {device_id!r} has no series {metric!r}", device=device_id)
        return [View(bucket) for series in found for bucket in series["buckets"]]

    def list_series(self, device_id: str | None = None) -> list[View]:
        """Which series there are."""
        return self._all("/telemetry/series", page=100, device=device_id)

    def telemetry_tally(self) -> View:
        """Where readings went since the start: sent = stored + duplicates + conflicts + refused."""
        return View((self.get_status())["readings"])

    def list_anomalies(self, device_id: str | None = None, *, limit: int | None = None) -> list[View]:
        """What detectors found, oldest first; the newest ``limit``."""
        found = self._all("/anomalies", device=device_id)
        return found if limit is None else found[-limit:]

    def settle(self) -> None:
        """Returns once groups, layers, detectors and the audit log have seen what this client wrote."""
        self._get("/devices", limit=1)

    def list_dead_letters(self) -> list[View]:
        """Refused messages that are kept, oldest first."""
        return self._all("/quarantine")

    def get_dead_letter(self, number: int) -> View:
        """One refused message, with its payload as ``text`` where it is text; raises NotFound."""
        found = self._get(path("quarantine", number))
        return View({**found, "text": base64.b64decode(found["payload"]).decode("utf-8", "replace")})

    def replay_dead_letter(self, number: int, *, reason: str = "") -> View:
        """Puts a refused message through the data path again; one that is refused again is a new dead letter."""
        return View(self._post(path("quarantine", number, "replay"), {"reason": reason}))

    def discard_dead_letter(self, number: int, *, reason: str = "") -> View:
        """Removes a refused message for good."""
        self._delete(path("quarantine", number), reason)
        return View(number=number, discarded=True)

    # --- twins and commands -------------------------------------------------------------------------------------

    # --- firmware, edge, health ---------------------------------------------------------------------------------

    def update_firmware(
        self,
        campaign: str,
        version: str,
        devices: Sequence[str],
        url: str,
        *,
        sha256: str | None = None,
        size: int | None = None,
        manifest: Mapping[str, Any] | None = None,
        from_release: str | None = None,
        allow_downgrade: bool = False,
        reason: str = "",
    ) -> View:
        """Starts a campaign and returns at once; without a digest it stays a draft until the artifact is pinned."""
        body = {
            "id": campaign, "release": version, "devices": list(devices), "url": url, "reason": reason,
            "allow_downgrade": allow_downgrade,
            **given(sha256=sha256, size=size, manifest=manifest, from_release=from_release),
        }  # fmt: skip
        return View(self._post("/campaigns", body))

    def add_artifact(self, content: bytes | str) -> View:
        """Takes firmware in; ``sha256`` and ``size_bytes`` of the answer pin it. Text is taken as UTF-8."""
        sent = content.encode() if isinstance(content, str) else content
        return View((self._answer("POST", "/firmware/artifacts", content=sent, timeout_s=600.0)).json())

    def upload_artifact(
        self, file: str, *, sha256: str | None = None, step: Callable[[int], None] | None = None
    ) -> View:
        """Sends firmware from a file, piece by piece; with ``sha256`` other content is refused and nothing kept.

        ``step`` is called with the number of bytes after each piece. A connection that breaks is not tried again.
        """
        answer = self._answer(
            "POST",
            "/firmware/artifacts",
            content=pieces(Path(file), step),
            params=given(sha256=sha256, size=size_of(file)),
            timeout_s=600.0,
        )
        return View(answer.json())

    def set_trust(self, envelope: Mapping[str, Any], *, reason: str = "") -> View:
        """Takes the next version of the firmware trust root (``trust.json``); the first one is believed as it is."""
        return View(self._post("/firmware/trust", {"envelope": dict(envelope), "reason": reason}))

    def get_trust(self, number: int | None = None) -> View:
        """The trust root that holds, or one version of it; raises NotFound."""
        return View(self._get(path("firmware", "trust", "current" if number is None else number)))

    def list_trust(self) -> list[View]:
        """Every version of the trust root, the first one first."""
        return self._all("/firmware/trust")

    def add_release(self, manifest: Mapping[str, Any], *, allow_downgrade: bool = False, reason: str = "") -> View:
        """Signs firmware off: verifies its manifest by the trust root, for every model, and keeps it."""
        body = {"manifest": dict(manifest), "allow_downgrade": allow_downgrade, "reason": reason}
        return View(self._post("/firmware/releases", body))

    def get_release(self, release: str) -> View:
        """A release by its id, ``NAME:SEQ``; raises NotFound."""
        return View(self._get(path("firmware", "releases", release)))

    def list_releases(self, name: str | None = None) -> list[View]:
        """Releases by name and seq, without their manifests."""
        return self._all("/firmware/releases", name=name)

    def get_campaign(self, campaign: str) -> View:
        """A campaign with each device's state."""
        found = self._get(path("campaigns", campaign))
        return View({**found, "executions": self._all(path("campaigns", campaign, "executions"))})

    def why_device(self, device_id: str) -> View:
        """Everything that bears on a device, with reasons; ``findings`` says what is not as it should be."""
        return View(self._get(path("devices", device_id, "why")))

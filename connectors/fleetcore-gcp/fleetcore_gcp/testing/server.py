"""The simulated Pub/Sub's gRPC server: the methods that the connector calls, on the SDK's own types.

``side`` gives tests access to the hub, without faults.
"""

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NoReturn

import grpc
from attrs import field, mutable
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import any_pb2, empty_pb2
from google.pubsub_v1 import types
from google.rpc import error_details_pb2, status_pb2

from fleetcore.testing.throwaway_ca import ThrowawayCa
from fleetcore_gcp.testing.faults import Faults, RefusedByPubSub
from fleetcore_gcp.testing.hub import Hub
from fleetcore_gcp.testing.tokens import Endpoint, open_endpoint

#: How long a stream waits before it checks whether it is still needed.
_LOOK_S = 0.05
#: Concurrent calls: those of a connector's threads, and streams.
_THREADS = 72


@mutable
class Front:
    """What answers.

    Attributes:
        calls: how often each method was called, refused calls included.
        endpoint: ``HOST:PORT``.
        tokens: the source of the tokens that calls must have; None without encryption, as an emulator.
    """

    hub: Hub = field(factory=Hub)
    faults: Faults = field(factory=Faults)
    calls: dict[str, int] = field(factory=dict)
    endpoint: str = ""
    tokens: Endpoint | None = None
    _lock: Any = field(factory=threading.Lock)
    _ending: bool = False

    def end(self) -> None:
        """Ends streams."""
        self._ending = True
        with self.hub.news:
            self.hub.news.notify_all()

    # -- calls ------------------------------------------------------------------------------------------------------

    def call(
        self,
        name: str,
        permission: str,
        resource: Callable[[Any], str],
        do: Callable[[Any], Any],
        request: Any,
        context: Any,
    ) -> Any:
        """Answers a call, with the active faults."""
        if self.faults.delay_s:
            time.sleep(self.faults.delay_s)
        with self._lock:
            self.calls[name] = self.calls.get(name, 0) + 1
            try:
                self._admit(context)
                self.faults.enter(name, permission, resource(request))
                for message in request.messages if name == "Publish" else ():
                    if message.ordering_key in self.faults.stuck:
                        raise RefusedByPubSub("UNAVAILABLE", f"The ordering key {message.ordering_key} is stuck")
                answer = do(request)
            except RefusedByPubSub as refused:
                _abort(context, refused)
            lost = self.faults.counted("lost", name)
        if lost:
            _abort(context, RefusedByPubSub("UNAVAILABLE", "Connection reset by peer"))
        return answer

    def _admit(self, context: Any) -> None:
        if self.tokens is not None and not self.tokens.takes(context.invocation_metadata()):
            raise RefusedByPubSub("UNAUTHENTICATED", "Request had invalid authentication credentials")

    def publish(self, request: types.PublishRequest) -> types.PublishResponse:
        """Publishes."""
        return types.PublishResponse(message_ids=self.hub.publish(request.topic, list(request.messages)))

    def acknowledge(self, request: types.AcknowledgeRequest) -> empty_pb2.Empty:
        """Acknowledges, unless a fault drops it."""
        if not self.faults.counted("acks_lost", "Acknowledge"):
            self.hub.acknowledge(request.subscription, list(request.ack_ids))
        return empty_pb2.Empty()

    def modify(self, request: types.ModifyAckDeadlineRequest) -> empty_pb2.Empty:
        """Extends leases, or returns messages."""
        self.hub.modify(request.subscription, list(request.ack_ids), request.ack_deadline_seconds)
        return empty_pb2.Empty()

    def subscriptions_of(self, request: types.ListTopicSubscriptionsRequest) -> types.ListTopicSubscriptionsResponse:
        """Lists the subscriptions of a topic."""
        return types.ListTopicSubscriptionsResponse(subscriptions=self.hub.of_topic(request.topic))

    def tested(self, request: iam_policy_pb2.TestIamPermissionsRequest) -> iam_policy_pb2.TestIamPermissionsResponse:
        """Returns the granted permissions."""
        self.hub.resource(request.resource)
        had = [each for each in request.permissions if self.faults.allows(each, request.resource)]
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=had)

    def policy(self, request: iam_policy_pb2.GetIamPolicyRequest) -> policy_pb2.Policy:
        """Returns an IAM policy."""
        return self.hub.resource(request.resource).policy

    def set_policy(self, request: iam_policy_pb2.SetIamPolicyRequest) -> policy_pb2.Policy:
        """Replaces an IAM policy, if it has not changed meanwhile."""
        resource = self.hub.resource(request.resource)
        if request.policy.etag != resource.policy.etag:
            raise RefusedByPubSub("ABORTED", "There were concurrent policy changes")
        kept = policy_pb2.Policy()
        kept.CopyFrom(request.policy)
        kept.etag = str(len(kept.bindings)).encode()
        resource.policy = kept
        return kept

    # -- streams ----------------------------------------------------------------------------------------------------

    def stream(self, requests: Iterator[Any], context: Any) -> Iterator[types.StreamingPullResponse]:
        """Sends available messages, within the client's limit of outstanding ones."""
        first = next(requests)
        name, cuts = first.subscription, self.faults.cuts
        with self._lock:
            self.calls["StreamingPull"] = self.calls.get("StreamingPull", 0) + 1
            try:
                self._admit(context)
                self.faults.enter("StreamingPull", "pubsub.subscriptions.consume", name)
                self.hub.subscription(name)
            except RefusedByPubSub as refused:
                _abort(context, refused)
        given: set[str] = set()
        while context.is_active() and not self._ending:
            if self.faults.down or self.faults.refused or self.faults.cuts != cuts:
                _abort(context, RefusedByPubSub(self.faults.refused or "UNAVAILABLE", "The stream was cut"))
            with self.hub.news:
                held = {each.lease for each in self.hub.subscription(name).entries if each.lease in given}
                room = (first.max_outstanding_messages or 1000) - len(held)
                found = self.hub.pull(name, room, first.stream_ack_deadline_seconds) if room > 0 else []
                if not found:
                    self.hub.news.wait(_LOOK_S)
            if found:
                given = held | {each.ack_id for each in found}
                yield types.StreamingPullResponse(received_messages=found)
                again = [each for each in found if self.faults.counted("redelivered", "StreamingPull")]
                if again:
                    yield types.StreamingPullResponse(received_messages=again)


def _abort(context: Any, refused: RefusedByPubSub) -> NoReturn:
    code = grpc.StatusCode[refused.status]
    if refused.retry_after_s:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromMilliseconds(round(refused.retry_after_s * 1000))
        detail = any_pb2.Any()
        detail.Pack(info)
        status = status_pb2.Status(code=code.value[0], message=refused.said, details=[detail])
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, refused.said)
    raise AssertionError("abort raises")


def _handlers(front: Front) -> list[Any]:
    hub = front.hub
    publisher: Mapping[str, tuple[str, Any, Any, Any]] = {
        "Publish": ("pubsub.topics.publish", lambda r: r.topic, front.publish, types.PublishRequest),
        "CreateTopic": ("pubsub.topics.create", lambda r: r.name, hub.create_topic, types.Topic),
        "GetTopic": (
            "pubsub.topics.get", lambda r: r.topic, lambda r: hub.topic(r.topic).record, types.GetTopicRequest,
        ),
        "ListTopicSubscriptions": (
            "pubsub.topics.get", lambda r: r.topic, front.subscriptions_of, types.ListTopicSubscriptionsRequest,
        ),
    }  # fmt: skip

    def create(request: types.Subscription) -> types.Subscription:
        if not front.faults.allows("pubsub.topics.attachSubscription", request.topic):
            said = f"User not authorized: pubsub.topics.attachSubscription on {request.topic}"
            raise RefusedByPubSub("PERMISSION_DENIED", said)
        return hub.create_subscription(request)

    consume = "pubsub.subscriptions.consume"
    subscriber: Mapping[str, tuple[str, Any, Any, Any]] = {
        "CreateSubscription": ("pubsub.subscriptions.create", lambda r: r.name, create, types.Subscription),
        "GetSubscription": (
            "pubsub.subscriptions.get",
            lambda r: r.subscription,
            lambda r: hub.subscription(r.subscription).record,
            types.GetSubscriptionRequest,
        ),
        "Acknowledge": (consume, lambda r: r.subscription, front.acknowledge, types.AcknowledgeRequest),
        "ModifyAckDeadline": (consume, lambda r: r.subscription, front.modify, types.ModifyAckDeadlineRequest),
    }

    def serialize(answer: Any) -> Any:
        return answer.SerializeToString() if hasattr(answer, "SerializeToString") else type(answer).serialize(answer)

    def unary(name: str, permission: str, resource: Any, do: Any, of: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: front.call(name, permission, resource, do, request, context),
            request_deserializer=of.deserialize,
            response_serializer=serialize,
        )

    def side(name: str, methods: Mapping[str, tuple[str, Any, Any, Any]]) -> Any:
        return grpc.method_handlers_generic_handler(
            name, {method: unary(method, *given) for method, given in methods.items()}
        )

    def of_kind(verb: str) -> Callable[[Any], str]:
        return lambda request: f"pubsub.{'topics' if '/topics/' in request.resource else 'subscriptions'}.{verb}"

    def iam(name: str, verb: str, do: Any, of: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: front.call(
                name, of_kind(verb)(request) if verb else "", lambda r: r.resource, do, request, context
            ),
            request_deserializer=of.FromString,
            response_serializer=serialize,
        )

    policies = {
        "TestIamPermissions": iam("TestIamPermissions", "", front.tested, iam_policy_pb2.TestIamPermissionsRequest),
        "GetIamPolicy": iam("GetIamPolicy", "getIamPolicy", front.policy, iam_policy_pb2.GetIamPolicyRequest),
        "SetIamPolicy": iam("SetIamPolicy", "setIamPolicy", front.set_policy, iam_policy_pb2.SetIamPolicyRequest),
    }
    streams = grpc.stream_stream_rpc_method_handler(
        front.stream,
        request_deserializer=types.StreamingPullRequest.deserialize,
        response_serializer=serialize,
    )
    return [
        side("google.pubsub.v1.Publisher", publisher),
        side("google.pubsub.v1.Subscriber", subscriber),
        grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", {"StreamingPull": streams}),
        grpc.method_handlers_generic_handler("google.iam.v1.IAMPolicy", policies),
    ]


@asynccontextmanager
async def serving(port: int = 0, *, delay_s: float = 0.0, ca: ThrowawayCa | None = None) -> AsyncIterator[Front]:
    """Listens on the loopback for the block, in threads of its own; with ``ca`` by TLS and for calls with tokens."""
    front = Front(faults=Faults(delay_s=delay_s))
    threads = ThreadPoolExecutor(_THREADS, "pubsub counterpart")
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(threads, handlers=_handlers(front), options=options)
    async with AsyncExitStack() as stack:
        if ca is None:
            bound = server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            front.tokens = await stack.enter_async_context(open_endpoint(front.faults))
            own = ca.server_identity()
            tls = grpc.ssl_server_credentials([(own.key, own.certificate)])
            bound = server.add_secure_port(f"127.0.0.1:{port}", tls)
        front.endpoint = f"127.0.0.1:{bound}"
        server.start()
        try:
            yield front
        finally:
            front.end()
            server.stop(None).wait()
            threads.shutdown()

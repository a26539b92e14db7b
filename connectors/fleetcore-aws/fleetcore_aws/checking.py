"""``mirror check``: tests each permission that can be tested without a change, and lists the others.

A "not found" answer shows that the permission exists: AWS checks permissions first.
"""

import asyncio
from collections.abc import Mapping, Sequence

from attrs import evolve

from fleetcore.interfaces.call_failed import clock_finding, clock_first, for_all
from fleetcore.interfaces.cloud import CloudUse
from fleetcore.interfaces.protocol import Finding
from fleetcore_aws.actions import ACTIONS, SOURCES, needed
from fleetcore_aws.attributes import MARK
from fleetcore_aws.clients import Clients
from fleetcore_aws.config import AwsConfig
from fleetcore_aws.failures import CallFailed
from fleetcore_aws.names import fleet_digest
from fleetcore_aws.policy import arn_of
from fleetcore_aws.shadows import named

#: Whether a device has this id does not matter: nothing of it is changed.
_NO_ONE = "fleetcore-check"
#: No certificate has this fingerprint.
_NO_CERTIFICATE = "0" * 64
#: Tested with an invalid certificate, which AWS refuses after checking the permission.
_INVALID = frozenset({"iot:RegisterCertificateWithoutCA"})


class Checking:
    """See the module."""

    def __init__(self, clients: Clients, config: AwsConfig, fleet: str) -> None:
        self._clients, self._config, self._fleet = clients, config, fleet

    def _trials(self) -> Mapping[str, Mapping[str, object]]:
        """Actions without effect, with their test arguments."""
        thing = f"{self._config.thing_prefix}{_NO_ONE}"
        job = f"{fleet_digest(self._fleet)}-{_NO_ONE}"
        entry = {"Id": "0", "ReceiptHandle": _NO_ONE}
        return {
            "iot:DescribeThing": {"thingName": thing},
            "iot:ListThings": {"attributeName": MARK, "attributeValue": self._fleet, "maxResults": 1},
            "iot:GetThingShadow": {"thingName": thing, **named(self._config.shadow)},
            "iot:ListNamedShadowsForThing": {"thingName": thing},
            "iot:DescribeThingGroup": {"thingGroupName": thing},
            "iot:ListThingGroups": {"maxResults": 1},
            "iot:ListThingGroupsForThing": {"thingName": thing},
            "iot:ListThingsInThingGroup": {"thingGroupName": thing, "maxResults": 1},
            "iot:ListThingPrincipals": {"thingName": thing},
            "iot:DescribeCertificate": {"certificateId": _NO_CERTIFICATE},
            "iot:UpdateCertificate": {"certificateId": _NO_CERTIFICATE, "newStatus": "INACTIVE"},
            "iot:DeleteCertificate": {"certificateId": _NO_CERTIFICATE},
            "iot:RegisterCertificateWithoutCA": {"certificatePem": _NO_ONE, "status": "INACTIVE"},
            **self._of_certificates(thing),
            "iot:DescribeJob": {"jobId": job},
            "iot:GetJobDocument": {"jobId": job},
            "iot:DescribeJobExecution": {"jobId": job, "thingName": thing},
            # Without effect for a job that does not exist.
            "iot:CancelJobExecution": {"jobId": job, "thingName": thing},
            "iotjobsdata:UpdateJobExecution": {"jobId": job, "thingName": thing, "status": "IN_PROGRESS"},
            "iot:ListJobs": {"maxResults": 1},
            "iot:DescribeEndpoint": {"endpointType": "iot:Data-ATS"},
            "sqs:GetQueueAttributes": {
                "QueueUrl": self._config.commands_queue,
                "AttributeNames": ["ApproximateNumberOfMessages"],
            },
            # Without effect for a receipt of no message.
            "sqs:DeleteMessage": {"QueueUrl": self._config.commands_queue, "Entries": [entry]},
            "sqs:ChangeMessageVisibility": {
                "QueueUrl": self._config.commands_queue,
                "Entries": [{**entry, "VisibilityTimeout": 0}],
            },
        }

    def _of_certificates(self, thing: str) -> Mapping[str, Mapping[str, object]]:
        """Actions with a certificate's ARN: without the account AWS might refuse it for that reason alone."""
        if self._config.account is None:
            return {}
        certificate = arn_of(evolve(self._config, region=self._clients.region), "iot", f"cert/{_NO_CERTIFICATE}")
        return {
            "iot:AttachThingPrincipal": {"thingName": thing, "principal": certificate},
            "iot:DetachThingPrincipal": {"thingName": thing, "principal": certificate},
            "iot:AttachPolicy": {"policyName": self._config.certificate_policy, "target": certificate},
        }

    async def check(self, use: CloudUse) -> Sequence[Finding]:
        """As in the interface."""
        trials = self._trials()
        wanted = needed(use, self._config)
        tried = [action for action in wanted if action in trials]
        found = list(await asyncio.gather(*(self._try(action, trials[action]) for action in tried)))
        if untried := [action for action in wanted if action not in trials]:
            detail = f"cannot be tested without writing: {', '.join(untried)}; the printed policy contains them"
            found.append(Finding(state="ok", what="rights that write", detail=detail))
        paced = ", ".join(f"{action} {ACTIONS[action].rate:g}/s" for action in wanted if ACTIONS[action].rate)
        detail = f"default rate limits, changed by [clouds.NAME.rates]: {paced} ({SOURCES['iot']})"
        found.append(Finding(state="ok", what="quotas", detail=detail))
        return clock_first(found)

    async def _try(self, action: str, arguments: Mapping[str, object]) -> Finding:
        why = ACTIONS[action].why
        try:
            await self._clients.call(action, **arguments)
        except CallFailed as failed:
            if action.startswith("sqs:") and failed.kind == "missing":
                return Finding(
                    state="problem",
                    what=action,
                    detail=str(failed),
                    remedy="Set commands_queue to an existing queue",
                )
            if failed.kind == "credentials":
                return Finding(state="problem", what=action, detail=str(failed), remedy=for_all(failed).remedy)
            if failed.kind == "clock":
                return clock_finding(failed)
            if failed.kind == "throttled":
                remedy = "Lower its rate in [clouds.NAME.rates], or have the quota raised"
                return Finding(state="warning", what=action, detail=str(failed), remedy=remedy)
            if failed.kind != "missing" and not (action in _INVALID and failed.kind == "invalid"):
                remedy = "Check whether AWS can be reached from here"
                return Finding(state="problem", what=action, detail=str(failed), remedy=remedy)
        return Finding(state="ok", what=action, detail=f"allowed: it {why}")

"""The minimal permissions of a mirror, as an IAM policy and as Terraform. Pure."""

import json
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from fleetcore.interfaces.cloud import CloudUse
from fleetcore_aws.actions import ACTIONS, Resource, needed
from fleetcore_aws.config import AwsConfig
from fleetcore_aws.names import fleet_digest


def policy(use: CloudUse, config: AwsConfig, fleet: str, mark: str) -> Mapping[str, str]:
    """The policy by form: ``json`` and ``terraform``."""
    statements = _statements(use, config, fleet, mark)
    document = {
        "Version": "2012-10-17",
        "Statement": [
            {"Sid": _sid(resources), "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}
            for resources, actions in statements.items()
        ],
    }
    return {"json": json.dumps(document, indent=2), "terraform": _terraform(statements, fleet)}


def _statements(use: CloudUse, config: AwsConfig, fleet: str, mark: str) -> Mapping[tuple[str, ...], Sequence[str]]:
    """Actions by resource: those on the same resource make one statement."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in needed(use, config):
        resources = tuple(_arn(resource, config, fleet, mark) for resource in ACTIONS[name].on)
        found.setdefault(resources, []).append(name)
    return found


def _arn(resource: Resource, config: AwsConfig, fleet: str, mark: str) -> str:
    telemetry = config.telemetry
    match resource:
        case "*":
            return "*"
        case "thing":
            return arn_of(config, "iot", f"thing/{config.thing_prefix}*")
        case "type":
            return arn_of(config, "iot", f"thingtype/{config.thing_prefix}*")
        case "group":
            return arn_of(config, "iot", f"thinggroup/{config.thing_prefix}*")
        case "cert":
            return arn_of(config, "iot", "cert/*")
        case "policy":
            return arn_of(config, "iot", f"policy/{config.certificate_policy}")
        case "job":
            return arn_of(config, "iot", f"job/{fleet_digest(mark)}*")
        case "topic":
            return arn_of(config, "iot", f"topic/{telemetry.topic}/{fleet}/{config.thing_prefix}*")
        case "stream":
            return arn_of(config, "kinesis", f"stream/{telemetry.stream}")
        case "delivery":
            return arn_of(config, "firehose", f"deliverystream/{telemetry.stream}")
        case "queue":
            return queue_arn(telemetry.queue or "", config)
        case "commands":
            return queue_arn(config.commands_queue or "", config)


def arn_of(config: AwsConfig, service: str, what: str) -> str:
    """The ARN of a service's resource, with stars for what is not configured."""
    return f"arn:{_partition(config)}:{service}:{config.region or '*'}:{config.account or '*'}:{what}"


def _partition(config: AwsConfig) -> str:
    region = config.region or ""
    return "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"


def queue_arn(url: str, config: AwsConfig) -> str:
    """The ARN of a queue: its URL ends in the account and the queue's name."""
    account, _, name = urlsplit(url).path.strip("/").rpartition("/")
    return f"arn:{_partition(config)}:sqs:{config.region or '*'}:{account or '*'}:{name}"


def _sid(resources: tuple[str, ...]) -> str:
    named = []
    for arn in resources:
        service, what = (arn.split(":", 5)[2], arn.split(":", 5)[5]) if arn != "*" else ("", "lists")
        kind = what.partition("/")[0] if "/" in what else what if arn == "*" else f"{service} {what}"
        named.append("".join(part.capitalize() for part in "".join(c if c.isalnum() else " " for c in kind).split()))
    return "Fleetcore" + "And".join(named)


def _terraform(statements: Mapping[tuple[str, ...], Sequence[str]], fleet: str) -> str:
    lines = [f'data "aws_iam_policy_document" "fleetcore_{_word(fleet)}" {{']
    for resources, actions in statements.items():
        lines += ["  statement {", f'    sid       = "{_sid(resources)}"', "    actions = ["]
        lines += [f'      "{action}", # {ACTIONS[action].why}' for action in actions]
        lines += ["    ]", f"    resources = {json.dumps(list(resources))}", "  }"]
    lines += [
        "}",
        "",
        f'resource "aws_iam_policy" "fleetcore_{_word(fleet)}" {{',
        f'  name   = "fleetcore-{fleet}"',
        f"  policy = data.aws_iam_policy_document.fleetcore_{_word(fleet)}.json",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _word(fleet: str) -> str:
    return fleet.replace("-", "_")

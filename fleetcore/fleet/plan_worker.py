"""Runs courses of a campaign in a process of its own: ``python -m fleetcore.fleet.plan_worker``.

It reads length-prefixed msgpack from its standard input: the task, then the executions in parts, then an empty part. It
writes the courses as one JSON line.
"""

import struct
import sys
from typing import BinaryIO

import msgspec

from fleetcore.model.firmware import Campaign, Execution
from fleetcore.rollout.crowd import Crowd
from fleetcore.rollout.eligibility import Facts
from fleetcore.rollout.simulation import Behaviour, Course, simulate

#: The length of a part, before it.
LENGTH = struct.Struct(">I")


class Task(msgspec.Struct, frozen=True):
    """What to run: a course for each seed; ``crowd`` is whether on arrays."""

    campaign: Campaign
    behaviour: Behaviour
    now: int
    seeds: tuple[int, ...]
    crowd: bool = False


class Part(msgspec.Struct, frozen=True):
    """Some executions, and what is known of their devices where it matters, by execution."""

    executions: list[Execution]
    facts: dict[str, Facts]


def packed(part: object) -> bytes:
    """A part with its length."""
    content = msgspec.msgpack.encode(part)
    return LENGTH.pack(len(content)) + content


def courses(said: bytes) -> list[Course]:
    """What the process wrote."""
    return msgspec.json.decode(said, type=list[Course])


def _read(stream: BinaryIO) -> bytes:
    (length,) = LENGTH.unpack(stream.read(LENGTH.size))
    return stream.read(length)


def main() -> None:
    """Reads the task and the executions, and writes the courses."""
    stream = sys.stdin.buffer
    task = msgspec.msgpack.decode(_read(stream), type=Task)
    decoder = msgspec.msgpack.Decoder(Part)
    found = _by_crowd(task, stream, decoder) if task.crowd else _one_by_one(task, stream, decoder)
    sys.stdout.buffer.write(msgspec.json.encode(found))


def _by_crowd(task: Task, stream: BinaryIO, decoder: msgspec.msgpack.Decoder[Part]) -> list[Course]:
    crowd = Crowd(task.campaign)
    while (part := decoder.decode(_read(stream))).executions:
        crowd.add(part.executions)
    return [crowd.course(task.now, task.behaviour, seed) for seed in task.seeds]


def _one_by_one(task: Task, stream: BinaryIO, decoder: msgspec.msgpack.Decoder[Part]) -> list[Course]:
    executions: list[Execution] = []
    facts: dict[str, Facts] = {}
    # Most devices have the same facts: they are stored once.
    known: dict[Facts, Facts] = {}
    while (part := decoder.decode(_read(stream))).executions:
        executions += part.executions
        facts.update((name, known.setdefault(each, each)) for name, each in part.facts.items())
    *before, last = task.seeds
    found = [simulate(task.campaign, executions, task.now, task.behaviour, seed, facts=facts) for seed in before]
    # The last course needs no copy of what it changes.
    taken = (executions.pop() for _ in range(len(executions)))
    found.append(simulate(task.campaign, taken, task.now, task.behaviour, last, facts=facts))
    return found


if __name__ == "__main__":
    main()

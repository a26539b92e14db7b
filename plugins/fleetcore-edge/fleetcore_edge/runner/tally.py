"""What a function has taken, counted as it goes."""

from attrs import define

from fleetcore_edge.runner.answers import Answer
from fleetcore_edge.runner.records import Batch, Output, Usage


@define
class Tally:
    """The counts of one function; the members are those of `Usage`."""

    fuel: int = 0
    us: int = 0
    memory_kib: int = 0
    batches: int = 0
    stopped: int = 0
    over_budget: int = 0
    readings_in: int = 0
    readings_out: int = 0
    alerts: int = 0
    commands: int = 0
    dropped: int = 0
    restarts: int = 0
    last_code: str = ""
    last_reason: str = ""

    def done(self, batch: Batch, answer: Answer, output: Output) -> None:
        """A batch was handled."""
        self._took(batch, answer)
        self.memory_kib = answer.memory_kib
        self.readings_out += len(output.readings)
        self.alerts += len(output.alerts)
        self.commands += len(output.commands)
        self.dropped += sum(output.dropped.values())

    def stop(self, batch: Batch, code: str, reason: str, answer: Answer | None) -> None:
        """A batch was stopped; without an answer the process was lost, and its next one counts as the restart."""
        if answer is None:
            self.batches += 1
            self.readings_in += len(batch)
        else:
            self._took(batch, answer)
            self.restarts += 1
        self.stopped += 1
        self.last_code, self.last_reason = code, reason

    def usage(self) -> Usage:
        """The counts as they are now."""
        return Usage(
            fuel=self.fuel,
            ms=self.us / 1000,
            memory_kib=self.memory_kib,
            batches=self.batches,
            stopped=self.stopped,
            over_budget=self.over_budget,
            readings_in=self.readings_in,
            readings_out=self.readings_out,
            alerts=self.alerts,
            commands=self.commands,
            dropped=self.dropped,
            restarts=self.restarts,
            last_code=self.last_code,
            last_reason=self.last_reason,
        )

    def _took(self, batch: Batch, answer: Answer) -> None:
        self.batches += 1
        self.fuel += answer.fuel
        self.us += answer.us
        self.readings_in += len(batch)

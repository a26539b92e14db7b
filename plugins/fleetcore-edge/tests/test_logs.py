"""The log that the core asks for."""

import logging

from fleetcore_edge.uplink.logs import kept_log

from fleetcore.testing.clock import MovableClock


async def test_the_lines_of_a_function_are_those_of_that_function_alone(caplog):
    log = logging.getLogger("test")
    with caplog.at_level(logging.INFO), kept_log(MovableClock()) as keeper:
        log.info("Function quiet: hello")
        log.info("Function quiet-2: no")
        log.info("Function quiet 1.0.0 runs")

        found = await keeper.logs({"function": "quiet"}, lambda _percent: None)

    assert [line["text"] for line in found["lines"]] == ["Function quiet: hello", "Function quiet 1.0.0 runs"]

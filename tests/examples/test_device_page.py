"""The page on writing a device, literally: each of its commands runs, and prints what stands below it."""

import re

import pytest

from fleetcore.testing.ports import free_port

from .test_how_to import HOW_TO, ready, running, typed


def is_shown(text, out):
    """Whether an output is the one that a page shows, where … stands for anything, and a line may go on in the next."""
    pattern = re.escape(text.strip()).replace("…", "(?s:.*?)").replace(",\\\n", ",\n?")
    return re.fullmatch(pattern, out.strip()) is not None


def test_an_output_that_differs_is_found():
    assert is_shown('{"a":"…"}200\n204', '{"a":"x"}200\n204\n')
    assert not is_shown('{"a":"…"}200\n204', '{"b":"x"}200\n204\n')
    assert not is_shown("204", "204\n204\n")


@pytest.mark.peer("curl", "openssl", "mosquitto_pub", "mosquitto_rr")
def test_each_step_of_the_page_prints_what_it_shows(tmp_path):
    text = (HOW_TO / "write-a-device.md").read_text(encoding="utf-8")
    http, mqtt = str(free_port()), str(free_port())
    ports = lambda words: words.replace("8443", http).replace("8883", mqtt)  # noqa: E731
    make, serve, *steps = re.findall(r"^```(sh|text)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    typed(make[1], tmp_path)
    toml = tmp_path / "fleet-data" / "fleet.toml"
    toml.write_text(ports(toml.read_text().replace("0.0.0.0", "127.0.0.1")))

    out = ""
    with running(serve[1], tmp_path, ready):
        for kind, block in steps:
            if kind == "sh":
                out = typed(ports(block), tmp_path)
            else:
                assert is_shown(block, out), f"{block}\n!=\n{out}"
        campaign = typed("fleetcore campaign show spring -o json", tmp_path)

    assert '"succeeded"' in campaign

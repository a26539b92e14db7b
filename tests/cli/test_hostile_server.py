"""A server that says what it should not, or is another program: nothing of it drives the shell or the terminal.

Guards against tokens sent without encryption, and against answers that are taken for what they are not.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

CALL = {"name": "odds_get", "help": "x", "permission": "p", "route": "GET /x/odds/a", "command": "odds show",
        "plugin": "odds"}  # fmt: skip
TEXT = {"place": "query", "kind": "text"}
DRIVES = "\x1b]0;mine\x07"


@pytest.fixture
def ask(run):
    """``ask(catalogue, answer, "odds", "show")`` of a server that sends these."""
    servers = []

    def go(catalogue, answer, *words):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                sent = catalogue if self.path == "/api/v1/calls" else answer
                body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - as http.server calls them

            def log_message(self, *_words):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return run(*words, "--server", f"http://127.0.0.1:{server.server_port}", "--plain-http", "--token", "t")

    yield go
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("sent", [b"<html>", b"{}", b"null", b"[" * 100_000, b"\xff", [{"name": 1}]])
def test_what_is_no_catalogue_is_told_as_such(ask, sent):
    done = ask(sent, {}, "odds", "show")

    assert done.code == 2
    assert "could not be asked: The list of calls cannot be read" in done.err


@pytest.mark.parametrize(
    "changed",
    [
        {"command": "odds show NAME"},
        {"command": "odds \x1b[31m"},
        {"answer": "wild"},
        {"name": "get_device"},
        {"parameters": [{"name": "a", "place": "query", "kind": "wild"}]},
        {"parameters": [{"name": "a", **TEXT}, {"name": "a", **TEXT}]},
        *({"parameters": [{"name": name, **TEXT}]} for name in ("yes", "help", "token", "output")),
        {"parameters": [{"name": "a", "word": "server", **TEXT}]},
    ],
    ids=str,
)
def test_a_call_of_which_no_command_can_be_made_is_none(ask, changed):
    done = ask([{**CALL, **changed}], {}, "odds", "show")

    assert (done.code, "Command 'odds' does not exist" in done.err) == (2, True)


@pytest.mark.parametrize(
    "route", ["GET http://127.0.0.1:1/", "GET //127.0.0.1:1/x/odds/a", "GET /devices", "TRACE /x/odds/a"]
)
def test_a_call_goes_to_its_server_alone(ask, route):
    done = ask([{**CALL, "route": route}], {"a": 1}, "odds", "show")

    assert (done.code, done.out) == (5, "")
    assert "Call 'odds_get' does not exist" in done.err


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_names_of_members_drive_no_terminal(ask, output):
    row = {f"{DRIVES}name": f"{DRIVES}v", "inner": {DRIVES: [1, {DRIVES: 2}]}}
    for call, answer in (
        (CALL, row),
        ({**CALL, "answer": "page", "columns": [DRIVES]}, {"items": [row], "next": None}),
    ):
        done = ask([call], answer, "odds", "show", "-o", output)

        assert (done.code, "\x1b" in done.out + done.err) == (0, False)


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "verify"), ("device", "show", "x"), ("device", "register", "x", "--type", "t"), ("device", "list"),
        ("device", "retire", "x"), ("device", "erase", "x"), ("health", "fleet"), ("command", "send", "x", "blink"),
        ("ca", "crl"), ("ca", "show"), ("token", "list"), ("telemetry", "latest", "x"), ("enrollment", "token", "create"),
        ("twin", "show", "x"), ("group", "show", "x"), ("plugin", "detectors"),
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize(
    "answer",
    [b'{"hello": "world"}', b"[]", b'"x"', b"5", b"[null]", b'{"items": [{"a": 1}], "next": null}', b"{}", b"\xff"],
)
def test_the_answer_of_another_program_is_told_as_such(ask, words, answer):
    done = ask(answer, answer, *words)

    assert (done.code, done.out) == (6, ""), done.out
    assert "cannot be read" in done.err
    assert "Is it a fleetcore server" in done.err


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "HTTP://127.0.0.1:1", "http://fleet.example:8444"],
)
def test_a_token_goes_without_encryption_only_where_the_command_line_says_so(run, url):
    done = run("device", "list", "--server", url, "--token", "t")

    assert done.code == 5
    assert "would send the token without encryption" in done.err


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "HTTP://127.0.0.1:1"])
def test_it_may_go_to_this_machine(run, url):
    done = run("device", "list", "--server", url, "--plain-http", "--token", "t")

    assert done.code == 6
    assert "cannot be reached" in done.err


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://fleet.example:8444", "in the clear"),
        ("http://127.0.0.1.evil.example", "in the clear"),
        ("http://127.0.0.1@evil.example", "no user and no password"),
        ("http://me:secret@127.0.0.1:1", "no user and no password"),
        ("http://[::1", "not an address of a server"),
        ("http://127.0.0.1:99999", "not an address of a server"),
        ("ftp://127.0.0.1", "not an address of a server"),
        ("https://", "not an address of a server"),
    ],
)
def test_no_token_leaves_this_machine_without_encryption(run, url, why):
    done = run("device", "list", "--server", url, "--plain-http", "--token", "t")

    assert done.code == 5
    assert why in done.err
    assert "secret" not in done.err


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"items": 3}', b"null"])
def test_what_is_no_answer_is_told_as_such(ask, answer):
    for words in (("odds", "show"), ("device", "list")):
        done = ask([{**CALL, "answer": "page"}], answer, *words)

        assert (done.code, "cannot be read" in done.err) == (6, True), words

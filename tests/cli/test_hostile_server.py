"""A server that says what it should not: its catalogue and its answers drive neither the shell nor the terminal."""

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
                sent = catalogue if self.path == "/api/v1/calls" else answer
                body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_words):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return run(*words, "--server", f"http://127.0.0.1:{server.server_port}", "--token", "t")

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

    assert (done.code, "There is no command 'odds'" in done.err) == (2, True)


@pytest.mark.parametrize(
    "route", ["GET http://127.0.0.1:1/", "GET //127.0.0.1:1/x/odds/a", "GET /devices", "TRACE /x/odds/a"]
)
def test_a_call_goes_to_its_server_alone(ask, route):
    done = ask([{**CALL, "route": route}], {"a": 1}, "odds", "show")

    assert (done.code, done.out) == (5, "")
    assert "There is no call 'odds_get'" in done.err


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_names_of_members_drive_no_terminal(ask, output):
    row = {f"{DRIVES}name": f"{DRIVES}v", "inner": {DRIVES: [1, {DRIVES: 2}]}}
    for call, answer in (
        (CALL, row),
        ({**CALL, "answer": "page", "columns": [DRIVES]}, {"items": [row], "next": None}),
    ):
        done = ask([call], answer, "odds", "show", "-o", output)

        assert (done.code, "\x1b" in done.out + done.err) == (0, False)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"items": 3}', b"null"])
def test_what_is_no_answer_is_told_as_such(ask, answer):
    for words in (("odds", "show"), ("device", "list")):
        done = ask([{**CALL, "answer": "page"}], answer, *words)

        assert (done.code, "cannot be read" in done.err) == (6, True), words

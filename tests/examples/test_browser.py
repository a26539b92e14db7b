"""The how-to page "A browser over WebSocket", literally, in a headless Chromium that is driven by its own protocol."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import pytest
from websockets.sync.client import connect

from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port, moved

from .test_how_to import blocks, ready, running, typed

#: What the program is called: Debian's small one, else a whole browser.
CHROMIUM = next(
    filter(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome")), "chromium-headless-shell"
)


class Page:
    """A page in the browser (Chrome DevTools Protocol)."""

    def __init__(self, socket):
        self._socket, self._number = socket, 0

    def run(self, script):
        """The value of an expression in the page."""
        self._number += 1
        asked = {"id": self._number, "method": "Runtime.evaluate", "params": {"expression": script}}
        self._socket.send(json.dumps(asked))
        while (answer := json.loads(self._socket.recv(PATIENCE_S))).get("id") != self._number:
            pass
        assert "exceptionDetails" not in answer["result"], answer
        return answer["result"]["result"].get("value")

    def shows(self, text):
        """Waits until the page has this text."""
        until = time.monotonic() + PATIENCE_S
        while text not in (seen := self.run("document.body?.innerText ?? ''")):
            assert time.monotonic() < until, f"{text!r} is not shown but {seen!r}"
            time.sleep(0.05)


@contextmanager
def opened(url, folder):
    """The page at ``url``; the browser trusts the server whatever its certificate, as if the CA were installed."""
    words = (
        *(CHROMIUM, "--headless", "--no-sandbox", "--ignore-certificate-errors", "--disable-gpu"),
        *("--remote-debugging-port=0", f"--user-data-dir={folder / 'browser'}", url),
    )
    # A group of its own: the program starts others.
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        port = next(found[1] for line in process.stderr if (found := re.search(r"127\.0\.0\.1:(\d+)/devtools", line)))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE_S) as listed:
            (page,) = (one for one in json.load(listed) if one["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], proxy=None, max_size=None) as socket:
            yield Page(socket)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()
        process.wait()


@pytest.mark.peer(CHROMIUM)
def test_a_page_in_a_browser_is_a_device_as_its_page_shows_it(tmp_path):
    make, serve, register, serve_page, use = blocks("connect-a-browser.md", "sh")
    (html,) = blocks("connect-a-browser.md", "html")
    ports = {name: str(free_port()) for name in ("8443", "8883", "8445", "8000")}

    typed(moved(make, ports), tmp_path)
    toml = tmp_path / "fleet-data" / "fleet.toml"
    toml.write_text(moved(toml.read_text(), ports))
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "panel.html").write_text(moved(html, ports))

    with running(serve, tmp_path, ready), running(moved(serve_page, ports), tmp_path, lambda process: None):
        typed(register, tmp_path)
        token = (tmp_path / "panel.token").read_text().strip()
        with opened(moved("http://localhost:8000/panel.html", ports), tmp_path) as page:
            page.shows("not connected")
            page.run('by("token").value = "fc_dev_panel-1_wrong"; by("connect").requestSubmit()')
            page.shows("4401 not_authenticated")
            page.run(f'by("token").value = {json.dumps(token)}; by("connect").requestSubmit()')
            page.shows("connected as panel-1")
            page.run('by("send").click()')
            page.shows("committed 1")
            told = typed(use, tmp_path)
            page.shows('command show {"text":"hello"}')
            typed("fleetcore twin set panel-1 theme=dark", tmp_path)
            page.shows('wanted {"theme":"dark"}')
            typed("fleetcore device revoke panel-1 --reason lost", tmp_path)
            page.shows("4403 device_revoked")

    assert "brightness" in told
    assert "succeeded" in told

"""Real proxies in front of a listener: nginx and HAProxy, if installed, with a section of their configuration."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fleetcore.testing.patience import PATIENCE_S

_HAPROXY = "global\n    maxconn 100\n\n"
_NGINX = """\
daemon off;
master_process off;
pid {0}/pid;
error_log {0}/log;
events {{}}
http {{
access_log off;
{1}
}}
"""


@asynccontextmanager
async def proxy(name: str, section: str, folder: Path, port: int) -> AsyncIterator[None]:
    """Runs ``nginx`` or ``haproxy`` until the context ends; entered once it listens on ``port`` of 127.0.0.1.

    Args:
        section: its configuration of the listener; the rest of the file is generated.
        folder: for its files; ``/etc/NAME`` in ``section`` stands for it.

    Raises:
        AssertionError: it has ended, with its output.
    """
    text, file = section.replace(f"/etc/{name}", str(folder)), folder / f"{name}.conf"
    file.write_text(_HAPROXY + text if name == "haproxy" else _NGINX.format(folder, text))
    commands = {
        "haproxy": ["-db", "-f", file],
        "nginx": ["-p", folder, "-e", folder / "log", "-c", file],
    }
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or name
    process = await asyncio.create_subprocess_exec(
        program, *map(str, commands[name]), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                assert process.returncode is None, (await process.stdout.read()).decode()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()

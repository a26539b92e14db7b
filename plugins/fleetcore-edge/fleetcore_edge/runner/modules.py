"""Modules, compiled: in a process of its own under limits, and kept on disk.

Compiled code is trusted: it runs without a sandbox's checks but those that are compiled into it. So the folder and
what is in it belong to this user alone, and each file carries a code that only the holder of the folder's key can make
(HMAC-SHA256, RFC 2104). A file that does not match is compiled anew.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import os
import platform
import secrets
from importlib.metadata import version
from pathlib import Path

from fleetcore.errors import ConfigError, Unavailable
from fleetcore.interfaces.waits import end_process
from fleetcore_edge.agent.starting import isolated
from fleetcore_edge.runner.frames import LENGTH
from fleetcore_edge.runner.records import FunctionRefused, RunnerSettings

_log = logging.getLogger(__name__)
_MAC_BYTES = 32
#: Files that are kept; the oldest go.
_MOST_FILES = 128
#: Compiled code is larger than the module; more than this many times is not taken.
_MOST_GROWTH = 32
_WASM = b"\0asm\x01\0\0\0"
#: Changes with the settings of the engine that compiled code depends on (`engine.make_engine`).
_SETTINGS = 1


def engine() -> str:
    """What compiled code depends on; code of another engine is compiled anew."""
    return f"wasmtime {version('wasmtime')} {platform.system()} {platform.machine()} settings {_SETTINGS}"


class Modules:
    """Compiles modules and keeps what comes of it.

    Args:
        folder: is made, for this user alone.

    Attributes:
        compiled: how many were compiled here; the others came from disk.
        damaged: files that were not what was written.

    Raises:
        ConfigError: the folder belongs to another user, or cannot be made.
    """

    def __init__(self, folder: Path, settings: RunnerSettings) -> None:
        self._folder, self._settings = folder, settings
        # Parents that are missing are this user's alone, too: others could otherwise put another folder here.
        try:
            for each in (*reversed(folder.absolute().parents), folder):
                each.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise ConfigError(
                f"The folder of compiled functions {folder} cannot be made for this user alone: {error.strerror}",
                remedy="Name a folder of this user",
            ) from error
        if folder.stat().st_uid != os.getuid():
            raise ConfigError(
                f"The folder of compiled functions {folder} belongs to another user",
                remedy="Name a folder of this user: what is in it is run",
            )
        self._key = self._made_key(folder / "key")
        #: One at a time: each may take hundreds of megabytes.
        self._turn = asyncio.Lock()
        self.compiled = self.damaged = 0

    async def code(self, content: bytes, *, own: bool = False) -> bytes:
        """The compiled code of a module.

        Args:
            own: a module of the runner itself, as text, which need not keep to the ABI.

        Raises:
            FunctionRefused: ``module_too_large``, ``module_invalid``, ``import_unknown``, ``export_missing``,
                ``compile_limit``.
            Unavailable: no process can be started.
        """
        if len(content) > self._settings.module_bytes:
            raise FunctionRefused(
                f"The module has {len(content)} bytes",
                code="module_too_large",
                remedy="Build it for size (-Os, --strip-all), or raise the runner's limit",
                limit=self._settings.module_bytes,
                unit="bytes",
            )
        if not own and not content.startswith(_WASM):
            raise FunctionRefused(
                "The file does not begin as a WebAssembly module does", code="module_invalid", remedy="Build it again"
            )
        name = hashlib.sha256(hashlib.sha256(content).digest() + engine().encode()).hexdigest()
        async with self._turn:
            code = await asyncio.to_thread(self._kept, name)
            if code is None:
                code = await self._compiled(content, own=own)
                await asyncio.to_thread(self._keep, name, code)
            return code

    @staticmethod
    def _made_key(file: Path) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            key = file.read_bytes()
            if len(key) == _MAC_BYTES and not file.stat().st_mode & 0o077:
                return key
        key = secrets.token_bytes(_MAC_BYTES)
        _write(file, key)
        return key

    def _mac(self, name: str, code: bytes) -> bytes:
        return hmac.digest(self._key, name.encode() + code, "sha256")

    def _kept(self, name: str) -> bytes | None:
        file = self._folder / f"{name}.code"
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        code = content[_MAC_BYTES:]
        if hmac.compare_digest(content[:_MAC_BYTES], self._mac(name, code)):
            return code
        self.damaged += 1
        _log.warning("The compiled function %s is not what was written, and is compiled anew", file)
        return None

    def _keep(self, name: str, code: bytes) -> None:
        try:
            _write(self._folder / f"{name}.code", self._mac(name, code) + code)
        except OSError as error:
            # It runs all the same, and is compiled again next time.
            _log.warning("A compiled function cannot be kept: %s", error)
        files = sorted(self._folder.glob("*.code"), key=lambda file: file.stat().st_mtime)
        for file in files[:-_MOST_FILES]:
            file.unlink(missing_ok=True)

    async def _compiled(self, content: bytes, *, own: bool) -> bytes:
        settings = self._settings
        process = await self._compiler(own=own)
        try:
            # The processor time is the limit; a machine that is busy otherwise may take some times longer.
            async with asyncio.timeout(5 * settings.compile_s + 10):
                said, _ = await process.communicate(content)
        except TimeoutError:
            raise self._beyond("time") from None
        finally:
            await end_process(process)
        if process.returncode:
            raise self._beyond("time or memory")
        if len(said) > _MOST_GROWTH * self._settings.module_bytes:
            raise self._beyond("room for its code")
        (size,) = LENGTH.unpack_from(said)
        document, code = json.loads(said[LENGTH.size : LENGTH.size + size]), said[LENGTH.size + size :]
        if document:
            raise FunctionRefused(document["reason"], code=document["code"], remedy=document["remedy"])
        self.compiled += 1
        return code

    async def _compiler(self, *, own: bool) -> asyncio.subprocess.Process:
        settings = self._settings
        interpreter, environment = isolated()
        try:
            return await asyncio.create_subprocess_exec(
                *interpreter, "-m", "fleetcore_edge.runner.compiling",
                str(settings.compile_s), str(settings.compile_mib), str(settings.nice), "own" if own else "function",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env=environment, start_new_session=True, limit=1 << 20,
            )  # fmt: skip
        except OSError as error:
            raise Unavailable(
                f"No process that compiles can be started: {error.strerror}",
                remedy="Look at this user's limits and the machine's memory",
            ) from error

    def _beyond(self, what: str) -> FunctionRefused:
        settings = self._settings
        return FunctionRefused(
            f"Compiling the module takes more {what} than it may: "
            f"{settings.compile_s} s of a processor, {settings.compile_mib} MiB",
            code="compile_limit",
            remedy="Build it with smaller functions, or raise the runner's limits",
        )


def _write(file: Path, content: bytes) -> None:
    """Replaces a file, readable by this user alone. One that is lost or damaged by a power cut is made anew."""
    beside = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(content)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)

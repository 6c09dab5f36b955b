"""A server in a process of its own, that can be killed."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PROGRAM = "from fastbert_cli import main; main()"
_READY = "fastbert serve: http://"
_START_SECONDS = 900.0
_PATIENCE_SECONDS = 300.0  # for an answer: a machine that does other work meanwhile is slow, and not wrong


class ServerProcess:
    """`fastbert serve` on loopback.

    Attributes:
        address: host and port.
        log: what it says on stderr.
        seconds_to_start: from its start until it listened.
    """

    def __init__(self, model: Path, log: Path, api_key: str, *, port: int = 0, threads: int = 1) -> None:
        """Start it, and return when it listens.

        Args:
            model: folder of the model.
            log: file for its stderr.
            api_key: that requests must bring.
            port: 0 for any that is free.
            threads: that compute.

        Raises:
            RuntimeError: it ended, or did not listen in time; with its last words.
        """
        self.log, begin = log, time.monotonic()
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, "serve", str(model), "--port", str(port), "--threads", str(threads)],
                stderr=stderr,
                env=os.environ | {"FASTBERT_API_KEY": api_key},
            )
        while not (said := [line for line in log.read_text().splitlines() if line.startswith(_READY)]):
            if self._process.poll() is not None or time.monotonic() > begin + _START_SECONDS:
                self.kill()
                raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        self.seconds_to_start = time.monotonic() - begin
        host, _, number = said[0].removeprefix(_READY).partition(":")
        self.address = host, int(number)

    @property
    def resident_bytes(self) -> int:
        """Return how much memory it has."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def open_files(self) -> int:
        """Return how many files and connections it has open."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    @property
    def cpu_seconds(self) -> float:
        """Return the processor time that it has taken."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it as a power cut does."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """Tell it to end, and return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_PATIENCE_SECONDS)


def connect(address: tuple[str, int]) -> http.client.HTTPConnection:
    """Return a connection to a server, which waits for answers with patience."""
    return http.client.HTTPConnection(*address, timeout=_PATIENCE_SECONDS)

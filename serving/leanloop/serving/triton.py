"""Triton as a process: how it starts, when it is up, and how it is ended.

The server comes from the nvidia-pytriton wheel. It listens on loopback only: this version has known remote
vulnerabilities and must not be reachable from a network.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Self

from leanloop.core.errors import ServingError
from leanloop.serving.home import TritonHome
from leanloop.serving.process import LOOPBACK, Ports, ProcessId, answers

TOKEN_HEADER = "leanloop-token"
"""HTTP header (for gRPC with the prefix ``triton-grpc-protocol-``) that opens the guarded calls."""

_GUARDED = "model-repository,trace,logging,shared-memory"
_EXIT_TIMEOUT_SECONDS = 3
_LOG_TAIL_LINES = 30


class TritonServer:
    """One Triton on loopback, in explicit model control: it starts without models.

    As a context manager it starts, waits until it is live, and is ended when the block is left; it also ends
    when the thread that started it dies. With ``detached`` it outlives its starter.

    Args:
        home: Where Triton is installed.
        repository: Model repository; it must exist.
        ports: Where to listen.
        folder: For the backend links and ``triton.log``.
        token: Opens repository, trace, logging and shared-memory calls. Empty: they are open to every local user.
        start_timeout: Seconds until it must be live.
        detached: Let it outlive this process.
        summaries: Publish quantiles of the request times of the last minute, which Triton leaves out by default.
    """

    def __init__(
        self,
        home: TritonHome,
        repository: Path,
        ports: Ports,
        folder: Path,
        *,
        token: str = "",
        start_timeout: float = 60.0,
        detached: bool = False,
        summaries: bool = False,
    ) -> None:
        self.home = home
        self.repository = repository
        self.ports = ports
        self.log = folder / "triton.log"
        self._backends = folder / "backends"
        self._token = token
        self._start_timeout = start_timeout
        self._detached = detached
        self._summaries = summaries
        self._process: subprocess.Popen[bytes] | None = None
        self.id: ProcessId | None = None

    @property
    def http_url(self) -> str:
        """``host:port`` of HTTP."""
        return f"{LOOPBACK}:{self.ports.http}"

    @property
    def grpc_url(self) -> str:
        """``host:port`` of gRPC."""
        return f"{LOOPBACK}:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        """``host:port`` of the Prometheus metrics."""
        return f"{LOOPBACK}:{self.ports.metrics}"

    def __enter__(self) -> Self:
        self.launch()
        try:
            self.wait_live()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def launch(self) -> ProcessId:
        """Start the process; it is not live yet.

        Raises:
            ServingError: A port is in use.
        """
        self.ports.check_free()
        self.home.write_backends(self._backends)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".previous.log"))
        with self.log.open("wb") as log:
            self._process = self._spawn(log)
        self.id = ProcessId.of(self._process.pid)
        return self.id

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        tied = [] if self._detached else ["setpriv", "--pdeathsig", "TERM"]
        return subprocess.Popen(
            [*tied, *self._command()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.home.environment(),
            start_new_session=True,
        )

    def _command(self) -> list[str]:
        options = {
            "model-repository": self.repository,
            "backend-directory": self._backends,
            "model-control-mode": "explicit",
            "exit-timeout-secs": _EXIT_TIMEOUT_SECONDS,
            # One failed load would turn readiness off for good, whatever serves (triton-inference-server/server#7014).
            "strict-readiness": "false",
            "http-address": LOOPBACK,
            "http-port": self.ports.http,
            "grpc-address": LOOPBACK,
            "grpc-port": self.ports.grpc,
            "metrics-address": LOOPBACK,
            "metrics-port": self.ports.metrics,
            "allow-gpu-metrics": "false",
            "pinned-memory-pool-byte-size": 0,
        }
        if self._summaries:
            options["metrics-config"] = "summary_latencies=true"
        if self._token:
            options["http-restricted-api"] = f"{_GUARDED}:{TOKEN_HEADER}={self._token}"
            options["grpc-restricted-protocol"] = f"{_GUARDED}:{TOKEN_HEADER}={self._token}"
        return [
            str(self.home.binary),
            "--disable-auto-complete-config",
            *(f"--{name}={value}" for name, value in options.items()),
        ]

    def wait_live(self) -> None:
        """Wait until the server answers.

        Raises:
            ServingError: It ended, or did not answer in time; holds the tail of its log.
        """
        assert self._process is not None, "launch() first"
        deadline = time.monotonic() + self._start_timeout
        while not is_live(self.http_url):
            code = self._process.poll()
            if code is not None:
                raise self._failed(f"ended with {_exit_text(code)}")
            if time.monotonic() > deadline:
                raise self._failed(f"no answer within {self._start_timeout:g} s")
            time.sleep(0.05)

    def wait(self) -> str:
        """Wait until the server ends by itself.

        Returns:
            How it ended.
        """
        assert self._process is not None, "launch() first"
        return _exit_text(self._process.wait())

    def _failed(self, value: str) -> ServingError:
        return ServingError(
            "Triton did not come up.",
            where=str(self.log),
            value=f"{value}; its log ends with:\n{log_tail(self.log)}",
            fix="See the log; raise serving.start_timeout_seconds if the machine is only slow.",
        )

    def stop(self) -> None:
        """End the server and its model processes; nothing happens when it has ended."""
        if self._process is None or self.id is None:
            return
        self.id.stop()
        with contextlib.suppress(ProcessLookupError):
            # The session is ours alone; a model process that lost its parent is still in it.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None


def is_live(http_url: str, seconds: float = 2.0) -> bool:
    """Whether a server answers at ``host:port``; says nothing about its models."""
    return answers(http_url, "/v2/health/live", seconds)


def log_tail(path: Path) -> str:
    """The last lines of a log, for an error message."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:])


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"

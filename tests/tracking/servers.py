"""Real MLflow servers, the databases under them, and a proxy that does them harm."""

import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

APP = ("mlflow.server.fastapi_app:app",)
AUTH_APP = ("--factory", "mlflow.server.auth:create_app")


@dataclass
class Server:
    """An MLflow server that can be killed and started again.

    It is the worker that `mlflow server` starts, with the settings that it hands on, without that
    process in front, which takes as long again to start.
    """

    folder: Path
    database_uri: str
    app: tuple[str, ...] = APP
    settings: dict[str, str] = field(default_factory=dict)
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, unless it runs; it answers some seconds later."""
        if self._process is not None:
            return
        environment = os.environ | {
            "_MLFLOW_SERVER_FILE_STORE": self.database_uri,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.folder / "served files"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            # Without this the server starts eight more processes for jobs of its own.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "_MLFLOW_SGI_NAME": "uvicorn",
            "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*",
            **self.settings,
        }
        command = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), *self.app]
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.folder
            )

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it with -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """No file that the server writes can grow beyond a byte: its disk is full."""
        before = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (1, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, before)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


Fault = Callable[["Forwarder"], bool]
"""Does harm to a request; returns whether that was its answer."""


class Forwarder(BaseHTTPRequestHandler):
    """Hands a request on to the server, or lets a fault have it."""

    target: str
    faults: list[Fault]
    lock: threading.Lock

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PATCH(self) -> None:
        self._handle()

    def forward(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the server, and return its answer."""
        connection = http.client.HTTPConnection(self.target, timeout=60)
        try:
            headers = {key: value for key, value in self.headers.items() if key != "Host"}
            connection.request(self.command, self.path, self.body, headers)
            answer = connection.getresponse()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() == "content-type"]
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer the client, which may be gone."""
        try:
            self.send_response(status)
            for key, value in headers:
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.lock:
            fault = self.faults.pop(0) if self.faults and self.command != "GET" else None
        if fault is None or not fault(self):
            self.reply(*self.forward())


@contextmanager
def proxy(server: Server, faults: list[Fault]) -> Iterator[str]:
    """A proxy that lets one fault after the other have a request that changes something."""
    attributes = {"target": f"127.0.0.1:{server.port}", "faults": faults, "lock": threading.Lock()}
    handler = type("Handler", (Forwarder,), attributes)
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def answers(status: int, body: str = "<html>no</html>") -> Fault:
    """A proxy that answers itself, as a web page."""

    def fault(request: Forwarder) -> bool:
        request.reply(status, [("Content-Type", "text/html")], body.encode())
        return True

    return fault


def slow(seconds: float) -> Fault:
    """The server gets the request late."""

    def fault(_: Forwarder) -> bool:
        time.sleep(seconds)
        return False

    return fault


def drop(request: Forwarder) -> bool:
    """The connection breaks before the server has the request."""
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)
    return True


def lose_answer(request: Forwarder) -> bool:
    """The connection breaks in the middle of the answer: the server did what was asked."""
    status, _, body = request.forward()
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) + 10))
    request.end_headers()
    request.wfile.write(body[: len(body) // 2])
    return drop(request)


def passes(_: Forwarder) -> bool:
    """Nothing happens to the request."""
    return False

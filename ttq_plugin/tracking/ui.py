"""Runs MLflow's web interface on a local store in one process, without telemetry, and cleans up after it."""

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from ttq_plugin.errors import InputError
from ttq_plugin.support.processes import ended_like_ctrl_c
from ttq_plugin.support.quiet import MLFLOW
from ttq_plugin.tracking.interface import landing
from ttq_plugin.tracking.store import Store

LOG = "server.log"
_ENVIRONMENT = MLFLOW | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def command(store: Store, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The server's command line: one process, where MLflow's own command starts fifteen."""
    return [sys.executable, "-m", landing.__name__, str(_local_directory(store).absolute()), host, str(port)]


def start(store: Store, host: str = "127.0.0.1", port: int = 5000) -> subprocess.Popen[bytes]:
    """Start the server in its own session; what it prints goes to server.log in the store's directory.

    Args:
        store: A local store that has been opened once.
        host: The interface to listen on.
        port: A free port.

    Returns:
        The process; end it with `stop`, which ends its children too.
    """
    directory = _local_directory(store)
    _check_port(host, port)
    with (directory / LOG).open("wb") as log:
        return subprocess.Popen(
            command(store, host, port),
            env=os.environ | _ENVIRONMENT,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_ready(url: str, timeout: float = 180.0, process: subprocess.Popen[bytes] | None = None) -> None:
    """Return once the server answers.

    Args:
        url: Its base address.
        timeout: Seconds to wait.
        process: The server; its early end ends the wait.

    Raises:
        RuntimeError: When it ended or did not answer in time.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(
                f"the MLflow server must answer at {url}, but it ended with code {process.returncode}; read {LOG} in "
                f"its "
                "store"
            )
        try:
            with urlopen(f"{url.rstrip('/')}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the MLflow server must answer at {url} within {timeout:g} s, but it did not; read {LOG}")


def stop(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """End the server and every process it started.

    Args:
        process: What `start` returned.
        patience: Seconds between the polite signal and the final one.
    """
    try:
        _signal_all(process, signal.SIGTERM)
        process.wait(patience)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # Also after a second Ctrl-C, and for children that outlived the first process.
        _signal_all(process, signal.SIGKILL)
        process.wait()


def serve(
    store: Store,
    host: str = "127.0.0.1",
    port: int = 5000,
    link: str = "",
    ready: Callable[[str], object] | None = None,
    *,
    browser: bool = False,
) -> int:
    """Run the server until it ends or the user stops it with Ctrl-C.

    Args:
        store: A local store that has been opened once.
        host: The interface to listen on; other machines reach only an interface you name.
        port: A free port.
        link: A fragment such as `StudyRecorder.link()` gives.
        ready: Called with the full address once the server answers.
        browser: Whether to open it in the user's browser.

    Returns:
        The server's exit code, 0 after Ctrl-C.
    """
    with ended_like_ctrl_c(signal.SIGTERM, signal.SIGHUP):
        process = start(store, host, port)
        try:
            shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # all interfaces is no address to open
            base = f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"
            wait_ready(base, process=process)
            if ready:
                ready(base + link)
            if browser:
                webbrowser.open(base + link)
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            stop(process)


def _signal_all(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _local_directory(store: Store) -> Path:
    if store.directory is None:
        raise InputError("the interface needs a local store, got one that a server already shows; open its address")
    if not (store.directory / "mlflow.db").exists():
        raise InputError(f"the store must hold mlflow.db, got {store.directory} without one; run a search first")
    return store.directory


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the server does: a port that was closed a moment ago counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} on {host} must be free for MLflow, got: {error.strerror}; choose another with --port"
            ) from None

"""Ray for the time of one run: a private one on this machine, or a connection to a cluster.

A Ray of this machine listens on the loopback interface only, asks for a token, writes no logs, and
keeps what it needs in a private folder, in memory where there is /dev/shm.
"""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from export.cpu import available_cores
from featurestore.errors import FeatureStoreError
from featurestore.store.files import create_private, try_lock

LOCAL = "local"

_PREFIX = "fs-ray-"
_CONNECT_SECONDS = 5
# What a client of HTTP/2 sends first; a server answers with settings, a frame of the same kind.
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HTTP2_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_STORE_BYTES = 300_000_000  # of Ray's shared memory: vectors on their way to the shards
# Ray keeps the first token of a process for as long as that lives.
_TOKEN = secrets.token_hex(32)
# The workers get what they need as an argument of a call.
_SECRETS = ("FEATURESTORE_SOURCE", "FEATURESTORE_KEY", "FEATURESTORE_KEY_FILE")
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no warning about its future default
}
_LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the only switch that keeps Ray on loopback
    "RAY_AUTH_MODE": "token",
    "RAY_LOG_TO_STDERR": "1",  # and from there to /dev/null
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",  # 15 by default: other programs would leave workers no time
}


@contextlib.contextmanager
def ray_session(address: str, gpus: bool) -> Iterator[ModuleType]:
    """Yield the module `ray`, connected to the cluster at HOST:PORT, or to a Ray of its own.

    The Ray that is started for "local" has all cores of this process, and the machine's GPUs if
    `gpus`. It is gone at the end, and what a killed run has left is removed at the next start.
    Raises FeatureStoreError.
    """
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            folder = stack.enter_context(_private_folder())
            token = {"RAY_AUTH_TOKEN_PATH": str(folder / "token")}
            stack.enter_context(_environment(_QUIET | _LOCAL | token, ("RAY_ADDRESS",)))
        else:
            _check_port(address)
            stack.enter_context(_environment(_QUIET, ()))
        ray = _import_ray()
        if ray.is_initialized():
            raise FeatureStoreError(
                "this program is connected to Ray already - call ray.shutdown() before"
            )
        stack.enter_context(_without_messages())
        stack.callback(_shut_down, ray)
        if address == LOCAL:
            _start(ray, folder / "r", gpus)
        else:
            _connect(ray, address)
        yield ray


def _import_ray() -> ModuleType:
    hook = sys.excepthook
    try:
        import ray
    except ImportError:
        raise FeatureStoreError(
            "--ray needs Ray, which is not installed - pip install 'clinical-featurestore[ray]'"
        ) from None
    sys.excepthook = hook  # Ray's would send tracebacks to its servers
    return ray


def _start(ray: ModuleType, folder: Path, gpus: bool) -> None:
    """Start a Ray of this machine; its processes get no secret and print to /dev/null."""
    with _environment({}, _SECRETS), _descriptors_to_devnull(), _own_signals():
        try:
            ray.init(
                address="local",
                num_cpus=available_cores(),
                num_gpus=None if gpus else 0,
                object_store_memory=_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.CRITICAL,
                # Otherwise the working folder would come first where workers look for modules.
                job_config=ray.job_config.JobConfig(_client_job=True),
                _temp_dir=str(folder),
                _system_config={"automatic_object_spilling_enabled": False},
            )
        except Exception as error:
            raise FeatureStoreError(
                f"Ray could not be started on this machine ({type(error).__name__}) - run without "
                "--ray"
            ) from error
    if any(node["NodeManagerAddress"] != "127.0.0.1" for node in ray.nodes()):
        raise FeatureStoreError(
            f"Ray {ray.__version__} would listen on more than the loopback interface - install "
            "another version, or run without --ray"
        )


def _shut_down(ray: ModuleType) -> None:
    with contextlib.redirect_stdout(None):  # it prints messages that came twice
        ray.shutdown()


def _connect(ray: ModuleType, address: str) -> None:
    try:
        with _own_signals():
            ray.init(
                address=address,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.CRITICAL,
                job_config=ray.job_config.JobConfig(_client_job=True),
            )
    except Exception as error:
        if "ersion mismatch" in str(error):
            raise FeatureStoreError(
                f"the cluster at {address} has another version of Ray or Python than this machine "
                f"(Ray {ray.__version__}, Python {sys.version.split()[0]}) - install the same on "
                "every node"
            ) from None
        raise FeatureStoreError(
            f"there is no usable Ray at {address} ({type(error).__name__}) - give the HOST:PORT "
            'that "ray start --head" prints, and make this machine a node: '
            f'"ray start --address={address}"'
        ) from error


def _check_port(address: str) -> None:
    """Raise FeatureStoreError unless a gRPC server answers there: Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise FeatureStoreError(
            f"{address!r} is not the address of a Ray cluster - give HOST:PORT, as "
            '"ray start --head" prints it, or nothing for this machine'
        )
    try:
        with socket.create_connection((host, int(port)), _CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("0", "false"):
                connection.sendall(_HTTP2_PREFACE + _HTTP2_SETTINGS)
                if connection.recv(len(_HTTP2_SETTINGS))[3:4] != _HTTP2_SETTINGS[3:4]:
                    raise ConnectionError
    except (OSError, OverflowError):
        raise FeatureStoreError(
            f"no Ray cluster answers at {address} - check the address, and that the cluster runs"
        ) from None


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """Yield a private folder with a token; remove it at the end, and those that kills have left."""
    shared_memory = Path("/dev/shm")
    is_usable = shared_memory.is_dir() and os.access(shared_memory, os.W_OK | os.X_OK)
    # Not under TMPDIR: the paths of Ray's sockets, which lie below, may have 107 bytes.
    parent = shared_memory if is_usable else Path("/tmp")
    _remove_abandoned(parent)
    folder, descriptor = _locked_folder(parent)
    try:
        with os.fdopen(create_private(folder / "token"), "w") as stream:
            stream.write(_TOKEN)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """Make a folder that is locked for as long as this process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
        descriptor = os.open(folder, os.O_RDONLY)
        if try_lock(descriptor) and folder.exists():
            return folder, descriptor
        os.close(descriptor)  # another run has taken it for an abandoned one


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of this user whose process no longer lives."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid() and try_lock(descriptor):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def _environment(values: dict[str, str], removed: tuple[str, ...]) -> Iterator[None]:
    """Set and remove environment variables while the block runs."""
    before = {name: os.environ.get(name) for name in (*values, *removed)}
    os.environ.update(values)
    for name in removed:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _descriptors_to_devnull() -> Iterator[None]:
    """Let what is started in the block inherit /dev/null as its standard output and error."""
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            os.dup2(devnull, descriptor)
        yield
    finally:
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
        for descriptor in (*saved, devnull):
            os.close(descriptor)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of SIGINT and SIGTERM, which Ray replaces when it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _WithoutRay:
    """A stream that drops what Ray's own threads print, such as that a worker died."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return self._stream.write(text)


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Keep Ray's messages out of standard output, which is one line of JSON for a machine."""
    stream = sys.stdout
    sys.stdout = _WithoutRay(stream)
    try:
        yield
    finally:
        sys.stdout = stream

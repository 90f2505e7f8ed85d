"""Real storage servers, each a process of its own, started once for a test session.

S3 by moto's server, Azure by Azurite (npm; ``make azurite``), Google Cloud Storage by
gcp-storage-emulator; and ``tests.fault_proxy`` before any of them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

# gcsfs asks by gRPC what kind a bucket is, which no emulator answers; it waits a minute for each.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import fsspec
import pytest

from tests.needs import AZURITE, NODE
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AZURITE_KEY = (  # Azurite's own, printed in its manual
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
SECRET = "s3cr3t-never-shown"


@dataclass(frozen=True)
class Cloud:
    """A storage server: how its URLs begin, and the environment in which a client finds it."""

    protocol: str
    endpoint: str
    environment: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)

    def filesystem(self) -> Any:
        """A client that no test of ours shares."""
        return fsspec.filesystem(self.protocol, skip_instance_cache=True, **self.options)

    def fill(self, bucket: str, folder: Path, name: str = "films") -> str:
        """Put every file of a folder into a new bucket; return their URL."""
        filesystem = self.filesystem()
        filesystem.mkdir(bucket)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{bucket}/{name}/{path.relative_to(folder).as_posix()}"
                filesystem.pipe_file(key, path.read_bytes())
        return f"{self.protocol}://{bucket}/{name}"

    def behind(self, proxy: str) -> Cloud:
        """The same server, reached through a proxy."""
        changed = {k: v.replace(self.endpoint, proxy) for k, v in self.environment.items()}
        return replace(self, environment=changed)


@contextmanager
def process(port: int, *command: str, environment: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server until the block ends; it is there when its port answers."""
    with TemporaryFile() as log:  # a pipe that nobody empties would stop a server that writes much
        server = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=log, cwd=REPOSITORY, env=environment
        )
        try:
            _wait_for(port, server, log)
            yield
        finally:
            server.terminate()
            server.wait(timeout=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    for _ in range(300):
        if server.poll() is not None:
            log.seek(0)
            pytest.fail(f"{server.args} ended: {log.read().decode(errors='replace')}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"{server.args} does not answer")


@contextmanager
def run_s3() -> Iterator[Cloud]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "AKIATESTS",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    options = {"endpoint_url": url, "key": "AKIATESTS", "secret": SECRET}
    with process(port, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)):
        yield Cloud("s3", url, environment, options)


@contextmanager
def run_azure() -> Iterator[Cloud]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURITE_KEY};"
        f"BlobEndpoint={url}/devstoreaccount1;"
    )
    flags = ("--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry")
    with process(port, str(NODE), str(AZURITE), *flags, "--blobPort", str(port)):
        environment = {"AZURE_STORAGE_CONNECTION_STRING": connection}
        yield Cloud("az", url, environment, {"connection_string": connection})


@contextmanager
def run_gcs() -> Iterator[Cloud]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    start = ("-m", "gcp_storage_emulator", "start", "--quiet", "--in-memory")
    with process(port, sys.executable, *start, "--host", "127.0.0.1", "--port", str(port)):
        options = {"endpoint_url": url, "token": "anon", "project": "tests"}
        yield Cloud("gs", url, {"STORAGE_EMULATOR_HOST": url}, options)


S3 = pytest.param("s3", marks=pytest.mark.cloud)
AZURE = pytest.param("az", marks=[pytest.mark.cloud, pytest.mark.needs("azurite")])
CLOUDS = {"s3": run_s3, "az": run_azure, "gs": run_gcs}


@contextmanager
def run_clouds() -> Iterator[dict[str, Cloud]]:
    """Servers by protocol, started when first asked for."""
    with ExitStack() as stack:

        class Started(dict[str, Cloud]):
            def __missing__(self, protocol: str) -> Cloud:
                self[protocol] = stack.enter_context(CLOUDS[protocol]())
                return self[protocol]

        yield Started()


@dataclass(frozen=True)
class Proxy:
    url: str

    def faults(self) -> dict[str, int]:
        """How many faults of each kind were made."""
        with urllib.request.urlopen(f"{self.url}/.faults") as answer:
            counts: dict[str, int] = json.load(answer)
        return counts

    def order(self, **what: str | float) -> None:
        """Give an order, as `tests.fault_proxy` describes it."""
        data = json.dumps(what).encode()
        request = urllib.request.Request(f"{self.url}/.order", data=data, method="PUT")
        with urllib.request.urlopen(request):
            return


@contextmanager
def run_proxy(cloud: Cloud, seed: int | str) -> Iterator[Proxy]:
    port = free_port()
    command = (sys.executable, "-m", "tests.fault_proxy", str(port), cloud.endpoint, str(seed))
    with process(port, *command):
        yield Proxy(f"http://127.0.0.1:{port}")


def without_credentials() -> dict[str, str]:
    """An environment in which no cloud's usual chain finds anything."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_", "FSSPEC_"))
    }


@contextmanager
def found_here(cloud: Cloud) -> Iterator[None]:
    """Let clients of this process find a cloud, and no other."""
    kind = fsspec.get_filesystem_class(cloud.protocol)
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - without_credentials().keys():
            patch.delenv(name)
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
        kind.clear_instance_cache()
        yield
    kind.clear_instance_cache()

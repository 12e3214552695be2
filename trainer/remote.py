"""Checkpoints on S3: copies of what lies on disk, by boto3 (multipart, several connections at once).

    s3://BUCKET/PREFIX/step_00000300/...     as on disk (checkpoint.py); state.json is written last, and removed first

The endpoint and the keys are those of boto3's own environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import TrainerError

STATE, MARK = "state.json", "written-"


class Remote:
    """A prefix on S3 that checkpoints are copied to and fetched from. Every failure is a TrainerError that names it."""

    def __init__(self, url: str) -> None:
        match = re.fullmatch(r"s3:/+([^/]+)/*(.*?)/*", url)
        if match is None:
            raise TrainerError(f"{url}: write it as s3://BUCKET/PREFIX")
        self.bucket, self.prefix = match[1], match[2]
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise TrainerError(f"{url}: S3 needs boto3, which is not installed: pip install boto3") from None
        self._errors = (BotoCoreError, ClientError, boto3.exceptions.Boto3Error)
        with self._told(url):
            self._client: Any = boto3.session.Session().client("s3", config=Config(retries={"mode": "adaptive"}))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def checkpoints(self) -> list[str]:
        """The names of the complete checkpoints below the prefix, oldest first."""
        names = (key.split("/") for key, _ in self._list(""))
        return sorted(parts[0] for parts in names if len(parts) == 2 and parts[1] == STATE and parts[0].startswith("step_"))

    def put(self, file: BinaryIO, name: str) -> None:
        """Copy an open file there."""
        with self._told(name):
            self._client.upload_fileobj(file, self.bucket, self._key(name))

    def put_bytes(self, content: bytes, name: str) -> None:
        """Write a small object."""
        with self._told(name):
            self._client.put_object(Bucket=self.bucket, Key=self._key(name), Body=content)

    def finish(self, name: str, files: dict[str, bytes], count: int, patience: float = 1800) -> None:
        """Once all `count` processes have said that their files are there, write `files`, state.json as the last."""
        deadline = time.monotonic() + patience
        while len(marks := [key for key, _ in self._list(f"{name}/{MARK}")]) < count:
            if time.monotonic() > deadline:
                raise TrainerError(f"{self}/{name}: another process did not copy its part within {patience:.0f} s")
            time.sleep(0.2)
        for file in sorted(files, key=lambda file: file == STATE):
            self.put_bytes(files[file], f"{name}/{file}")
        for key in marks:
            self._delete(key)

    def remove(self, name: str) -> None:
        """Remove a checkpoint; what is left of it meanwhile is not taken for one."""
        for key, _ in sorted(self._list(f"{name}/"), key=lambda found: not found[0].endswith(f"/{STATE}")):
            self._delete(key)

    def set_aside(self, step_name: str) -> str | None:
        """Move checkpoints of later steps to `left-N` (copied by the server itself). Returns its name, if there are any."""
        later = sorted({key.split("/")[0] for key, _ in self._list("step_") if key.split("/")[0] > step_name})
        if not later:
            return None
        taken = {key.split("/")[0] for key, _ in self._list("left-")}
        left = next(name for number in range(1, len(taken) + 2) if (name := f"left-{number}") not in taken)
        for name in later:
            with self._told(name):
                for key, _ in self._list(f"{name}/"):
                    source = {"Bucket": self.bucket, "Key": self._key(key)}
                    self._client.copy(source, self.bucket, self._key(f"{left}/{key}"))
            self.remove(name)
        return left

    def fetch(self, name: str, cache: Path) -> Path:
        """A checkpoint on this machine's disk: fetched once, by one of its processes; the others wait for it."""
        with self._told(name):
            state = self._client.get_object(Bucket=self.bucket, Key=self._key(f"{name}/{STATE}"))["Body"].read()
        where = cache / "checkpoints" / hashlib.sha256(f"{self}/{name}".encode() + state).hexdigest()[:16]
        where.mkdir(parents=True, exist_ok=True)
        final, part = where / Path(name).name, where / ".part"
        with _locked(where / ".lock"):
            if final.is_dir():
                return final
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            with self._told(name):
                for key, size in self._list(f"{name}/"):
                    file = part / key.removeprefix(f"{name}/")
                    self._client.download_file(self.bucket, self._key(key), str(file))
                    if file.stat().st_size != size:
                        raise TrainerError(f"{self}/{key}: changed while it was fetched; try again")
            part.rename(final)
        return final

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _list(self, begin: str) -> list[tuple[str, int]]:
        """(name below the prefix, bytes) of all objects whose name begins so."""
        with self._told(begin):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(begin))
            cut = len(self.prefix) + 1 if self.prefix else 0
            return [(found["Key"][cut:], found["Size"]) for page in pages for found in page.get("Contents", [])]

    def _delete(self, name: str) -> None:
        with self._told(name):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(name))

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise TrainerError(f"s3://{self.bucket}/{self._key(name)}: {' '.join(str(error).split())}") from None


def is_remote(path: object) -> bool:
    """Whether a path means S3 (a Path has swallowed one of the slashes)."""
    return re.match(r"s3:/", str(path)) is not None


def find(url: str) -> Path:
    """The checkpoint that s3://BUCKET/PREFIX[/step_X] means, the newest below a training's prefix, fetched to this machine
    (below HEADRACE_CACHE, or ~/.cache/headrace)."""
    remote = Remote(url)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("HEADRACE_CACHE") or base / "headrace")
    head, _, last = remote.prefix.rpartition("/")
    if re.fullmatch(r"step_\d+", last):
        remote.prefix = head
        return remote.fetch(last, cache)
    for inner in ("", "/checkpoints"):
        remote.prefix = remote.prefix + inner
        if names := remote.checkpoints():
            return remote.fetch(names[-1], cache)
    raise TrainerError(f"{url}: no checkpoint there")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

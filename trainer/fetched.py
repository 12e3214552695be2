"""A run's tokens on S3 or on the Hugging Face hub, fetched to this machine once, below HEADRACE_CACHE (or ~/.cache/headrace).

Fetched are the manifest, the shards with their indexes and masks, and the tokenizer; not the parts. What was fetched is kept by
address and manifest, so a run that is made again is fetched again. Of several processes of a machine one fetches.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stages.tokens.shard_format import MANIFEST, sha256_file
from trainer.loader.files import DataError

FOLDERS = ("tokens/", "tokenizer/")
BESIDE = ("pairs.json", "mixture.json", "import.json")
_ADDRESS = re.compile(r"([a-z0-9]+):/+(.+?)/*")
_DATASET = re.compile(r"datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?")


class _Place(Protocol):
    def files(self, folder: str) -> list[tuple[str, int]]:
        """(name below the run's folder, bytes) of the files that lie in a folder of it."""
        ...

    def download(self, name: str, file: Path) -> None: ...


@dataclass
class _S3:
    client: Any
    bucket: str
    prefix: str

    def files(self, folder: str) -> list[tuple[str, int]]:
        begin = f"{self.prefix}{folder}"
        options = {"Bucket": self.bucket, "Prefix": begin, "Delimiter": "" if folder else "/"}
        pages = self.client.get_paginator("list_objects_v2").paginate(**options)
        return [(one["Key"][len(self.prefix) :], one["Size"]) for page in pages for one in page.get("Contents", [])]

    def download(self, name: str, file: Path) -> None:
        self.client.download_file(self.bucket, self.prefix + name, str(file))


@dataclass
class _Hub:
    api: Any
    repository: str
    revision: str | None
    prefix: str

    def files(self, folder: str) -> list[tuple[str, int]]:
        inside = f"{self.prefix}{folder}".rstrip("/") or None
        options = {"repo_type": "dataset", "revision": self.revision, "recursive": bool(folder)}
        found = self.api.list_repo_tree(self.repository, inside, **options)
        return [(one.path[len(self.prefix) :], one.size) for one in found if hasattr(one, "size")]

    def download(self, name: str, file: Path) -> None:
        options = {"repo_type": "dataset", "revision": self.revision}
        there = Path(self.api.hf_hub_download(self.repository, self.prefix + name, local_dir=file.parent / ".hub", **options))
        there.rename(file)


def is_elsewhere(run: str | Path) -> bool:
    """Whether a run is named by an address and not by a folder; a Path has swallowed one of its slashes."""
    return _ADDRESS.fullmatch(str(run)) is not None


def fetched(run: str | Path) -> Path:
    """The folder on this machine that holds a run's tokens; fetched, where it was not. Raises DataError."""
    run = _ADDRESS.sub(r"\1://\2", str(run))
    with _told(run):
        place = _place_of(run)
        names = [(name, size) for name, size in place.files("") if name in (MANIFEST, *BESIDE)]
        if MANIFEST not in dict(names):
            raise DataError(f"{run}: there is no {MANIFEST}; name the folder of a finished run")
        where = _cache() / "data" / hashlib.sha256(run.encode()).hexdigest()[:16]
        where.mkdir(parents=True, exist_ok=True)
        with (where / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            manifest = _manifest(place, where)
            folder = where / hashlib.sha256(manifest).hexdigest()[:16]
            if not (folder / MANIFEST).exists():
                listed = [one for one in names if one[0] != MANIFEST]
                listed += [one for inner in FOLDERS for one in place.files(inner)]
                _fetch(place, folder, listed, _digests(json.loads(manifest)), run)
                (folder / MANIFEST).write_bytes(manifest)  # last: a folder with it is whole
    return folder


def _manifest(place: _Place, where: Path) -> bytes:
    place.download(MANIFEST, where / MANIFEST)
    return (where / MANIFEST).read_bytes()


def _fetch(place: _Place, folder: Path, listed: list[tuple[str, int]], digests: dict[str, str], run: str) -> None:
    for name, size in listed:
        file = folder / name
        if file.exists() and file.stat().st_size == size:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        place.download(name, part)
        if part.stat().st_size != size or sha256_file(part) != digests.get(name, sha256_file(part)):
            raise DataError(f"{run}/{name}: is not what its manifest says; it was changed, or damaged on the way: try again")
        part.rename(file)


def _digests(value: Any) -> dict[str, str]:
    """path -> sha256 of all files that a manifest names with one."""
    found: dict[str, str] = {}
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and isinstance(value.get("sha256"), str):
            found[value["path"]] = value["sha256"]
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        found |= _digests(inner)
    return found


def _place_of(run: str) -> _Place:
    scheme, rest = _ADDRESS.fullmatch(run).groups()  # type: ignore[union-attr]
    if scheme == "s3":
        import boto3

        bucket, _, prefix = rest.partition("/")
        return _S3(boto3.session.Session().client("s3"), bucket, f"{prefix}/" if prefix else "")
    if scheme != "hf":
        raise DataError(
            f"{run}: training reads local files, s3:// and hf://; bring it here with "
            f"`python -m pipeline mix {scheme}://... --files copy --out DIR`"
        )
    from huggingface_hub import HfApi

    match = _DATASET.fullmatch(rest)
    if match is None:
        raise DataError(f"{run}: write it as hf://datasets/ORG/NAME[@REVISION][/PATH]")
    return _Hub(HfApi(os.environ.get("HF_ENDPOINT")), match[1], match[2], f"{match[3]}/" if match[3] else "")


@contextlib.contextmanager
def _told(run: str) -> Iterator[None]:
    """Failures of the libraries as one sentence with the address."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("boto3", "botocore", "huggingface_hub", "httpx", "requests"):
            raise
        raise DataError(f"{run}: {' '.join(str(error).split())[:300]}") from None


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("HEADRACE_CACHE") or base / "headrace")

"""Finds the module that serves a URI. Modules load on first use: a local run imports neither boto3 nor the hub."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from pipeline.storage.entry import Backend, Remote, Writable
from pipeline.storage.errors import StorageError, shown
from pipeline.storage.uri import scheme

_MODULES = {"file": "local", "s3": "s3", "gs": "cloud", "az": "cloud", "http": "http", "https": "http", "hf": "hub"}


def backend(uri: str) -> Backend:
    return cast(Backend, import_module(f"pipeline.storage.{_MODULES[scheme(uri)]}"))


def remote(uri: str) -> Remote:
    """The module for a URI that is known not to be local."""
    return cast(Remote, backend(uri))


def writable(uri: str) -> Writable:
    """The module for a URI to write to; StorageError where nothing can be written."""
    if scheme(uri) in ("http", "https", "hf"):
        raise StorageError(
            f"{shown(uri)}: nothing can be written there; name a local folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
        )
    return cast(Writable, backend(uri))

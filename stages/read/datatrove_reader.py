"""Reads a file by one of datatrove's readers of files, or one built as these are: `read: {format: datatrove, options: ...}`.

The reader gets the file as Headrace opened it, so it reads the version that was listed, from wherever Headrace reads.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem

from stages.errors import UserError
from stages.user_code import load

HOME = "datatrove.pipeline.readers"
OURS = ("data_folder", "paths_file", "recursive", "glob_pattern", "shuffle_files", "file_progress", "doc_progress")


def read(stream: BinaryIO, file: str, block: str, **args: Any) -> Iterator[dict[str, Any]]:
    """The documents of a file: text, id, and all of their metadata.

    block: a class of datatrove.pipeline.readers, or `package.module:Class`. args: its own, but for those that say which files
    are read; an `adapter` is named by its import path. Raises UserError where there is no such reader, or it takes others.
    """
    for document in _made(block, args, stream).read_file(file.rsplit("/", 1)[-1]):
        yield {**document.metadata, "text": document.text, "id": document.id}


def _made(block: str, args: dict[str, Any], stream: BinaryIO) -> Any:
    from datatrove.pipeline.readers.base import BaseDiskReader

    home = importlib.import_module(HOME)
    kind = load(block) if ":" in block else getattr(home, block, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseDiskReader)):
        known = [name for name, value in vars(home).items() if isinstance(value, type) and issubclass(value, BaseDiskReader)]
        raise UserError(
            f"read.options.block = {block}: no reader of files; there are {', '.join(sorted(known))}, "
            "or name a class of your own as package.module:Class"
        )
    if taken := [name for name in OURS if name in args]:
        raise UserError(f"read.options.{taken[0]}: which files are read, and by whom, is said by read.paths")
    args = dict(args)
    if isinstance(args.get("adapter"), str):
        args["adapter"] = load(args["adapter"])
    try:
        kind_: Any = kind
        made = kind_(data_folder=_folder(stream), **args)
    except ImportError as error:
        raise UserError(f"datatrove's {block} needs a package more: {error}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"read.options of {block}: {error}; it takes {inspect.signature(kind)}") from None
    made.add_file_path = False  # documents of Headrace name their file by themselves
    return made


class _OneFile(AbstractFileSystem):
    """A file system in which any name is the one file that is open."""

    cachable = False

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self.stream = stream

    def _open(self, *_: Any, **__: Any) -> Any:
        return self.stream


def _folder(stream: BinaryIO) -> Any:
    from datatrove.io import DataFolder

    return DataFolder("/", fs=_OneFile(stream))

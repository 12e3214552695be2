"""The process that parses pages: `python -m stages.extract.child COMMANDS RESULTS PAGES SETTINGS` (three file numbers).

It imports little, starts once a worker process, and may hang, crash or run out of memory: its supervisor
(stages/extract/supervisor.py) sees at which page, and starts another.

Commands (a pipe): int64 length, then marshal of (size of the pages file, [(start, stop, charset), ...]).
Pages (shared memory): the bytes that starts and stops index.
Results (a pipe), in the order of the pages: int64 status (0 text, 1 exception), int64 replaced characters of the page,
int64 length, bytes: UTF-8 text, or marshal of (cause in one line, traceback). One result with length 0 comes first, when
the process is ready.
"""

from __future__ import annotations

import faulthandler
import json
import marshal
import mmap
import os
import resource
import select
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from stages.charset import as_dclm, decode

Extractor = Callable[[str], str]


def load_engine(engine: str, options: dict[str, Any]) -> Extractor:
    """What makes text of HTML: Resiliparse with these options, or a function of the user's, named "module:function"."""
    if engine == "resiliparse":
        from resiliparse.extract.html2text import extract_plain_text

        return lambda html: extract_plain_text(html, **options)
    module, _, name = engine.partition(":")
    function: Any = import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    return function


def main(commands: int, results: int, pages: int, settings: dict[str, Any]) -> None:
    """Answer commands until the supervisor closes their pipe."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when to stop
    threading.Thread(target=_end_with_parent, args=(commands,), daemon=True).start()
    if settings["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"], settings["memory_bytes"]))
    extract = load_engine(settings["engine"], settings["options"])
    seconds = settings["page_seconds"]
    text_of = decode if settings["charset"] == "declared" else as_dclm
    _write(results, struct.pack("<qqq", 0, 0, 0))
    view, mapped = memoryview(b""), 0
    while True:
        size, entries = marshal.loads(_read(commands, struct.unpack("<q", _read(commands, 8))[0]))
        if size != mapped:
            view, mapped = memoryview(mmap.mmap(pages, size, access=mmap.ACCESS_READ)), size
        for start, stop, charset in entries:
            # Unhandled on purpose: it ends the process when the page has used up its CPU time, wherever that hangs.
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                page = text_of(bytes(view[start:stop]), charset)
                text = extract(page.text)
                if text is None:
                    text = ""
                if not isinstance(text, str):
                    raise TypeError(f"the engine returned {type(text).__name__}, not str")
                status, replaced, answer = 0, page.replaced, text.encode("utf-8", "replace")
            except Exception as error:
                status, replaced, answer = (
                    1,
                    0,
                    marshal.dumps((f"{type(error).__name__}: {error}", traceback.format_exc())),
                )
            signal.setitimer(signal.ITIMER_PROF, 0)
            _write(results, struct.pack("<qqq", status, replaced, len(answer)) + answer)


def _end_with_parent(commands: int) -> None:
    """Wait until nobody can write commands any more, and end, whatever the main thread does then."""
    poll = select.poll()
    poll.register(commands, 0)
    poll.poll()
    os._exit(0)


def _read(file: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(file, size)
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))

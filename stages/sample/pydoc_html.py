"""Write pydoc's HTML page of each standard library module on the command line to standard output, a JSON line each.

Run as a script in a process of its own (`python -P -s -S`, PYTHONHASHSEED=0), for pydoc imports what it documents.
What differs between machines or runs is left out: values of module data, places of files, memory addresses.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pydoc
import re
import sys
import warnings
from pathlib import PurePath
from typing import Any

_ADDRESS = re.compile(r"(?:&nbsp;| )at(?:&nbsp;| )0x[0-9a-fA-F]{6,}")
_FOLDER = re.compile(r"(?:file:)?(?:/[\w.+-]+)*/lib(?:64)?/python3[\d.]*")


class ModulePage(pydoc.HTMLDoc):
    """pydoc's own pages, without what is of this machine or this moment."""

    def docother(self, object: Any, name: str | None = None, mod: str | None = None, *ignored: Any) -> str:
        """A datum by its name alone: values such as os.environ are not for publishing."""
        return f"<strong>{self.escape(name or '')}</strong>" if name else ""

    def preformat(self, text: str) -> str:
        """Docstrings with plain spaces, where pydoc puts a non-breaking space for each."""
        return self.escape(text.expandtabs()).replace("\n", "<br>\n")

    def filelink(self, url: str, path: str) -> str:
        """The source's file name, without the folder where this Python is installed."""
        return PurePath(path).name


def module_page(name: str) -> tuple[str, str]:
    """Title and HTML body of a module's page. Raises what importing or documenting the module raises."""
    module = importlib.import_module(name)
    body = ModulePage().docmodule(module, name)
    return f"Python module {name}", _FOLDER.sub("Lib", _ADDRESS.sub("", body))


def main() -> None:
    """Modules that cannot be imported here are passed over: a Python may be built without them."""
    warnings.simplefilter("ignore")
    out = sys.stdout.buffer
    for name in sys.argv[1:]:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                title, body = module_page(name)
            except Exception:
                continue
        row = {"module": name, "title": title, "body": body}
        out.write(json.dumps(row, ensure_ascii=True).encode() + b"\n")


if __name__ == "__main__":
    main()

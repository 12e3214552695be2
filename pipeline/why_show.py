"""How `why` prints what it found: a head, a table of steps with measures beside limits, and the edits as diffs."""

from __future__ import annotations

from typing import Any

from rich.console import Console, JustifyMethod
from rich.text import Text

from pipeline.summary import plain_table
from stages.units import show_bytes

STYLES = {"dropped": "bold red", "failed": "bold red", "not reached": "dim", "passed": ""}


def show_why(found: dict[str, Any], console: Console) -> None:
    """Print what `why` returned."""
    for document in found["documents"]:
        _document(document, console)
    if found["found"] > len(found["documents"]):
        console.print(f"{found['found']} documents answer to this; the first {len(found['documents'])} are shown")


def _document(d: dict[str, Any], console: Console) -> None:
    console.rule(Text(f"{d['id']} ({d['source']})"), align="left")
    place = f"{d['file']}, record {d['record']}" + (f", byte {d['offset']}" if d["offset"] is not None else "")
    _line(console, f"read from {place}" + (f"; {d['url']}" if d["url"] else ""))
    _line(console, _outcome(d), "bold")
    table = plain_table("")
    columns: tuple[tuple[str, JustifyMethod], ...] = (
        ("step", "left"),
        ("", "left"),
        ("measure", "left"),
        ("value", "right"),
        ("limit", "left"),
    )
    for heading, justify in columns:
        table.add_column(heading, justify=justify)
    for step in d["steps"]:
        style = STYLES[step["verdict"]]
        first = [Text(step["step"], style), Text(step["verdict"], style)]
        for m in step["measures"] or [None]:
            cells = [Text(""), Text(""), Text("")] if m is None else _cells(m)
            table.add_row(*first, *cells)
            first = [Text(""), Text("")]
    console.print(table)
    if d["measures_note"]:
        _line(console, d["measures_note"])
    for edit in d["edits"]:
        sizes = f"{show_bytes(edit['bytes_before'])} -> {show_bytes(edit['bytes_after'])}"
        if edit["diff"] is None:
            _line(console, f"{edit['step']}: {sizes} (a page became text)")
        elif not edit["diff"]:
            _line(console, f"{edit['step']}: nothing changed")
        else:
            _line(console, f"{edit['step']}: {sizes}")
            for line in edit["diff"].split("\n"):
                style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
                console.print(Text(f"  {line}", style), soft_wrap=True)
    if d["edits_note"]:
        _line(console, d["edits_note"])
    if d["traceback"]:
        _line(console, d["traceback"])


def _cells(m: dict[str, Any]) -> list[Text]:
    outside = "" if m["passes"] else "  <- outside"
    style = "" if m["passes"] else "bold red"
    return [Text(c, style) for c in (m["name"], show_value(m["value"]), show_limit(m["limit"]) + outside)]


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True)


def _outcome(d: dict[str, Any]) -> str:
    if d["outcome"] == "failed":
        return f"failed: {d['error']}"
    if d["outcome"] == "duplicate":
        copy = f"; the copy that stays is {d['representative']}" if d["representative"] else ""
        return f"removed as a copy: {d['reason']}{copy}"
    if d["outcome"] == "dropped":
        return f"dropped: {d['reason']}"
    shard = d["shard"]
    if shard is None:
        return "kept"
    split = ", held out from training" if shard["split"] == "held_out" else ""
    return f"kept: {shard['path']}, tokens {shard['first_token']:,} to {shard['end_token']:,}{split}"


def show_value(value: Any) -> str:
    """A measure as people read it; not measured is a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show_limit(limit: dict[str, Any] | None) -> str:
    """A limit as the recipe could write it."""
    if limit is None:
        return ""
    if "keep" in limit:
        return "one of " + ", ".join(limit["keep"])
    sides = [(side, limit[side]) for side in ("min", "max") if limit[side] is not None]
    return ", ".join(f"{side} {show_value(float(bound))}" for side, bound in sides) or "none"

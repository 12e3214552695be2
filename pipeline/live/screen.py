"""A run on one screen of a terminal: what is left first, whole within 80 columns."""

from __future__ import annotations

import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.live.look import Now, Source, Watch
from pipeline.tables import plain_table
from pipeline.terminal import printable_all
from stages.units import show_count, show_seconds

SECONDS = 1.0  # between two looks, or ten times what one takes
ALL = 1_000_000  # rows


def watch(run: str, console: Console) -> int:
    """Show a run until it is finished or stopped, or Ctrl-C. Returns the exit status: 1 where it stopped unfinished.

    Where there is no terminal, a line is printed whenever something has changed, and the screen once at the end.
    """
    looker, told = Watch(run), ""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            now = printable_all(looker.look())
            if console.is_terminal:
                live.update(screen(now, console), refresh=True)
            elif now.standing and (line := "  ".join(now.standing.words())) != told:
                told = line
                print(line, file=sys.stderr, flush=True)
            if now.state != "running":
                break
            time.sleep(max(SECONDS, 10 * (time.monotonic() - began)))
        if not console.is_terminal:
            console.print(screen(now, console))
    return 0 if now.state == "finished" else 1


def screen(now: Now, console: Console) -> Group:
    """What is shown of a moment, in no more lines than the terminal has; elsewhere all of it."""
    rows = console.height if console.is_terminal else ALL
    while True:
        whole = _screen(now, rows)
        if rows <= 2 or len(console.render_lines(whole, pad=False)) < console.height or not console.is_terminal:
            return whole
        rows -= 1


def _screen(now: Now, rows: int) -> Group:
    """The same with so many rows of sources and reasons at most."""
    shown = now.sources[: max(1, rows * 2 // 3)]
    reasons = _reasons(now.sources)[: max(1, rows - len(shown))]
    parts: list[Text | ProgressBar | Table] = [*_head(now), _sources(shown, len(now.sources) - len(shown), now.sources)]
    if reasons:
        parts.append(_dropped(reasons))
    if now.failed:
        parts.append(Text(f"attempts at {now.failed:,} tasks failed: {now.run}/logs/failed", style="red", overflow="fold"))
    return Group(*parts)


def _head(now: Now) -> list[Text | ProgressBar | Table]:
    took = "" if now.seconds is None else f" after {show_seconds(now.seconds)}"
    if now.state == "finished":
        return [Text(f"finished{took}: {now.run}", overflow="fold")]
    standing = now.standing
    if standing is None or now.state == "stopped":
        place = f", in {standing.place()}" if standing else ""
        state = f"stopped{took}{place}" if now.state == "stopped" else "running; nothing is told yet"
        more = "; the same `run` command goes on from there" if now.state == "stopped" else ""
        return [Text(f"{state}{more}: {now.run}", overflow="fold")]
    left = "how long it takes is not known yet" if standing.left is None else f"{standing.time_left()}"
    elapsed = f"; {show_seconds(now.seconds)} elapsed" if now.seconds is not None else ""
    counts = [f"{standing.done:,}/{standing.tasks:,} tasks", standing.rate()]
    counts += [f"{standing.failed} failed"] if standing.failed else []
    counts += [f"{standing.tried_again} tried again"] if standing.tried_again else []
    number = f"phase {standing.number} of {standing.phases}: " if standing.phases else ""
    bar = Table.grid(padding=(0, 2, 0, 0))
    bar.add_row(ProgressBar(max(standing.tasks, 1), standing.done, width=24), "  ".join(part for part in counts if part))
    return [Text(f"{left}{elapsed}", style="bold"), Text(f"{number}{standing.phase}", overflow="fold"), bar]


def _sources(sources: list[Source], others: int, every: list[Source]) -> Table:
    table = plain_table("", "source<", "read", "left", "dropped", "failed", "tokens")
    for one in sources:
        table.add_row(one.name, *_figures([one]))
    table.add_section()
    table.add_row(f"all ({others} more)" if others else "all", *_figures(every))
    return table


def _figures(sources: list[Source]) -> list[str]:
    names = ("read", "left", "dropped", "failed", "tokens")
    return [show_count(sum(getattr(one, name) for one in sources)) for name in names]


def _reasons(sources: list[Source]) -> list[tuple[str, str, int, int]]:
    """(source, reason, documents, documents read), most first."""
    found = [(one.name, reason, count, one.read) for one in sources for reason, count in one.reasons.items()]
    return sorted(found, key=lambda row: -row[2])


def _dropped(reasons: list[tuple[str, str, int, int]]) -> Table:
    table = plain_table("", "dropped most by~", "source<", "documents", "share")
    for source, reason, count, read in reasons:
        table.add_row(reason, source, f"{count:,}", f"{count / max(read, 1):.1%}")
    return table

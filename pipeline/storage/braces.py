"""The names that a pattern with braces stands for: `part-{a,b}` is `part-a` and `part-b`, as in a shell."""

from __future__ import annotations

from pipeline.storage.errors import StorageError, shown

MOST = 10_000


def alternatives(pattern: str) -> list[str]:
    """All names that the pattern stands for, in its order; braces may be nested. [pattern] where it has no alternatives.

    Braces without a comma, or without their other half, stand for themselves; so do those in [...]. Raises StorageError for
    more than `MOST` names.
    """
    found = [""]
    at = 0
    while at < len(pattern):
        stop, choices = _group(pattern, at)
        if choices is None:
            found = [head + pattern[at:stop] for head in found]
        else:
            ends = [end for choice in choices for end in alternatives(choice)]
            found = [head + end for head in found for end in ends]
        if len(found) > MOST:
            raise StorageError(f"{shown(pattern)} stands for more than {MOST:,} names")
        at = stop
    return found


def _group(pattern: str, at: int) -> tuple[int, list[str] | None]:
    """What stands at a place: where it ends, and its alternatives; None for characters that stand for themselves."""
    if pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
        return end + 1, None
    if pattern[at] != "{":
        return at + 1, None
    depth, begin, choices = 0, at + 1, []
    for i in range(at, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[i], 0)
        if (pattern[i] == "," and depth == 1) or depth == 0:
            choices.append(pattern[begin:i])
            begin = i + 1
        if depth == 0:
            return i + 1, choices if len(choices) > 1 else None
    return at + 1, None

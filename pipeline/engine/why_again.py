"""Why a task that ran before runs again, in words: what differs between the key of then and the key of now."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.ledger import Entry
from pipeline.plan.node import Node

MANY = 2  # changes that are named; the others are counted


def why_again(earlier: Entry, basis: Mapping[str, str] | None, node: Node) -> str:
    """What changed since `earlier`, whose key was made with the components `basis`; the node has the same Ref."""
    if earlier.key == node.key:
        return "what they wrote is missing"
    if basis is None:
        return "what they were made by is not on record"
    ours = node.made_of.components
    changed = sorted(name for name in basis.keys() | ours.keys() if basis.get(name) != ours.get(name))
    if not changed:
        return "what they read changed"
    words = list(dict.fromkeys(_words(name, basis.get(name), ours.get(name)) for name in changed))
    more = f" (and {len(words) - MANY} more)" if len(words) > MANY else ""
    return ", ".join(words[:MANY]) + more


def _words(component: str, before: str | None, now: str | None) -> str:
    """A component of a key as people name it: `step 03 repetition: code` -> the code of `repetition` changed."""
    kind, _, name = component.partition(" ")
    if kind == "step":
        step, _, part = name.partition(" ")[2].partition(": ")
        if before is None or now is None:
            return f"the step `{step}` {'is new' if before is None else 'was removed'}, or is in another place"
        return f"the {part} of `{step}` changed"
    if kind == "code":
        return f"the code of {name} changed"
    if kind == "library":
        return f"{name} is {now or 'not used'} and was {before or 'not used'}"
    return f"`{name}` changed"

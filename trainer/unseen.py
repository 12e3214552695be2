"""Whether held-out documents were kept from a training: what the data says of near copies, and whose data it is."""

from __future__ import annotations

from typing import Any

from trainer.loader.data import Data


def notes_on_held_out(trained_on: dict[str, Any], data: Data, place: str, started: bool) -> list[str]:
    """Sentences on how far the held-out documents of `data`, at `place`, are text that the model never saw.

    trained_on: what the checkpoint says of its data (`TokenSource.identity`). started: its weights are those of an earlier
    training, on data that it says nothing of.
    """
    notes = [_own(data) if of_training(trained_on, data) else _foreign(trained_on, data, place)]
    if started:
        notes.append("the training began with the weights of another one (start_from), which may have seen these documents")
    return notes


def of_training(trained_on: dict[str, Any], data: Data) -> bool:
    """Whether this is the data that the checkpoint was trained on."""
    return trained_on.get("fingerprint") == data.fingerprint


def _own(data: Data) -> str:
    found = data.held_out_facts.get("near")
    if found is None:
        return "near copies of held-out documents in training were not looked for (shards.near_held_out, in a run's recipe)"
    named = [f"{source} {one['documents']:,} ({one['tokens']:,} tokens)" for source, one in found.items() if one["documents"]]
    what = "were left out of training" if data.held_out_facts.get("near_copies") == "drop" else "were trained on"
    if not named:
        return "no training document is a near copy of a held-out one"
    return f"training documents that are near copies of held-out ones {what}: {', '.join(named)}"


def _foreign(trained_on: dict[str, Any], data: Data, place: str) -> str:
    theirs, ours = trained_on.get("held_out"), _rule(data.held_out_facts)
    begin = f"{place} is not the data that the checkpoint was trained on"
    if theirs and ours and theirs["salt"] == ours["salt"] and theirs["share"] >= ours["share"]:
        return (
            f"{begin}; both hold out documents by one rule (salt {ours['salt']!r}), so these were not trained on, but near "
            "copies of them may have been"
        )
    why = "the checkpoint does not say what it held out" if not theirs else "another rule chose what it held out"
    if theirs and ours and theirs["salt"] == ours["salt"]:
        why = f"of its own it held out a share of {theirs['share']:g}, here it is {ours['share']:g}"
    elif theirs and not ours:
        why = "the data does not say by which rule it holds out"
    return f"{begin}: held-out documents may have been trained on ({why})"


def _rule(facts: dict[str, Any]) -> dict[str, Any] | None:
    return {name: facts[name] for name in ("share", "salt")} if {"share", "salt"} <= facts.keys() else None


def held_out_rule(data: Data) -> dict[str, Any] | None:
    """The share and the salt by which the data's documents are held out; None where it does not say."""
    return _rule(data.held_out_facts)

"""Answers as commands print them with --json."""

from __future__ import annotations

from typing import Any

import msgspec


def as_json(answer: object) -> Any:
    """The JSON values of an answer."""
    return msgspec.json.decode(msgspec.json.encode(answer))

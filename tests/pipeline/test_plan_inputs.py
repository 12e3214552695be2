"""What a run needs late is looked up before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers

from pipeline.plan.inputs import named_versions
from pipeline.recipe.recipe import build_recipe
from stages.errors import UserError


def check(tokenizer: dict[str, Any]) -> None:
    read = {"read": {"paths": ["nowhere.jsonl"]}}
    named_versions(build_recipe({"name": "a", "sources": {"a": read}, "tokenizer": tokenizer, "mixture": {}}))


def test_a_tokenizer_is_read_before_anything_is_done(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match=r"tokenizer\.path: .*tokenizer\.json"):
        check({"path": str(path)})
    path.write_text('{"model": 5}')
    with pytest.raises(UserError, match=r"tokenizer\.path: .* is no tokenizer\.json that `tokenizers` can load"):
        check({"path": str(path)})
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "<end>": 1}, unk_token="a"))
    words.save(str(path))
    with pytest.raises(UserError, match="by the key `eos_token`"):
        check({"path": str(path)})
    with pytest.raises(UserError, match="has no token '<pad>', which `pad_token` names"):
        check({"path": str(path), "eos_token": "<end>", "pad_token": "<pad>"})
    check({"path": str(path), "eos_token": "<end>"})

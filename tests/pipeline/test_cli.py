"""Arguments as people type them: several keys after one `--set`, flags and names in any order."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main

RECIPE = str(Path(__file__).resolve().parents[2] / "configs" / "dclm_mix.yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        [RECIPE, "--set", "name=other", "run.nonsense=1"],
        ["--set", "name=other", "run.nonsense=1", RECIPE],
        ["--set=name=other", "run.nonsense=1", RECIPE],
        ["--set", "name=other", RECIPE, "--set", "run.nonsense=1", "--quiet"],
    ],
)
def test_each_key_after_set_is_set(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *arguments]) == 2
    assert "run.nonsense" in capsys.readouterr().err


def test_what_is_no_key_is_not_taken_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", RECIPE, "--set", "name=other", "runs/other"])
    assert "runs/other: unknown argument" in capsys.readouterr().err

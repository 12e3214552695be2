"""Checkpoints on a real S3 server: copied by each process, fetched once, gone on from by a machine that has none."""

from __future__ import annotations

import os
from pathlib import Path

import forked
import pytest
import yaml

from trainer import checkpoint, metrics, remote
from trainer.__main__ import main
from trainer.config import plain
from trainer.errors import TrainerError


@pytest.mark.parametrize(("url", "bucket", "prefix"), [("s3://b/c/d/", "b", "c/d"), ("s3:/b/c", "b", "c"), ("s3://b", "b", "")])
def test_addresses(url, bucket, prefix):
    assert remote.is_remote(url) and remote.is_remote(Path(url)) and not remote.is_remote("runs/s3")
    found = remote.Remote(url)
    assert (found.bucket, found.prefix) == (bucket, prefix)
    with pytest.raises(TrainerError, match="write it as"):
        remote.Remote("gs://b/c")


@pytest.fixture
def go(tmp_path, small_run, make_config, monkeypatch, capsys, s3):
    """Train with copies to S3; returns what was printed."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    config = make_config(evaluate={"instances": 1}, schedule={"tokens": 8 * 128}, checkpoint={"copy_to": s3.uri("run")})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(plain(config)))
    command = ["train", str(tmp_path / "c.yaml"), "--data", str(small_run), "--device", "cpu"]

    def run(out: str, steps: int, *more: str, expect: int = 0) -> str:
        capsys.readouterr()
        assert main([*command, "--out", str(tmp_path / out), *more, "--set", f"train.tokens={steps * 128}"]) == expect
        told = capsys.readouterr()
        return told.out + told.err

    run.command = command
    return run


def losses(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics.read(out / "metrics.jsonl") if line["kind"] == "step"}


def test_another_machine_goes_on_from_the_copy_to_the_bit(tmp_path, go, s3, capsys):
    go("one", 6)
    copies = remote.Remote(s3.uri("run"))
    assert copies.checkpoints() == ["step_00000004", "step_00000006"]  # as many as on disk
    go("whole", 8, "--set", "checkpoint.copy_to=null")
    assert "resuming from" in go("two", 8, "--resume")  # whose folder is empty
    assert losses(tmp_path / "two") == {step: losses(tmp_path / "whole")[step] for step in (7, 8)}
    name = "model-00000-of-00001.safetensors"
    ours, theirs = (tmp_path / out / "checkpoints" / "step_00000008" / name for out in ("two", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert main(["export", s3.uri("run", "step_00000008"), "--out", str(tmp_path / "hf")]) == 0
    assert main(["export", s3.uri("run"), "--out", str(tmp_path / "hf2")]) == 0
    assert "already holds" in go("three", 8, expect=2)  # nothing is written over
    # Going on from an older one keeps the newer copies.
    assert "later steps on S3 are of another history" in go("four", 7, "--resume", s3.uri("run", "step_00000006"))
    assert copies.checkpoints() == ["step_00000004", "step_00000006", "step_00000007"]
    assert {key.split("/")[1] for key, _ in copies._list("left-1/")} == {"step_00000008"}


def test_a_copy_that_fails_stops_training_and_the_disk_has_it(tmp_path, go, s3):
    told = go("one", 4, "--set", f"checkpoint.copy_to=s3://no-such-bucket-{os.getpid()}/run", expect=2)
    assert told.count("error: ") == 1 and "no-such-bucket" in told
    assert "no checkpoint there" in go("two", 4, "--resume", s3.uri("nothing"), expect=2)


def test_an_unfinished_copy_is_no_checkpoint_and_each_process_copies_its_part(tmp_path, go, s3):
    command = [*go.command, "--out", str(tmp_path / "out"), "--set", "train.tokens=256", "train.parallel=fsdp"]
    forked.run(tmp_path / "said", "-m", "trainer", *command, count=2)
    copies = remote.Remote(s3.uri("run"))
    objects = dict(copies._list("step_00000002/"))
    folder = checkpoint.latest(tmp_path / "out" / "checkpoints")
    assert objects == {f"{folder.name}/{path.name}": path.stat().st_size for path in folder.iterdir()}
    copies._delete("step_00000002/state.json")
    assert copies.checkpoints() == []

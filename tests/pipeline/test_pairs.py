"""`python -m pipeline pairs`: what becomes of each record, in files as users meet it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import token_runs
import zstandard

from pipeline.cli import main
from pipeline.pairs.chat import OLMOE, ChatTemplate, TemplateError
from stages.tokens.shard_format import load_manifest, read_index
from stages.tokens.tokenizer import EncodeRules, load_tokenizer

EOS = "<|endoftext|>"


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory) -> Path:
    return token_runs.train(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture
def make(tmp_path, tokenizer_file, capsys):
    """Write records, make pairs of them, and return the exit status, what was printed, and the folder."""

    def made(records, *flags, name="in.jsonl", out="out"):
        file = tmp_path / name
        if records is not None:
            lines = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
            file.write_text(lines)
        flags = ("--held-out", "0", *flags)
        status = main(["pairs", str(file), "--tokenizer", str(tokenizer_file), "--out", str(tmp_path / out), *flags])
        printed = capsys.readouterr()
        return status, printed.out + printed.err, tmp_path / out

    return made


def facts(folder: Path) -> dict:
    return json.loads((folder / "pairs.json").read_text())


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def sequences(folder: Path, split: str = "train"):
    """(id, text, text of what is learned, the table's row) of each sequence, decoded."""
    manifest = load_manifest(folder)
    tokenizer = load_tokenizer(folder / "tokenizer" / "tokenizer.json", engine="tokenizers")
    entry = manifest["sources"]["pairs"]
    found = []
    for shard in (entry if split == "train" else entry["held_out"])["shards"]:
        tokens = np.fromfile(folder / shard["path"], manifest["dtype"])
        mask = np.fromfile(folder / shard["mask"], np.uint8).astype(bool)
        table = np.fromfile(folder / shard["pairs"], "<i8").reshape(-1, 4)
        assert len(mask) == len(tokens)
        for row, document in zip(table.tolist(), read_index(folder / shard["index"]), strict=True):
            assert row[:2] == [document.start, document.end]
            part, learned = tokens[row[0] : row[1]], mask[row[0] : row[1]]
            found.append((document.id, tokenizer.decode(part), tokenizer.decode(part[learned]), row))
    return found


def test_a_prompt_with_an_answer_in_olmoes_chat_form(make) -> None:
    status, printed, folder = make([{"id": "a", "prompt": "What turns?", "answer": "The wheel."}])
    assert status == 0, printed
    ((name, text, learned, row),) = sequences(folder)
    assert text == f"{EOS}<|user|>\nWhat turns?\n<|assistant|>\nThe wheel.{EOS}"
    assert (name, learned, row[2:]) == ("a", f"The wheel.{EOS}", [0, 0])
    assert "1 records read, 0 dropped" in printed


def test_conversations_have_a_mask_over_each_answer(make) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Nobody answers this."},
    ]
    _, _, folder = make([{"messages": messages}])
    ((_, text, learned, _),) = sequences(folder)
    assert text == (
        f"{EOS}<|system|>\nBe brief.\n<|user|>\nOne?\n<|assistant|>\n1{EOS}\n<|user|>\nTwo?\n<|assistant|>\n2{EOS}"
    )
    assert learned == f"1{EOS}2{EOS}"
    _, _, folder = make([{"messages": messages}], "--answers", "last", out="last")
    assert sequences(folder)[0][2] == f"2{EOS}"


def test_preferences_and_labels(make) -> None:
    records = [{"id": "p", "prompt": "Q", "chosen": "good", "rejected": "bad"}]
    talks = {
        k: [{"role": "user", "content": "Q2"}, {"role": "assistant", "content": k}] for k in ("chosen", "rejected")
    }
    _, _, folder = make([*records, {"id": "q", **talks}])
    assert facts(folder)["kind"] == "preferences"
    found = sequences(folder)
    assert [(name, learned, row[2:]) for name, _, learned, row in found] == [
        ("p#chosen", f"good{EOS}", [1, 0]),
        ("p#rejected", f"bad{EOS}", [2, 0]),
        ("q#chosen", f"chosen{EOS}", [1, 1]),
        ("q#rejected", f"rejected{EOS}", [2, 1]),
    ]
    labelled = [{"prompt": "Q", "answer": "A", "label": True}, {"prompt": "Q", "answer": "B", "label": False}]
    _, _, folder = make(labelled, out="labels")
    assert [row[2] for *_, row in sequences(folder)] == [3, 4]


def test_wrong_answers_are_those_to_other_prompts(make) -> None:
    answers = ["one", "one", "two", "two", "three"]
    records = [{"id": f"{i}", "prompt": f"prompt {i}", "answer": answer} for i, answer in enumerate(answers)]
    _, _, folder = make(records, "--wrong-answers")
    assert facts(folder)["kind"] == "preferences"
    found = [(name, learned.removesuffix(EOS)) for name, _, learned, _ in sequences(folder)]
    assert found == [
        *(("0#chosen", "one"), ("0#rejected", "two"), ("1#chosen", "one"), ("1#rejected", "two")),
        *(("2#chosen", "two"), ("2#rejected", "one"), ("3#chosen", "two"), ("3#rejected", "one")),
        *(("4#chosen", "three"), ("4#rejected", "two")),
    ]
    status, printed, _ = make(records[:2], "--wrong-answers", out="same")
    assert status == 2
    assert "of 2 records same_answers 2" in printed


GOOD = {"id": "good", "prompt": "What is it?", "answer": "It is this."}


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        ({"prompt": "", "answer": "x"}, "no_prompt"),
        ({"prompt": " \n", "answer": "x"}, "no_prompt"),
        ({"prompt": "x", "answer": ""}, "empty_answer"),
        ({"prompt": "x", "answer": " \t"}, "empty_answer"),
        ({"prompt": "x"}, "wrong_field"),
        ({"prompt": 3, "answer": "x"}, "wrong_field"),
        ("{not json", "bad_json"),
        ("[1, 2]", "bad_json"),
        (r'{"prompt": "half of a pair: \ud83d", "answer": "x"}', "bad_json"),
        ({"prompt": "x", "answer": "y", "more": json.loads("[" * 300 + "]" * 300)}, "bad_json"),
        (GOOD, "duplicate"),
        ({"prompt": "What is\nit?", "answer": "It  is this."}, "duplicate"),
        ({"prompt": "long " * 300, "answer": "x"}, "no_answer_left"),
        ({"prompt": "y", "answer": "x" * 3000 + EOS}, None),
    ],
)
def test_a_record_that_gives_no_pair_is_counted_by_its_rule(make, record, rule) -> None:
    status, printed, folder = make([GOOD, record], "--max-tokens", "100")
    assert status == 0, printed
    told = facts(folder)
    assert told["read"] == 2
    if rule is None:  # kept, but changed: and that is counted too
        assert told["changed"] == {"cut_answer": 1, "special_tokens_in_text": 1}
        assert len(sequences(folder)) == 2
        return
    assert told["dropped"] == {rule: 1}
    assert f"{rule}: 1; the first: " in printed
    assert "in.jsonl, record 2" in printed
    (line,) = lines_of(folder / "dropped.jsonl.gz")
    assert (line["record"], line["rule"]) == (2, rule)


def test_rules_of_conversations_and_preferences(make) -> None:
    user, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    bad = [
        ({"messages": [user]}, "no_answer"),
        ({"messages": [answer]}, "no_prompt"),
        ({"messages": [user, {"role": "assistant", "content": ""}]}, "empty_answer"),
        ({"messages": [user, {"role": "tool", "content": "x"}]}, "wrong_field"),
        ({"messages": "text"}, "wrong_field"),
    ]
    _, _, folder = make([{"messages": [user, answer]}, *(record for record, _ in bad)])
    rules = [rule for _, rule in bad]
    assert facts(folder)["dropped"] == {rule: rules.count(rule) for rule in sorted(set(rules))}
    good = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    _, _, folder = make([good, {"prompt": "Q", "chosen": "a", "rejected": "a"}], out="preferences")
    assert facts(folder)["dropped"] == {"same_answers": 1}


def test_a_field_that_is_null_is_not_a_field_that_is_missing(make) -> None:
    _, printed, _ = make([GOOD, {"prompt": None, "answer": "x"}, {"prompts": "y", "answer": "x"}])
    assert "wrong_field: 2; the first: " in printed and "record 2: prompt is null, not a text" in printed


def one_line(printed: str) -> str:
    """Without the breaks of lines, which hang on the length of the folder's name."""
    return " ".join(printed.split())


def test_two_answers_in_a_row_are_told_of(make) -> None:
    answer = {"role": "assistant", "content": "A"}
    user = {"role": "user", "content": "Q"}
    _, printed, folder = make([{"messages": [user, answer]}, {"messages": [user, answer, answer]}])
    assert facts(folder)["dropped"] == {"chat_template": 1}
    assert "record 2: the text before answer 2 is another once the answer is there, as two answers in a row" in one_line(printed)


def test_preferences_that_are_too_long_stay_answers_to_one_prompt(make) -> None:
    short = {"id": "short", "prompt": "Q", "chosen": "a", "rejected": "b"}
    alike = {"id": "alike", "prompt": "Q", "chosen": "word " * 300 + "yes", "rejected": "word " * 300 + "no"}
    _, printed, folder = make([short, alike], "--max-tokens", "100")
    assert facts(folder)["dropped"] == {"same_answers": 1}
    assert "record 2: alike once they are cut: more than 100 tokens" in printed
    long = {"id": "long", "prompt": "first " + "word " * 120 + "last", "chosen": "a", "rejected": "b " * 10}
    _, _, folder = make([short, long], "--max-tokens", "100", "--too-long", "cut_prompt", out="cut")
    (_, one, _, _), (_, other, _, _) = sequences(folder)[2:]
    assert one.split("<|assistant|>")[0] == other.split("<|assistant|>")[0]
    assert "first" not in one and "last" in one


def test_a_wrong_field_name_is_one_sentence(make) -> None:
    status, printed, folder = make([{"question": "Q", "answer": "A"}])
    assert status == 2
    assert "in.jsonl, record 1: there is no prompt; the record has question, answer" in printed
    assert not (folder / "manifest.json").exists()
    status, printed, folder = make([{"question": "Q", "answer": "A"}], "--prompt-field", "question")
    assert status == 0, printed
    assert "Q" in sequences(folder)[0][1]


def test_nothing_left_is_one_sentence(make) -> None:
    status, printed, _ = make([{"prompt": "Q", "answer": ""}])
    assert status == 2
    assert "no pair is left to train on: of 1 records empty_answer 1" in printed
    status, printed, _ = make([GOOD], "--held-out", "0.999999", out="held")
    assert status == 2
    assert "no pair is left to train on: 1 records were read; 1 are held out (--held-out 0.999999)" in printed


@pytest.mark.parametrize(("label", "told"), [(0, "a number"), ("good", "a text"), (None, "null")])
def test_a_label_that_is_not_true_or_false_is_not_learned_as_an_answer(make, label, told) -> None:
    records = [{"prompt": "Q", "answer": "bad", "label": label}, {"prompt": "R", "answer": "good", "label": True}]
    status, printed, folder = make(records)
    assert status == 2
    assert f"in.jsonl, record 1: label is {told}, not true or false" in printed
    status, printed, folder = make(records, "--kind", "answers")  # where it means something else
    assert status == 0, printed
    assert len(sequences(folder)) == 2


@pytest.mark.parametrize("rule", ["cut_answer", "cut_prompt", "drop"])
def test_what_is_too_long_goes_by_the_rule_named(make, rule) -> None:
    long = {"id": "long", "prompt": "first " + "word " * 120 + "last", "answer": "The answer."}
    _, _, folder = make([GOOD, long], "--max-tokens", "100", "--too-long", rule)
    told, found = facts(folder), sequences(folder)
    if rule == "cut_prompt":
        assert told["changed"] == {"cut_prompt": 1}
        assert found[1][1].endswith(f"last\n<|assistant|>\nThe answer.{EOS}")
        assert "first" not in found[1][1]
        assert found[1][3][1] - found[1][3][0] == 100
    else:
        assert told["dropped"] == {{"cut_answer": "no_answer_left", "drop": "too_long"}[rule]: 1}


def test_pairs_with_text_of_an_evaluation_set_are_dropped(make, tmp_path) -> None:
    known = "the quick brown fox jumps over the lazy dog while thirteen words pass by"
    (tmp_path / "set.jsonl").write_text(json.dumps({"question": known}) + "\n")
    _, _, folder = make(
        [GOOD, {"id": "bad", "prompt": f"Repeat: {known}.", "answer": "No."}],
        *("--decontaminate", str(tmp_path / "set.jsonl"), "--decontaminate-field", "question"),
    )
    assert facts(folder)["dropped"] == {"contaminated": 1}
    assert [name for name, *_ in sequences(folder)] == ["good"]


def test_prompts_are_held_out_by_hash_whatever_the_answer(make) -> None:
    records = [{"id": f"{i}-{j}", "prompt": f"prompt {i}", "answer": f"{i} {j}"} for i in range(60) for j in range(2)]
    _, _, folder = make(records, "--held-out", "0.2")
    kept, held = ({name.split("-")[0] for name, *_ in sequences(folder, split)} for split in ("train", "held_out"))
    assert not kept & held
    assert 2 < len(held) < 30
    told = facts(folder)["splits"]
    assert told["train"]["documents"] + told["held_out"]["documents"] == 120


def test_shards_are_of_the_size_asked_and_the_same_every_time(make) -> None:
    records = [{"id": f"{i}", "prompt": f"prompt {i}", "answer": f"answer {i}"} for i in range(50)]
    _, _, one = make(records, "--shard-bytes", "300B")
    _, _, two = make(None, "--shard-bytes", "300B", out="two")
    shards = load_manifest(one)["sources"]["pairs"]["shards"]
    assert len(shards) > 5
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name != "run.lock")
    assert [(two / path).read_bytes() for path in files] == [(one / path).read_bytes() for path in files]
    assert [name for name, *_ in sequences(one)] == [f"{i}" for i in range(50)]
    status, printed, _ = make(None, "--shard-bytes", "300B")
    assert status == 0
    assert "made before" in printed
    status, printed, _ = make(None, "--max-tokens", "7")
    assert status == 2
    assert "holds pairs of other files or settings" in printed


def test_parquet_gzip_and_zstd_give_the_same_pairs(make, tmp_path) -> None:
    records = [{"id": f"{i}", "prompt": f"prompt {i}", "answer": f"answer {i}", "n": i} for i in range(20)]
    _, _, plain = make(records)
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    (tmp_path / "z.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "unnamed.jsonl").write_bytes(gzip.compress(lines))
    (tmp_path / "plain.jsonl.gz").write_bytes(lines)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "p.parquet")
    for name in ("z.jsonl.zst", "g.jsonl.gz", "unnamed.jsonl", "plain.jsonl.gz", "p.parquet"):
        status, printed, folder = make(None, name=name, out=name + ".out")
        assert status == 0, printed
        assert sequences(folder) == sequences(plain)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines)[:-20])
    status, printed, _ = make(None, name="cut.jsonl.gz", out="cut")
    assert status == 2
    assert "cut.jsonl.gz: is damaged" in printed


def test_a_context_stands_before_the_prompt_and_other_fields_stay(make) -> None:
    _, _, folder = make(
        [{"id": "s", "story": "A cat.", "prompt": "Who?", "answer": "cat", "final": "cat"}], "--context-field", "story"
    )
    assert "<|user|>\nA cat.\n\nWho?\n" in sequences(folder)[0][1]
    shard = load_manifest(folder)["sources"]["pairs"]["shards"][0]
    (record,) = lines_of(folder / shard["records"])
    assert (record["prompt"], record["answer"], record["fields"]["final"]) == ("A cat.\n\nWho?", "cat", "cat")


def test_inspect_trace_and_why_tell_of_pairs(make, capsys) -> None:
    _, _, folder = make(
        [GOOD, {"id": "bad", "prompt": "x", "answer": ""}, {"id": "two", "prompt": "2?", "answer": "2"}]
    )
    assert main(["inspect", str(folder), "--show", "1"]) == 0
    assert "no problems" in capsys.readouterr().out
    assert main(["trace", str(folder), "pairs/00000:3"]) == 0
    told = capsys.readouterr().out
    assert "good: number 1 of the shard" in told
    assert "record 1" in told
    assert "python -m pipeline why" in told
    assert main(["why", str(folder), "two"]) == 0
    assert "kept (answer): tokens/pairs/00000.npy" in capsys.readouterr().out
    assert main(["why", str(folder), "in.jsonl:2"]) == 0
    assert "dropped by empty_answer" in capsys.readouterr().out
    assert main(["why", str(folder), "nobody"]) == 2
    mask = folder / "tokens/pairs/00000.mask.npy"
    mask.write_bytes(mask.read_bytes()[:-1] + b"\0")
    assert main(["inspect", str(folder)]) == 1
    assert "00000.mask.npy: is not what was written" in capsys.readouterr().out


def test_segments_agree_with_transformers_on_text_and_tokens(shared_data) -> None:
    transformers = pytest.importorskip("transformers")
    path = shared_data / "tokenizers" / "gpt-neox-olmo-dolma-v1_5.json"
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=EOS, bos_token=EOS)
    theirs.chat_template = OLMOE
    ours = load_tokenizer(path, rules=EncodeRules(strip=False, skip_empty=False, append_eos=False))
    template = ChatTemplate(OLMOE, EOS, EOS)
    with (shared_data / "pairs" / "gsm8k.jsonl.zst").open("rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()[:100]
    for line in lines:
        record = json.loads(line)
        messages = [
            {"role": "user", "content": record["prompt"]},
            {"role": "assistant", "content": record["answer"]},
        ] * 2
        segments = template.segments(messages)
        assert "".join(s.text for s in segments) == theirs.apply_chat_template(messages, tokenize=False)
        tokens, _ = ours.encode(pa.array([s.text for s in segments], pa.large_string()))
        assert tokens.tolist() == theirs.apply_chat_template(messages, tokenize=True, return_dict=False)


def test_a_template_that_rewrites_what_stands_before_an_answer_is_refused() -> None:
    template = ChatTemplate("{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}", EOS, EOS)
    with pytest.raises(TemplateError, match="another once the answer is there"):
        template.segments([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}])


def test_a_template_of_ones_own(make, tmp_path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(
        "{% for m in messages %}\n[{{ m.role }}] {{ m.content }}{% endfor %}\n"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    status, printed, folder = make([{"prompt": "Q", "answer": "A"}], "--chat-template", str(file))
    assert status == 0, printed
    assert sequences(folder)[0][1:3] == ("[user] Q[assistant] A", "A")
    file.write_text("{% for %}")
    status, printed, _ = make([{"prompt": "Q", "answer": "A"}], "--chat-template", str(file), out="broken")
    assert status == 2
    assert "the chat template is no Jinja" in printed

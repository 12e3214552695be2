"""Pairs from files to a folder: read and checked, decontaminated, deduplicated, encoded, written; the manifest last.

It is one process that streams. What is read waits in Parquet parts in the folder (one a file), so that dedup works as
for any source, by partitions on disk; memory is that of a batch, of dedup's settings and of a shard's open files.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from pipeline import storage
from pipeline.pairs.chat import ChatTemplate, TemplateError, load_template
from pipeline.pairs.conversation import Dropped, Pair, kind_of, read_pair, with_wrong_answers
from pipeline.pairs.dropped import DroppedLog
from pipeline.pairs.encode import Encoded, encode, fit
from pipeline.pairs.options import Kind, PairOptions
from pipeline.pairs.records import Record, find_files, read_records
from pipeline.pairs.shards import ShardWriter
from pipeline.pairs.show import PairsMade, PairSplit
from pipeline.run_folder.folder import PAIRS, RUN, Mark, check_kind, read_mark, write_mark
from stages.dedup.phases import group_parts, phases, run_inline
from stages.dedup.tasks import PartGiven
from stages.document import DOCUMENT
from stages.errors import UserError
from stages.filters.decontaminate import Decontaminate
from stages.parts import PartWriter, read_part
from stages.step import content_key
from stages.tokens.manifest import TOKENIZER_PATH, build_manifest, source_entry
from stages.tokens.manifest_shape import Manifest, PairsEntry, ShardEntry, SplitEntry
from stages.tokens.mixture import MAX_REPEATS
from stages.tokens.shard_format import MANIFEST, fingerprint, manifest_bytes
from stages.tokens.tokenize import held_out_texts
from stages.tokens.tokenizer import EncodeRules, Tokenizer, load_tokenizer

SCRATCH = ".pairs"
DROPPED = "dropped.jsonl.gz"
BATCH_ROWS, BATCH_BYTES = 512, 4 << 20
RULES = EncodeRules(strip=False, skip_empty=False, append_eos=False)


@dataclass
class Books:
    """What became of the records: read = written pairs + dropped, by rule; and what was changed of those written."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # rule -> the first record that it dropped, and why
    changed: Counter[str] = field(default_factory=Counter)  # cut_answer, cut_prompt, special_tokens_in_text


def make_pairs(files: list[str], out: str, options: PairOptions) -> PairsMade:
    """Write the pairs of `files` into the folder `out`; returns what its pairs.json says.

    Done again with the same settings and files it does nothing. Raises UserError.
    """
    options.check()
    if not storage.is_local(out):
        raise UserError(f"--out {out}: pairs are written to local disk, where fine-tuning reads them")
    folder = storage.local_path(out).absolute()
    entries = find_files(files)
    template = load_template(options.chat_template)
    with storage.Cache(storage.cache_folder(), 1 << 30) as cache:
        source = _tokenizer_path(options.tokenizer)
        tokenizer = load_tokenizer(
            storage.fetch(source, cache), rules=RULES, eos_token=options.eos_token, pad_token=options.pad_token
        )
    key = content_key(
        "pairs",
        1,
        asdict(options.settings()),
        template,
        tokenizer.sha256,
        [[e.uri, e.version] for e in entries],
        _evaluation(options),
    )
    with storage.RunLock(str(folder)):
        made = _check_folder(str(folder), out, key)
        if made is not None:
            return replace(made, out=out, made=False)
        facts = _Making(folder, options, template, tokenizer, key).run([entry.uri for entry in entries])
        write_mark(str(folder), PAIRS, facts)
    return replace(facts, out=out, made=True)


def _tokenizer_path(named: str) -> str:
    return storage.join(named, "tokenizer.json") if named.startswith("hf://") and not named.endswith(".json") else named


def _evaluation(options: PairOptions) -> list[str]:
    return [storage.stat(file).version for file in options.decontaminate]


def _check_folder(folder: str, named: str, key: str) -> PairsMade | None:
    """What a finished folder of these pairs says; None where there is none yet. Raises UserError for another's folder."""
    check_kind(folder, PAIRS)
    mark = read_mark(folder, PAIRS)
    if mark is None and any(storage.exists(storage.join(folder, name)) for name in (MANIFEST, RUN, "ledger")):
        raise UserError(f"{named} holds a run; choose another --out")
    if mark is None or not mark.finished:
        write_mark(folder, PAIRS, Mark(key=key))
        return None
    if mark.key != key:
        raise UserError(f"{named} holds pairs of other files or settings; choose another --out, or delete it first")
    return read_mark(folder, PAIRS, PairsMade)


class _Making:
    """One making of a folder."""

    def __init__(self, folder: Path, options: PairOptions, template: str, tokenizer: Tokenizer, key: str) -> None:
        self.folder, self.options, self.tokenizer, self.key = folder, options, tokenizer, key
        names = tokenizer.reference.tokenizer
        eos = names.id_to_token(tokenizer.eos_id) or ""  # it has one: its id came from there
        self.template = ChatTemplate(template, eos, eos)
        self.special = [token.content for token in names.get_added_tokens_decoder().values() if token.special]
        self.books = Books()
        self.kind: Kind = options.kind
        self.scratch = folder / SCRATCH

    def run(self, files: list[str]) -> PairsMade:
        """All of it; returns the facts of pairs.json."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.rmtree(self.folder / "tokens", ignore_errors=True)
        self.scratch.mkdir(parents=True)
        try:
            with DroppedLog(self.folder / DROPPED, self.books) as self.log:
                parts = [self._read(number, file) for number, file in enumerate(files)]
                removals = self._deduplicate(parts)
                splits = self._write(parts, removals)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        written = self.written
        if self.books.read != written + sum(self.books.dropped.values()):
            raise AssertionError(f"{self.books.read} records read, {written} written, {self.books.dropped} dropped")
        if not splits["train"]:
            held = f"; {written:,} are held out (--held-out {self.options.held_out:g})" if written else ""
            raise UserError(f"no pair is left to train on: {_told(self.books)}{held}")
        manifest = self._manifest(splits)
        copied = self.folder / TOKENIZER_PATH
        copied.parent.mkdir(exist_ok=True)
        shutil.copyfile(self.tokenizer.path, copied)
        storage.write_bytes(str(self.folder / MANIFEST), manifest_bytes(manifest))
        return self._facts(files, manifest)

    # ---- reading

    def _read(self, number: int, file: str) -> PartGiven:
        """Read and check one file into a part; returns it as dedup wants it."""
        path, size, good = self.scratch / f"{number:05d}.parquet", 0, 0
        wrong = Counter[str]()
        with PartWriter(path, DOCUMENT) as part:
            pairs = self._pairs(file, wrong)
            if self.options.wrong_answers:
                pairs = with_wrong_answers(pairs, self._drop)
            for rows in _in_batches(pairs):
                batch = self._decontaminated(rows)
                part.write(batch)
                size += batch.nbytes
                good += len(rows)
        if not good and wrong and set(wrong) == {"wrong_field"}:
            raise UserError(f"{self.books.first['wrong_field']}; name the fields with --prompt-field and the like")
        return PartGiven(
            ordinal=number, path=str(path), source=self.options.source, documents=part.rows, bytes=size
        )

    def _pairs(self, file: str, wrong: Counter[str]) -> Iterator[Pair]:
        for record in read_records(file, self.options.max_record_bytes):
            self.books.read += 1
            try:
                pair = read_pair(record, self._kind(record), self.options.fields)
                for messages in pair.conversations:
                    self.template.segments(messages)
            except Dropped as dropped:
                wrong[dropped.rule] += 1
                self.log.drop(record.file, record.number, None, dropped.rule, dropped.detail)
            except TemplateError as error:
                self.log.drop(record.file, record.number, None, "chat_template", str(error))
            else:
                yield pair

    def _drop(self, pair: Pair, dropped: Dropped) -> None:
        self.log.drop(pair.file, pair.record, pair.id, dropped.rule, dropped.detail)

    def _kind(self, record: Record) -> Kind:
        """What the first whole record is, all are."""
        if self.kind == "auto" and record.problem is None:
            self.kind = kind_of(record, self.options.fields)
        return self.kind

    def _decontaminated(self, pairs: list[Pair]) -> pa.RecordBatch:
        """A batch of documents, without those that hold text of an evaluation set."""
        batch = _documents(pairs)
        if not self.options.decontaminate:
            return batch
        step = Decontaminate(
            files=self.options.decontaminate,
            match="ngrams",
            fields=self.options.decontaminate_fields,
            ngram=self.options.ngram,
        )
        measures = step.measure(batch)
        hits = np.nan_to_num(measures["overlap"]) > 0
        for row in np.flatnonzero(hits):
            pair = pairs[row]
            self.log.drop(pair.file, pair.record, pair.id, "contaminated", f"text of {measures['hit'][row].as_py()}")
        return batch.filter(pa.array(~hits))

    # ---- dedup

    def _deduplicate(self, parts: list[PartGiven]) -> dict[int, np.ndarray]:
        """The rows of each part (sorted) that are copies of earlier ones."""
        parts = [part for part in parts if part["documents"]]
        if self.options.dedup == "none" or not parts:
            return {}
        work = self.scratch / "dedup"
        work.mkdir()
        spec = {"method": self.options.dedup}
        summary = run_inline(phases(spec, group_parts(parts), str(work)))
        removals = {}
        for part in parts:
            table = pq.read_table(summary["removals"][str(part["ordinal"])])
            rows = removals[part["ordinal"]] = np.asarray(table.column("row"), np.int64)
            kept = table.column("representative")
            for start, batch in read_part(Path(part["path"]), BATCH_BYTES, ["id", "file", "record"]):
                first, last = np.searchsorted(rows, [start, start + batch.num_rows])
                removed = batch.take(pa.array(rows[first:last] - start)).to_pylist()
                for values, representative in zip(removed, kept.slice(first, last - first).to_pylist(), strict=True):
                    told = f"a copy of {representative}"
                    self.log.drop(values["file"], values["record"], values["id"], "duplicate", told)
        return removals

    # ---- writing

    def _write(self, parts: list[PartGiven], removals: dict[int, np.ndarray]) -> dict[str, list[ShardEntry]]:
        """Encode what is left and write its shards; returns their entries by split."""
        options, salt = self.options, f"pairs/{self.options.seed}"
        with (
            ShardWriter(self.folder, options.source, "train", options.shard_bytes) as train,
            ShardWriter(self.folder, options.source, "held_out", options.shard_bytes) as held_out,
        ):
            for part in parts:
                removed = removals.get(part["ordinal"], np.zeros(0, np.int64))
                for pairs in _in_batches(_kept(Path(part["path"]), removed)):
                    prompts = pa.array([pair.prompt.strip() for pair in pairs], pa.large_string())
                    held = held_out_texts(prompts, options.held_out, salt)
                    for pair, sequences, apart in zip(pairs, self._encoded(pairs), held, strict=True):
                        if sequences is not None:
                            (held_out if apart else train).add(pair, sequences)
        self.written = train.pairs + held_out.pairs
        return {"train": train.entries, "held_out": held_out.entries}

    def _encoded(self, pairs: list[Pair]) -> list[list[Encoded] | None]:
        """The sequences of each pair, cut to fit; None for a pair that is dropped."""
        last = self.options.answers == "last"
        segments = [self.template.segments(m, last or len(p.roles) > 1) for p in pairs for m in p.conversations]
        encoded, found = iter(encode(segments, self.tokenizer)), []
        for pair in pairs:
            sequences = fit([next(encoded) for _ in pair.conversations], self.options.max_tokens, self.options.too_long)
            if isinstance(sequences, str):
                told = f"more than {self.options.max_tokens:,} tokens"
                told = f"alike once they are cut: {told}" if sequences == "same_answers" else told
                self.log.drop(pair.file, pair.record, pair.id, sequences, told)
                found.append(None)
                continue
            self.books.changed.update({one.cut for one in sequences if one.cut})
            self.books.changed["special_tokens_in_text"] += any(name in pair.text for name in self.special)
            found.append(sequences)
        return found

    def _manifest(self, splits: dict[str, list[ShardEntry]]) -> Manifest:
        options, tokenizer = self.options, self.tokenizer
        available = sum(shard["tokens"] for shard in splits["train"])
        entry = source_entry(options.source, splits["train"], splits["held_out"], available, MAX_REPEATS)
        entry["shards"], entry["held_out"]["shards"] = splits["train"], splits["held_out"]  # with what is beside tokens
        manifest = build_manifest(
            name=options.source,
            profile="",
            recipe_hash=self.key,
            seed=options.seed,
            tokenizer_sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            sources={options.source: entry},
            mixture_tokens=available,
            mixture_seed=options.seed,
        )
        kind = "answers" if self.kind in ("auto", "messages") else self.kind
        kind = "preferences" if self.options.wrong_answers else kind
        self.kind_made = kind
        manifest["pairs"] = PairsEntry(kind=kind, chat_template=self.template.text, max_tokens=options.max_tokens)
        manifest["fingerprint"] = fingerprint(manifest)
        return manifest

    def _facts(self, files: list[str], manifest: Manifest) -> PairsMade:
        source = manifest["sources"][self.options.source]
        return PairsMade(
            key=self.key,
            kind=self.kind_made,
            files=files,
            settings=self.options.settings(),
            chat_template=self.template.text,
            read=self.books.read,
            dropped=dict(sorted(self.books.dropped.items())),
            first_dropped=dict(sorted(self.books.first.items())),
            changed={name: count for name, count in sorted(self.books.changed.items()) if count},
            splits={"train": _split(source), "held_out": _split(source["held_out"])},
            tokenizer=manifest["tokenizer"],
            fingerprint=manifest["fingerprint"],
        )


def _split(entry: SplitEntry) -> PairSplit:
    return PairSplit(
        documents=entry["documents"],
        tokens=entry["tokens"],
        text_bytes=entry["text_bytes"],
        answer_tokens=sum(shard.get("answer_tokens", 0) for shard in entry["shards"]),
        shards=len(entry["shards"]),
    )


def _told(books: Books) -> str:
    if not books.dropped:
        return f"{books.read:,} records were read"
    parts = [f"{rule} {count:,} ({books.first[rule]})" for rule, count in books.dropped.most_common(3)]
    return f"of {books.read:,} records {', '.join(parts)}"


def _in_batches(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    held: list[Pair] = []
    size = 0
    for pair in pairs:
        held.append(pair)
        size += len(pair.text)
        if len(held) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _documents(pairs: list[Pair]) -> pa.RecordBatch:
    """Pairs as documents: what is said as the text, all else in the metadata."""
    rest = [
        orjson.dumps(
            [pair.conversations, pair.roles, pair.fields], default=str, option=orjson.OPT_NON_STR_KEYS
        ).decode()
        for pair in pairs
    ]
    columns = {
        "id": [pair.id for pair in pairs],
        "text": [pair.text for pair in pairs],
        "url": [None] * len(pairs),
        "file": [pair.file for pair in pairs],
        "record": [pair.record for pair in pairs],
        "offset": [None] * len(pairs),
        "metadata": rest,
    }
    return pa.RecordBatch.from_pydict(columns, schema=DOCUMENT)


def _kept(path: Path, removed: np.ndarray) -> Iterator[Pair]:
    """The pairs of a part, but for some rows."""
    for start, batch in read_part(path, BATCH_BYTES, ["id", "file", "record", "metadata"]):
        gone = set((removed[(removed >= start) & (removed < start + batch.num_rows)] - start).tolist())
        for row, values in enumerate(batch.to_pylist()):
            if row not in gone:
                conversations, roles, fields = orjson.loads(values["metadata"])
                yield Pair(values["id"], values["file"], values["record"], tuple(conversations), tuple(roles), fields)

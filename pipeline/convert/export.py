"""A run's shards in the formats of other tools, or its documents as text: each file whole or not there at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace
from rich.console import Console

from pipeline import storage
from pipeline.convert.export_documents import document_nodes
from pipeline.convert.hub_upload import HUB, check_target, upload
from pipeline.engine.engine import Engine
from pipeline.engine.place import Placement
from pipeline.jobs.export_documents import ExportDocuments
from pipeline.jobs.formats import ExportFormat, ExportReport, ExportShard, ShardOfRun, TokenizerOfRun
from pipeline.ledger import FOLDER, Ledger, Ref
from pipeline.plan.graph import Plan
from pipeline.plan.node import Done, Named, Node, Stage
from pipeline.plan.training import copied_tokenizer
from pipeline.recipe.overrides import nearest
from pipeline.run_folder.card import card
from pipeline.run_folder.finished import open_finished
from pipeline.run_folder.folder import EXPORT, RUN, absolute, check_fresh, write_mark
from pipeline.run_folder.manifest import read_corpus, token_rules
from pipeline.tables import plain_table
from stages.errors import UserError
from stages.tokens.formats.jsonl import SUFFIXES
from stages.tokens.manifest import TOKENIZER_PATH, shard_names
from stages.tokens.manifest_shape import Manifest, ShardEntry, TokenizerEntry
from stages.units import show_bytes, show_count

ENDINGS = {
    "datatrove": (".ds", ".ds.index", ".ds.metadata"),
    "megatron": (".bin", ".idx"),
    "parquet": (".parquet",),
}


@dataclass
class ExportOptions(Placement):
    """What is exported, and how the work is carried out."""

    format: ExportFormat
    sources: list[str] = field(default_factory=list)  # none named: all
    split: Literal["train", "held_out"] = "train"
    text: bool = True  # parquet, jsonl: the decoded text
    tokens: bool = False  # jsonl: the tokens too
    compression: str = "zst"  # of jsonl: zst, gz or none
    documents: bool = False  # parquet, jsonl: the documents of the parts as they were, with url, date and metadata
    measures: tuple[str, ...] = ()  # of these documents; all: every one


class WrittenFile(Struct, frozen=True):
    """A file, and its size."""

    path: str
    bytes: int


class ExportedShard(Struct, frozen=True):
    """One shard in the other format."""

    shard: str
    documents: int
    tokens: int
    files: list[WrittenFile]


class ExportedSource(Struct):
    """The shards of one source, and their sums."""

    documents: int = 0
    tokens: int = 0
    files: list[ExportedShard] = []


class ExportedRun(Struct, frozen=True):
    """What was exported."""

    name: str
    profile: str
    fingerprint: str


class Exported(Struct, frozen=True, kw_only=True):
    """What `export.json` says. ended: whether every document ends in the end token. tokenizer: the manifest's entry."""

    format: ExportFormat
    split: str
    run: ExportedRun
    dtype: str
    tokenizer: TokenizerEntry
    sources: dict[str, ExportedSource] = {}
    ended: bool
    finished: bool | UnsetType = UNSET  # in the folder alone
    out: str | UnsetType = UNSET  # as the user named it


def export(run: str, out: str, options: ExportOptions) -> Exported:
    """Write the shards of a finished run to `out` in another format; returns what `export.json` there says.

    An export that was broken off is gone on with. Raises UserError for a folder that holds something else, an unknown
    source, and shards that are not what the manifest says.
    """
    manifest = read_corpus(run)
    unknown = [name for name in options.sources if name not in manifest["sources"]]
    if unknown:
        raise UserError(f"--source {unknown[0]}: no such source{nearest(unknown[0], list(manifest['sources']))}")
    if options.format == "jsonl" and not (options.text or options.tokens):
        raise UserError("neither text nor tokens are wanted: leave out --no-text, or add --tokens")
    _check_documents(options)
    if out.startswith(HUB):
        check_target(out)
        with tempfile.TemporaryDirectory(prefix="headrace-export-") as folder:
            found = export(run, folder, options)
            upload(Path(folder), out)
        return replace(found, out=out)
    given, run, out = out, absolute(run), absolute(out)
    with storage.RunLock(out) as lock:
        check_fresh(out, EXPORT)
        rules = token_rules(run, options.sources or manifest["mixture"]["sources"])
        facts = Exported(
            format=options.format,
            split=options.split,
            run=ExportedRun(manifest["name"], manifest["profile"], manifest["fingerprint"]),
            dtype=manifest["dtype"],
            tokenizer=TokenizerEntry({**manifest["tokenizer"], "path": TOKENIZER_PATH}),
            ended=all(rule.ends for rule in rules.values()),
        )
        write_mark(out, EXPORT, replace(facts, finished=False))
        storage.clear_scratch(out)
        with Ledger(out, writable=True, still_ours=lock.check) as ledger, Engine(out, ledger, options, lock) as engine:
            facts = replace(facts, sources=engine.walk(_plan(run, manifest, options)))
            ledger.sweep(engine.used)
        _write_card(run, out, options)
        write_mark(out, EXPORT, replace(facts, finished=True))
        storage.delete_tree(storage.join(out, FOLDER))  # only now: until then it is what a second start goes on from
        storage.clear_scratch(out)
    return replace(facts, out=given)


def _plan(run: str, manifest: Manifest, options: ExportOptions) -> Plan[dict[str, ExportedSource]]:
    """The tokenizer, and a task a shard; what was written of each source."""
    known = manifest["tokenizer"]
    yield from copied_tokenizer(Named(storage.join(run, known["path"]), known["sha256"]))
    tokenizer = TokenizerOfRun(known["path"], known["sha256"], known["vocab_size"], known["eos_id"])
    names = list(options.sources or manifest["mixture"]["sources"])
    if options.documents:  # of a source that is split, all documents, as the run has them
        names = list(dict.fromkeys(manifest["sources"][name].get("of", name) for name in names))
    nodes, found = [], {name: ExportedSource() for name in names}
    if options.documents:
        how = (options.split, options.format, options.compression, options.measures)
        nodes += document_nodes(open_finished(run), list(found), *how)
    for source in found if not options.documents else ():
        entry = manifest["sources"][source]
        shards = entry["shards"] if options.split == "train" else entry["held_out"]["shards"]
        nodes += [_node(run, manifest["dtype"], tokenizer, options, source, *one) for one in enumerate(shards)]
    done: list[Done[ExportReport]] = yield Stage("export", nodes)
    for node, one in zip(nodes, done, strict=True):
        source, report = found[node.ref.source], one.report
        files = sorted((WrittenFile(output.path, output.bytes) for output in one.outputs), key=lambda file: file.path)
        read = node.job.part.path if isinstance(node.job, ExportDocuments) else node.job.shard.path
        source.files.append(ExportedShard(read, report.documents, report.tokens, files))
        source.documents += report.documents
        source.tokens += report.tokens
    return found


def _node(
    run: str, dtype: str, tokenizer: TokenizerOfRun, options: ExportOptions, source: str, number: int, shard: ShardEntry
) -> Node:
    name = shard_names(source, number, options.split)[0].removeprefix("tokens/").removesuffix(".npy")
    endings = ENDINGS.get(options.format, (SUFFIXES.get(options.compression, ""),))
    index = shard.get("index_sha256") or storage.stat(storage.join(run, shard["index"])).version
    job = ExportShard(
        shard=ShardOfRun(
            shard["path"],
            shard["index"],
            shard["tokens"],
            shard["documents"],
            shard["text_bytes"],
            shard["sha256"],
            index,
            shard.get("ranges"),
            shard.get("whole", ""),
        ),
        tokenizer=tokenizer,
        source=source,
        format=options.format,
        dtype=dtype,
        text=options.format in ("parquet", "jsonl") and options.text,
        tokens=options.tokens,
        compression=options.compression,
        output=tuple(name + ending for ending in endings),
        run_uri=run,
    )
    return Node(Ref("export", source, options.split, number), job, shard["tokens"] * (2 if dtype == "uint16" else 4))


def _check_documents(options: ExportOptions) -> None:
    if options.documents and options.format not in ("parquet", "jsonl"):
        raise UserError(f"--documents: {options.format} holds tokens, and no documents; choose jsonl or parquet")
    if options.documents and (options.tokens or not options.text):
        raise UserError("--documents writes texts and no tokens: leave out --tokens and --no-text")
    if options.measures and not options.documents:
        raise UserError("--measures are of the documents as they were: add --documents")


def _write_card(run: str, out: str, options: ExportOptions) -> None:
    """README.md beside the files, where a run has made them: imports and mixtures have no record of documents."""
    if storage.exists(storage.join(run, RUN)):
        endings = ENDINGS.get(options.format, (SUFFIXES.get(options.compression, ""),))
        shared = endings[0] if options.format in ("parquet", "jsonl") else ""
        storage.write_bytes(storage.join(out, "README.md"), card(open_finished(run), shared).encode())


def show_export(found: Exported, console: Console) -> None:
    """Print what `export` did."""
    console.print(f"{found.out}: {found.format}, {found.split}, {found.dtype} tokens", style="bold", markup=False)
    table = plain_table("", "source~", "documents", "tokens", "files", "bytes")
    for name, source in found.sources.items():
        sizes = [file.bytes for shard in source.files for file in shard.files]
        counts = (f"{source.documents:,}", show_count(source.tokens), f"{len(sizes):,}")
        table.add_row(name, *counts, show_bytes(sum(sizes)))
    console.print(table)
    known = found.tokenizer
    ends = "documents end" if found.ended else "not every document ends"
    console.print(
        f"{ends} in token {known['eos_id']}; {known['path']} is the tokenizer, with {known['vocab_size']:,} entries"
    )

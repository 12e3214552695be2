"""A corpus that was tokenized elsewhere, taken in as a folder with a manifest, shards and a held-out split of its own.

One task a file writes what tokenizing a part would have written; from there on it is the way of a run: token files are
cut into shards, and the manifest is written last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace
from rich.console import Console

from pipeline import storage
from pipeline.engine.engine import Engine, InputsGone
from pipeline.engine.place import Placement
from pipeline.jobs.formats import ImportFile, ImportFormat, ImportReport, ImportSettings
from pipeline.ledger import Ledger, Ref
from pipeline.plan.graph import Plan
from pipeline.plan.node import Done, Named, Node, Stage
from pipeline.plan.split import whole_files
from pipeline.plan.tokens import SplitShards, shard
from pipeline.plan.training import copied_tokenizer
from pipeline.program import program
from pipeline.run_folder.folder import IMPORT, RUN, RunRecipe, absolute, check_empty, check_kind, read_mark, write_mark
from pipeline.tables import plain_table
from stages.errors import UserError
from stages.step import content_key
from stages.tokens.manifest import build_manifest, source_entry
from stages.tokens.manifest_shape import Manifest, TokenizerEntry
from stages.tokens.mixture import MAX_REPEATS
from stages.tokens.shard_format import MANIFEST, manifest_bytes, token_dtype
from stages.tokens.tokenize import EMPTY
from stages.tokens.tokenizer import TokenizerError, check_tokenizer
from stages.units import show_bytes, show_count

ENDINGS: dict[str, tuple[str, ...]] = {
    "olmo": (".npy",),
    "datatrove": (".ds",),
    "megatron": (".bin",),
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.zst", ".json.zst", ".jsonl.gz", ".json.gz", ".jsonl.bz2", ".jsonl.xz"),
}


class ImportedSplit(Struct, frozen=True):
    """What was taken into training, or held out."""

    documents: int
    tokens: int
    text_bytes: int
    shards: int


class ImportBegun(Struct, frozen=True, kw_only=True):
    """What `import.json` says from the start."""

    format: ImportFormat
    source: str
    read_from: list[str] = msgspec.field(name="from")
    settings: ImportSettings
    finished: bool


class ImportDone(ImportBegun, frozen=True, kw_only=True):
    """What `import.json` says at the end, and where it is and how many tasks ran. tokenizer: the manifest's entry."""

    files: int
    without_index: list[str]  # their documents were told by the end token
    documents_in: int
    skip_empty: int
    ended: int  # documents that were given the end token
    tokenizer: TokenizerEntry
    dtype: str
    fingerprint: str
    splits: dict[str, ImportedSplit]
    out: str | UnsetType = UNSET
    tasks_run: int | UnsetType = UNSET


@dataclass
class ImportOptions(Placement):
    """What is taken in and how; `settings` are what decides the bytes, with the files and the tokenizer."""

    format: ImportFormat
    source: str
    tokenizer: str
    eos_token: str | None = None
    pad_token: str | None = None
    append_eos: bool = True
    dtype: str | None = None
    tokens_field: str | None = None
    id_field: str = "id"
    held_out: float = 0.005
    held_out_as: str | None = None  # a run's folder: hold out the documents that it holds out
    seed: int = 0
    shard_bytes: int = 2**30

    def settings(self) -> ImportSettings:
        """What decides the bytes, besides the files and the tokenizer. Raises UserError for no run at `held_out_as`."""
        names = ("format", "source", "eos_token", "pad_token", "append_eos", "dtype", "tokens_field", "id_field")
        known = {name: getattr(self, name) for name in names}
        if self.held_out_as is None:
            return ImportSettings(**known, held_out=self.held_out, salt=f"{self.source}/{self.seed}", as_run=False)
        recipe = read_mark(self.held_out_as, RUN, RunRecipe)
        if recipe is None:
            raise UserError(f"--held-out-as {self.held_out_as}: holds no run (no {RUN})")
        salt, share = recipe.held_out
        return ImportSettings(**known, held_out=share, salt=salt, as_run=True)


@dataclass(frozen=True)
class TokenInput:
    """A file to take in, and the files that belong to it."""

    file: Named
    size: int
    index: Named | None = None
    metadata: Named | None = None


def import_tokens(sources: Sequence[str], out: str, options: ImportOptions) -> ImportDone:
    """Take in the files that `sources` (files, folders, globs) name; returns what `import.json` in `out` says.

    Done again with the same settings it does nothing; broken off, it goes on. Raises UserError.
    """
    if not 0 <= options.held_out <= 1:
        raise UserError(f"--held-out {options.held_out:g}: a share of the documents, from 0 to 1")
    tokenizer = _tokenizer_uri(options.tokenizer)
    try:
        with storage.Cache(storage.cache_folder(), 1 << 30) as cache:
            check_tokenizer(storage.fetch(tokenizer, cache), options.eos_token, options.pad_token)
    except TokenizerError as error:
        raise UserError(f"--tokenizer: {error}") from None
    settings = options.settings()
    inputs = find_inputs(sources, options.format)
    if options.held_out_as is None:
        _refuse_held_out(inputs)
    given, out = out, absolute(out)
    with storage.RunLock(out) as lock:
        check_kind(out, IMPORT)
        if not storage.exists(storage.join(out, IMPORT)):
            if storage.exists(storage.join(out, MANIFEST)):
                raise UserError(f"{out} holds a run; choose another --out")
            check_empty(out)
        mark = ImportBegun(
            format=options.format,
            source=options.source,
            read_from=storage.public(list(sources)),
            settings=settings,
            finished=False,
        )
        write_mark(out, IMPORT, mark)
        storage.clear_scratch(out)
        with Ledger(out, writable=True, still_ours=lock.check) as ledger, Engine(out, ledger, options, lock) as engine:
            done, manifest = _until_done(inputs, tokenizer, options, engine)
            # The parts' tokens are in the shards now; their indexes stay, for a second start plans from them.
            ledger.release((one.key, [file.file.path for file in one.report.files.values()]) for one in done)
            storage.write_bytes(storage.join(out, MANIFEST), manifest_bytes(manifest))
            ledger.sweep(engine.used)
        facts = _told(replace(mark, finished=True), done, inputs, manifest, options)
        write_mark(out, IMPORT, facts)
        storage.clear_scratch(out)  # what killed workers left, whose tasks ran again
    return replace(facts, out=given, tasks_run=engine.executed)


def _tokenizer_uri(named: str) -> str:
    """`hf://ORG/NAME` stands for the tokenizer.json in it."""
    if named.startswith("hf://") and not named.endswith(".json"):
        return storage.join(named, "tokenizer.json")
    return absolute(named)


def find_inputs(sources: Sequence[str], kind: ImportFormat) -> list[TokenInput]:
    """The files that patterns name, each with its index, sorted. Raises UserError where there are none or parts lack."""
    endings = ENDINGS[kind]
    found: dict[str, TokenInput] = {}
    for pattern in sources:
        listed = [entry for entry in storage.list_files(pattern) if entry.uri.endswith(endings)]
        if not listed and kind == "megatron":  # named as Megatron names it: without an ending
            listed = storage.list_files(pattern + ".bin")
        if not listed:
            raise UserError(f"{pattern}: there is no {' or '.join(endings[:2])} file; is --format {kind} right?")
        for entry in listed:
            found[entry.uri] = _with_companions(entry, kind)
    return [found[uri] for uri in sorted(found)]


def _refuse_held_out(inputs: Sequence[TokenInput]) -> None:
    """Raise UserError where shards of a run's held-out split are among the files: they would come into training."""
    names = [storage.public_name(item.file.uri) for item in inputs]
    held = next((name for name in names if name.rsplit("/", 1)[-1].startswith("held_out-")), None)
    if held is not None:
        others = held.rpartition("/")[0] + "/0*"
        raise UserError(
            f"{held}: a run holds these documents out of training; name the other files alone (such as {others}), or "
            "the run with --held-out-as, which holds them out again"
        )


def _with_companions(entry: storage.Entry, kind: ImportFormat) -> TokenInput:
    index = metadata = ""
    if kind == "olmo":
        index = entry.uri.removesuffix(".npy") + ".csv.gz"
    elif kind == "megatron":
        index = entry.uri.removesuffix(".bin") + ".idx"
    elif kind == "datatrove":
        index, metadata = entry.uri + ".index", entry.uri + ".metadata"
    there = {name: _named(name, storage.stat(name)) for name in (index, metadata) if name and storage.exists(name)}
    if kind == "megatron" and index not in there:
        raise UserError(f"{entry.name}: its index {storage.public_name(index)} is missing")
    return TokenInput(_named(entry.uri, entry.stat), entry.size, there.get(index), there.get(metadata))


def _named(uri: str, stat: storage.Stat) -> Named:
    return Named(uri, stat.version, stat.witness)


Imported = Done[ImportReport]


def _until_done(
    inputs: list[TokenInput], tokenizer: str, options: ImportOptions, engine: Engine
) -> tuple[list[Imported], Manifest]:
    """Carry out the plan; again where the tokens that new shards are cut from were let go after their first use."""
    file = _named(tokenizer, storage.stat(tokenizer))
    while True:
        try:
            done, shards, digest = engine.walk(_plan(inputs, file, options))
        except InputsGone as gone:
            engine.forget(gone.keys)
            continue
        return done, _manifest(inputs, done, shards, digest, options)


def _plan(
    inputs: list[TokenInput], tokenizer: Named, options: ImportOptions
) -> Plan[tuple[list[Imported], SplitShards, str]]:
    """The tokenizer, a task a file, and the shards."""
    copied = yield from copied_tokenizer(tokenizer)
    settings = options.settings()
    nodes = []
    for number, item in enumerate(inputs):
        name = storage.public_name(item.file.uri)
        job = ImportFile(item.file, name, item.index, item.metadata, copied, settings)
        nodes.append(Node(Ref("import", options.source, "", number), job, item.size))
    done: list[Imported] = yield Stage("import", nodes)
    members = {options.source: whole_files(options.source, done)}
    shards = yield from shard(members, options.shard_bytes, token_dtype(done[0].report.vocab_size))
    return done, shards[options.source], copied.digest


def _manifest(
    inputs: list[TokenInput], done: list[Imported], shards: SplitShards, tokenizer: str, options: ImportOptions
) -> Manifest:
    known = done[0].report
    available = sum(one["tokens"] for one in shards["train"])
    files = [[storage.public_name(item.file.uri), item.file.version] for item in inputs]
    settings = options.settings()
    manifest = build_manifest(
        name=options.source,
        profile="",
        recipe_hash=content_key(asdict(settings), tokenizer, files),
        seed=options.seed,
        tokenizer_sha256=known.sha256,
        vocab_size=known.vocab_size,
        eos_id=known.eos_id,
        pad_id=known.pad_id,
        sources={options.source: source_entry(options.source, shards["train"], shards["held_out"], available, MAX_REPEATS)},
        mixture_tokens=available,
        mixture_seed=options.seed,
    )
    manifest["held_out"] = {"share": settings.held_out, "salt": settings.salt}
    return manifest


def _told(
    mark: ImportBegun, done: list[Imported], inputs: list[TokenInput], manifest: Manifest, options: ImportOptions
) -> ImportDone:
    """What is told of an import, and written down."""
    source = manifest["sources"][options.source]
    splits = {"train": source, "held_out": source["held_out"]}
    books = [one.report.books[0] for one in done]
    lacking = [item.file.uri for item in inputs if options.format in ("olmo", "datatrove") and not item.index]
    return ImportDone(
        **msgspec.structs.asdict(mark),
        files=len(inputs),
        without_index=storage.public(lacking),
        documents_in=sum(one.into.docs for one in books),
        skip_empty=sum(one.dropped[EMPTY].docs for one in books if EMPTY in one.dropped),
        ended=sum(one.report.ended for one in done),
        tokenizer=manifest["tokenizer"],
        dtype=manifest["dtype"],
        fingerprint=manifest["fingerprint"],
        splits={
            name: ImportedSplit(split["documents"], split["tokens"], split["text_bytes"], len(split["shards"]))
            for name, split in splits.items()
        },
    )


def show_import(found: ImportDone, console: Console) -> None:
    """Print what `import_tokens` did."""
    console.print(f"{found.out}: {found.source}, {found.files:,} {found.format} files", style="bold", markup=False)
    table = plain_table("", "split~", "documents", "tokens", "text", "shards")
    for name, split in found.splits.items():
        counts = (f"{split.documents:,}", show_count(split.tokens), show_bytes(split.text_bytes), f"{split.shards:,}")
        table.add_row(name, *counts)
    console.print(table)
    eos, documents = found.tokenizer["eos_id"], found.documents_in
    if found.skip_empty:
        console.print(f"{found.skip_empty:,} of {documents:,} documents have no tokens, and were left out")
    if found.ended:
        doubt = "; is --eos-token right?" if 2 * found.ended > documents else ""
        console.print(f"{found.ended:,} of {documents:,} documents did not end in token {eos}: it was added{doubt}")
    if some := found.without_index:
        console.print(f"{len(some):,} files have no index (the first: {some[0]}); documents end at token {eos} there")
    console.print(f"join it with others: {program()} mix {found.out} OTHER... --out NEW")

"""A corpus that was tokenized elsewhere, taken in as a folder with a manifest, shards and a held-out split of its own.

One task a file writes what tokenizing a part would have written; from there on it is the way of a run: token files are
cut into shards, and the manifest is written last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console

from pipeline import storage
from pipeline.engine import MANIFEST, Engine, InputsGone, Placement
from pipeline.folder import IMPORT, RUN, absolute, check_kind, read_mark, write_mark
from pipeline.jobs.formats import IMPORT_VERSION
from pipeline.ledger import Ledger
from pipeline.plan.tokens import salt_of, shard_phase
from pipeline.summary import plain_table
from pipeline.task import Phase, Task, task_key
from stages.errors import UserError
from stages.step import content_key
from stages.tokens.manifest import TOKENIZER_PATH, build_manifest, source_entry
from stages.tokens.mixture import MAX_REPEATS
from stages.tokens.shard_format import Manifest, manifest_bytes
from stages.tokens.tokenizer import TokenizerError, check_tokenizer
from stages.units import show_bytes, show_count

Format = Literal["olmo", "datatrove", "megatron", "parquet", "jsonl"]
ENDINGS: dict[str, tuple[str, ...]] = {
    "olmo": (".npy",),
    "datatrove": (".ds",),
    "megatron": (".bin",),
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.zst", ".json.zst", ".jsonl.gz", ".json.gz", ".jsonl.bz2", ".jsonl.xz"),
}


@dataclass
class ImportOptions(Placement):
    """What is taken in and how; `settings` are what decides the bytes, with the files and the tokenizer."""

    format: Format
    source: str
    tokenizer: str
    eos_token: str | None = None
    pad_token: str | None = None
    append_eos: bool = True
    dtype: str | None = None  # of raw token files; None: as their metadata says, else by the vocabulary
    tokens_field: str | None = None
    id_field: str = "id"
    held_out: float = 0.005
    held_out_as: str | None = None  # a run's folder: hold out the documents that it holds out
    seed: int = 0
    shard_bytes: int = 2**30

    def settings(self) -> dict[str, Any]:
        """What decides the bytes, besides the files and the tokenizer. Raises UserError for no run at `held_out_as`."""
        names = (
            "format",
            "source",
            "eos_token",
            "pad_token",
            "append_eos",
            "dtype",
            "tokens_field",
            "id_field",
            "held_out",
        )
        found = {name: getattr(self, name) for name in names} | {"salt": f"{self.source}/{self.seed}", "as_run": False}
        return found | (_held_out_of(self.held_out_as) if self.held_out_as else {})


def _held_out_of(run: str) -> dict[str, Any]:
    """What decides which documents a run holds out: the salt of the hash, and the share."""
    recipe = read_mark(run, RUN)
    if recipe is None:
        raise UserError(f"--held-out-as {run}: holds no run (no {RUN})")
    return {"salt": salt_of(recipe["name"], recipe["seed"]), "held_out": recipe["shards"]["held_out"], "as_run": True}


@dataclass(frozen=True)
class TokenInput:
    """A file to take in, and the files that belong to it ("": there is none)."""

    uri: str
    size: int
    version: str
    index: str = ""
    metadata: str = ""


def import_tokens(sources: Sequence[str], out: str, options: ImportOptions) -> dict[str, Any]:
    """Take in the files that `sources` (files, folders, globs) name; returns what `import.json` in `out` says.

    Done again with the same settings it does nothing; broken off, it goes on. Raises UserError.
    """
    if not 0 <= options.held_out < 1:
        raise UserError(f"--held-out {options.held_out:g}: a share of the documents, from 0 to below 1")
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
        if not storage.exists(storage.join(out, IMPORT)) and any(
            storage.exists(storage.join(out, name)) for name in (MANIFEST, RUN, "ledger")
        ):
            raise UserError(f"{out} holds a run; choose another --out")
        mark: dict[str, Any] = {"format": options.format, "source": options.source, "from": list(sources)}
        write_mark(out, IMPORT, mark | {"settings": settings, "finished": False})
        storage.clear_scratch(out)
        with Engine(out, Ledger(out), options, lock=lock) as engine:
            entries, manifest = _until_done(inputs, tokenizer, options, engine)
        # The parts' tokens are in the shards now; their indexes stay, for a second start plans from them.
        engine.ledger.release(
            (entry["key"], [file["tokens_path"] for file in entry["report"]["files"].values()]) for entry in entries
        )
        storage.write_bytes(storage.join(out, MANIFEST), manifest_bytes(manifest))
        engine.ledger.sweep(engine.used)
        facts = mark | {"settings": settings, "finished": True} | _counts(entries, inputs, manifest, options)
        write_mark(out, IMPORT, facts)
    return facts | {"out": given, "tasks_run": engine.executed}


def _tokenizer_uri(named: str) -> str:
    """`hf://ORG/NAME` stands for the tokenizer.json in it."""
    if named.startswith("hf://") and not named.endswith(".json"):
        return storage.join(named, "tokenizer.json")
    return absolute(named)


def find_inputs(sources: Sequence[str], kind: Format) -> list[TokenInput]:
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
    held = next((item.uri for item in inputs if item.uri.rsplit("/", 1)[-1].startswith("held_out-")), None)
    if held is not None:
        others = held.rpartition("/")[0] + "/0*"
        raise UserError(
            f"{held}: a run holds these documents out of training; name the other files alone (such as {others}), or "
            "the run with --held-out-as, which holds them out again"
        )


def _with_companions(entry: storage.Entry, kind: Format) -> TokenInput:
    index = metadata = ""
    if kind == "olmo":
        index = entry.uri.removesuffix(".npy") + ".csv.gz"
    elif kind == "megatron":
        index = entry.uri.removesuffix(".bin") + ".idx"
    elif kind == "datatrove":
        index, metadata = entry.uri + ".index", entry.uri + ".metadata"
    there = {name: storage.stat(name).version for name in (index, metadata) if name and storage.exists(name)}
    if kind == "megatron" and index not in there:
        raise UserError(f"{entry.uri}: its index {index} is missing")
    version = content_key([entry.version, entry.size, *sorted(there.items())])
    return TokenInput(
        entry.uri, entry.size, version, index if index in there else "", metadata if metadata in there else ""
    )


def _until_done(
    inputs: list[TokenInput], tokenizer: str, options: ImportOptions, engine: Engine
) -> tuple[list[dict[str, Any]], Manifest]:
    """`_carry_out`, again where the tokens that new shards are cut from were let go after their first use."""
    while True:
        try:
            return _carry_out(inputs, tokenizer, options, engine)
        except InputsGone as gone:
            engine.ledger.forget(gone.keys)


def _carry_out(
    inputs: list[TokenInput], tokenizer: str, options: ImportOptions, engine: Engine
) -> tuple[list[dict[str, Any]], Manifest]:
    stat = storage.stat(tokenizer)
    key = task_key("tokenizer", stat.version)
    spec: dict[str, Any] = {"uri": tokenizer, "output": TOKENIZER_PATH, "writes": [TOKENIZER_PATH]}
    engine.before_replacing([TOKENIZER_PATH], {key})
    copied = engine.run(Phase("tokenizer", [Task(key, "tokenizer/copy", "pipeline.jobs.tokens:copy_tokenizer", spec)]))
    digest = copied[0]["outputs"][0]["digest"]
    tasks = [_task(number, item, digest, options) for number, item in enumerate(inputs)]
    entries = engine.run(Phase("import", tasks))
    shards = shard_phase(options.shard_bytes, {options.source: entries}, engine)[options.source]
    known = entries[0]["report"]
    available = sum(shard["tokens"] for shard in shards["train"])
    manifest = build_manifest(
        name=options.source,
        profile="",
        recipe_hash=content_key(options.settings(), digest, [[item.uri, item.version] for item in inputs]),
        seed=options.seed,
        tokenizer_sha256=known["sha256"],
        vocab_size=known["vocab_size"],
        eos_id=known["eos_id"],
        pad_id=known["pad_id"],
        sources={
            options.source: source_entry(options.source, shards["train"], shards["held_out"], available, MAX_REPEATS)
        },
        mixture_tokens=available,
        mixture_seed=options.seed,
    )
    return entries, manifest


def _task(number: int, item: TokenInput, tokenizer: str, options: ImportOptions) -> Task:
    settings = options.settings()
    key = task_key("pipeline.jobs.formats:import_file", IMPORT_VERSION, item.uri, item.version, tokenizer, settings)
    spec = settings | {
        "file": item.uri,
        "index": item.index,
        "metadata": item.metadata,
        "tokenizer": TOKENIZER_PATH,
        "sha256": tokenizer,
        "prefix": f"parts/{options.source}/tokens/{number:05d}-{key}",
        "reads": [TOKENIZER_PATH],
    }
    return Task(key, f"import/{options.source}/{number:05d}", "pipeline.jobs.formats:import_file", spec, item.size)


def _counts(
    entries: list[dict[str, Any]], inputs: list[TokenInput], manifest: Manifest, options: ImportOptions
) -> dict[str, Any]:
    source = manifest["sources"][options.source]
    splits = {"train": source, "held_out": source["held_out"]}
    dropped = [entry["report"]["books"][0]["dropped"].get("skip_empty", [0, 0])[0] for entry in entries]
    without = [item.uri for item in inputs if options.format in ("olmo", "datatrove") and not item.index]
    return {
        "files": len(inputs),
        "without_index": without,  # their documents were told by the end token
        "documents_in": sum(entry["report"]["books"][0]["in"][0] for entry in entries),
        "skip_empty": sum(dropped),
        "ended": sum(entry["report"]["ended"] for entry in entries),  # documents that were given the end token
        "tokenizer": manifest["tokenizer"],
        "dtype": manifest["dtype"],
        "fingerprint": manifest["fingerprint"],
        "splits": {
            name: {key: split[key] for key in ("documents", "tokens", "text_bytes")} | {"shards": len(split["shards"])}
            for name, split in splits.items()
        },
    }


def show_import(found: dict[str, Any], console: Console) -> None:
    """Print what `import_tokens` did."""
    console.print(f"{found['out']}: {found['source']}, {found['files']:,} {found['format']} files", style="bold", markup=False)
    table = plain_table("")
    table.add_column("split")
    for heading in ("documents", "tokens", "text", "shards"):
        table.add_column(heading, justify="right")
    for name, split in found["splits"].items():
        size = show_bytes(split["text_bytes"])
        table.add_row(name, f"{split['documents']:,}", show_count(split["tokens"]), size, f"{split['shards']:,}")
    console.print(table)
    known, documents = found["tokenizer"], found["documents_in"]
    if found["skip_empty"]:
        console.print(f"{found['skip_empty']:,} of {documents:,} documents have no tokens, and were left out")
    if found["ended"]:
        doubt = "; is --eos-token right?" if 2 * found["ended"] > documents else ""
        console.print(
            f"{found['ended']:,} of {documents:,} documents did not end in token {known['eos_id']}: it was added{doubt}"
        )
    if found["without_index"]:
        some = found["without_index"]
        console.print(
            f"{len(some):,} files have no index (the first: {some[0]}); documents end at token {known['eos_id']} there"
        )
    console.print(f"join it with others: python -m pipeline mix {found['out']} OTHER... --out NEW")

"""The two sides of the comparison: this pipeline's chain and datatrove's, each run once as a program of its own."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.crawl import Crawl, read_pages
from benchmarks.settings import RESILIPARSE
from pipeline.ledger import Ledger
from pipeline.plan.node import Report

PHASES = ("start-up", "read, write", "extract", "filter", "minhash", "tokens")
TOKEN_TASKS = ("tokenizer", "tokenize", "plan shards", "shard")

# The steps with datatrove's definitions and limits; of C4's rules, terminal punctuation is off, as FineWeb has it.
FILTERS: list[Any] = [
    "repetition_datatrove",
    "gopher_quality_datatrove",
    {"c4_quality": {"terminal_punctuation": False}},
    "fineweb_quality",
]
DIFFERENCES = """\
Both sides: Gopher repetition and quality, C4 (without terminal punctuation, as FineWeb), FineWeb, MinHash of 14 x 8,
with the same definitions and limits; words are split by spaCy's rules for English on both sides, sentences by headrace as
UAX #29 has them. Headrace computes and keeps all measures of a document; datatrove stops at the first rule that it fails."""


@dataclass
class Input:
    """What a chain reads: a crawl, or the JSON lines of its extracted text. `bytes` is of HTML, or of text."""

    files: tuple[str, ...]
    documents: int
    bytes: int
    is_text: bool = False


@dataclass
class Result:
    """One run of one side: what it took, phase by phase, and what came out."""

    side: str
    usage: measure.Usage
    phases: dict[str, float]
    documents: dict[str, int] = field(default_factory=dict)  # after each step
    tokens: int = 0

    @property
    def seconds(self) -> float:
        return self.usage.seconds

    def to_json(self) -> dict[str, Any]:
        return {"side": self.side, **self.usage.to_json(), "phases": self.phases} | {
            "documents": self.documents,
            "tokens": self.tokens,
        }


def run_headrace(source: Input, work: Path, tokenizer: Path, cores: set[int], *, ray: bool) -> Result:
    """The recipe through the command line, as a user runs it: in one process, or on Ray with one worker.

    `work` is an empty folder, here and below.
    """
    steps = [*([] if source.is_text else ["extract"]), *FILTERS, {"dedup": {"method": "minhash"}}]
    recipe = {
        "name": "bench",
        "sources": {"web": {"read": {"paths": list(source.files)}, "steps": steps}},
        "tokenizer": {"path": str(tokenizer)},
        "shards": {"held_out": 0},
        "mixture": {},
        "run": {"keep": "none"},
    }
    (work / "recipe.yaml").write_text(json.dumps(recipe))
    command = ["-m", "pipeline", "run", str(work / "recipe.yaml"), "--out", str(work / "run"), "--json"]
    usage = measure.run([*command, *(["--workers", "1"] if ray else ["--inline"])], cores)
    phases = dict.fromkeys(PHASES, 0.0)
    with Ledger(str(work / "run")) as ledger:
        for entry in ledger.entries():
            if entry.ref.kind == "dedup":
                phases["minhash"] += entry.seconds
            elif entry.ref.kind in TOKEN_TASKS:
                phases["tokens"] += entry.seconds
            elif entry.ref.kind == "documents":
                books = entry.report_as(Report).books
                phases["extract"] += sum(b.seconds for b in books if b.step == "extract")
                phases["filter"] += sum(b.seconds for b in books if b.step != "extract")
                phases["read, write"] += entry.seconds - sum(b.seconds for b in books)
    phases["start-up"] = usage.seconds - sum(phases.values())
    web = json.loads(usage.output)["sources"]["web"]
    documents = {"read": web["documents_in"]} | {b["step"]: b["out"][0] for b in web["steps"][1:]}
    return Result("headrace, Ray" if ray else "headrace", usage, phases, documents, web["tokens"])


def run_datatrove(source: Input, work: Path, tokenizer: Path, cores: set[int], *, extractor: str) -> Result:
    """The chain of benchmarks/datatrove_chain.py with datatrove's own Trafilatura, or with Resiliparse."""
    spec: dict[str, Any] = {
        "work": str(work),
        "tokenizer": str(tokenizer),
        "eos": end_of_text(tokenizer),
        "extractor": extractor,
        "result": str(work / "result.json"),
    }
    spec |= {"texts": source.files[0]} if source.is_text else {"files": source.files}
    (work / "spec.json").write_text(json.dumps(spec))
    command = ["-m", "benchmarks.datatrove_chain", str(work / "spec.json")]
    usage = measure.run(command, cores, {"BENCH_BEGAN": str(time.time())})
    stages = json.loads((work / "result.json").read_text())["stages"]
    phases = dict.fromkeys(PHASES, 0.0)
    documents: dict[str, int] = {}
    for step in stages["filter"]["steps"]:
        counts = {name: int(value) for name, value in step["counts"].items()}
        if "EXTRAC" in step["name"]:
            phases["extract"] += step["seconds"]
            documents = {"read": counts["total"], "extract": counts["forwarded"]}
            documents |= {k: counts[k] for k in ("timeout", "broken_process", "clean_error") if k in counts}
        elif "FILTER" in step["name"]:
            phases["filter"] += step["seconds"]
            documents[step["name"].split(maxsplit=4)[-1]] = counts.get("forwarded", 0)
    phases["read, write"] = stages["filter"]["seconds"] - phases["extract"] - phases["filter"]
    last = stages["minhash 4, tokens"]["steps"]
    removal = next(step for step in last if "MinHash" in step["name"])
    phases["minhash"] = sum(stages[f"minhash {n}"]["seconds"] for n in (1, 2, 3)) + removal["seconds"]
    phases["tokens"] = stages["minhash 4, tokens"]["seconds"] - removal["seconds"]
    phases["start-up"] = usage.seconds - sum(phases.values())
    documents["minhash"] = int(removal["counts"].get("forwarded", 0))
    tokens = int(next(step for step in last if "TOKENIZER" in step["name"])["counts"].get("tokens", 0))
    name = "datatrove" if source.is_text else f"datatrove, {extractor.capitalize()}"
    return Result(name, usage, phases, documents, tokens)


def end_of_text(tokenizer: Path) -> str:
    """The token that ends a document, by its usual names. Raises SystemExit where the vocabulary has none."""
    from tokenizers import Tokenizer

    from stages.tokens.tokenizer import END_TOKENS

    found = Tokenizer.from_file(str(tokenizer))
    for name in END_TOKENS:
        if found.token_to_id(name) is not None:
            return name
    raise SystemExit(f"{tokenizer} has none of the usual end-of-text tokens")


def extracted_text(crawl: Crawl, work: Path) -> Input:
    """The main text of all pages of a crawl as JSON lines (gzip), by Resiliparse; made once and kept beside the crawl."""
    path = Path(crawl.files[0]).parent / "text" / "texts.jsonl.gz"
    facts = path.with_name("facts.json")
    if not facts.exists():
        from resiliparse.extract.html2text import extract_plain_text

        from stages.charset import decode

        path.parent.mkdir(exist_ok=True)
        documents = size = 0
        with gzip.open(path, "wt", compresslevel=1) as out:
            for file in crawl.files:
                for record_id, url, _, html in read_pages(Path(file)):
                    if text := extract_plain_text(decode(html).text, **RESILIPARSE):
                        out.write(json.dumps({"id": record_id, "text": text, "url": url}, ensure_ascii=False) + "\n")
                        documents += 1
                        size += len(text.encode("utf-8", "replace"))
        facts.write_text(json.dumps(asdict(Input((str(path),), documents, size, is_text=True))))
    found = json.loads(facts.read_text())
    return Input(**found | {"files": (str(path),)})


def default_tokenizer(work: Path, texts: Sequence[str]) -> Path:
    """OLMoE's tokenizer where ../shared/data has it, else one trained on the given texts."""
    from benchmarks.crawl import SHARED

    shared = SHARED / "tokenizers" / "gpt-neox-olmo-dolma-v1_5.json"
    if shared.exists():
        return shared
    from stages.tokens.train_tokenizer import train_tokenizer

    path = work / "tokenizer.json"
    if not path.exists():
        train_tokenizer(iter(texts), path, 8192, 8 << 20)
    return path


def read_texts(source: Input) -> list[str]:
    """The texts of an extracted crawl."""
    with gzip.open(source.files[0], "rt") as file:
        return [json.loads(line)["text"] for line in file]

"""What `peers` runs in the environments of other tools: one measurement a call, without a line of Headrace.

    python peers_child.py NAME FOLDER

FOLDER holds the inputs; what was found is the last line of standard output, as JSON. Times are of the processor, of the work
alone: not of imports, of reading inputs into memory, or of a first call that loads things.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def texts(folder: Path) -> list[str]:
    """The texts of texts.jsonl.gz."""
    with gzip.open(folder / "texts.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returned."""
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def polars_exact(folder: Path) -> dict[str, Any]:
    """Which rows of Parquet files hold a text that stood before: read, hashed and compared by polars."""
    import polars as pl

    files = sorted((folder / "parts").glob("*.parquet"))
    seconds, first = timed(lambda: pl.read_parquet(files, columns=["text"])["text"].is_first_distinct())
    return {"seconds": seconds, "removed": int((~first).sum())}


def dolma_filters(folder: Path) -> dict[str, Any]:
    """Dolma's taggers of the rules of Gopher and C4, on documents in memory."""
    from dolma.core.data_types import Document
    from dolma.core.registry import TaggerRegistry

    given = [Document(source="x", id=str(i), text=text) for i, text in enumerate(texts(folder))]
    found = {}
    for name in ("gopher_v2", "c4_v2"):
        tagger = TaggerRegistry.get(name)()
        tagger.predict(given[0])
        found[name] = timed(lambda tagger=tagger: [tagger.predict(document) for document in given])[0]
    return {"seconds": found}


def dolma_paragraphs(folder: Path) -> dict[str, Any]:
    """Dolma's deduper of paragraphs over a compressed file of documents: it reads, parses, and writes attributes.

    Called as its command calls it, in this process, so that no start is in the time.
    """
    from dolma import deduper

    work = folder / "dolma"
    (work / "documents").mkdir(parents=True, exist_ok=True)
    (work / "documents" / "texts.jsonl.gz").write_bytes((folder / "texts.jsonl.gz").read_bytes())
    config = {
        "documents": [str(work / "documents" / "*.gz")],
        "dedupe": {
            "name": "paragraphs", "paragraphs": {"attribute_name": "duplicates"}, "skip_empty": True, "min_length": 0,
            "min_words": 0, "num_partitions": 1, "partition_index": 0, "file_partition": False, "document_dir": "documents",
        },
        "bloom_filter": {
            "file": str(work / "filter.bin"), "size_in_bytes": 0, "read_only": False, "estimated_doc_count": 2_000_000,
            "desired_false_positive_rate": 0.01,
        },
        "processes": 1, "is_s3_volume": False, "work_dir": {"input": str(work / "in"), "output": str(work / "out")},
        "compression": {"input": None, "output": None},
    }  # fmt: skip
    seconds, _ = timed(lambda: deduper(config))
    spans = 0
    for path in (work / "attributes").rglob("*.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            spans += sum(len(value) for line in lines for value in json.loads(line)["attributes"].values())
    if not spans:
        raise RuntimeError("Dolma's deduper marked no paragraph: it did not read the documents")
    return {"seconds": seconds, "removed": spans}


def nemo_filters(folder: Path) -> dict[str, Any]:
    """NeMo Curator's heuristic filters of the rules of Gopher and C4, on texts in memory."""
    from nemo_curator.stages.text.filters import heuristic
    from nemo_curator.stages.text.filters.heuristic import repetition

    given = texts(folder)
    chosen = {
        "gopher": ("WordCountFilter", "MeanWordLengthFilter", "SymbolsToWordsFilter", "BulletsFilter", "EllipsisFilter",
                   "CommonEnglishWordsFilter", "WordsWithoutAlphabetsFilter"),
        "repetition": ("RepeatedLinesFilter", "RepeatedParagraphsFilter", "RepeatedLinesByCharFilter",
                       "RepeatedParagraphsByCharFilter", *[("RepeatingTopNGramsFilter", n) for n in (2, 3, 4)],
                       *[("RepeatingDuplicateNGramsFilter", n) for n in range(5, 11)]),
    }  # fmt: skip
    found = {}
    for kind, names in chosen.items():
        steps = []
        for name in names:
            module = heuristic if kind == "gopher" else repetition
            steps.append(getattr(module, name)() if isinstance(name, str) else getattr(module, name[0])(n=name[1]))
        steps[0].score_document(given[0])
        found[kind] = timed(lambda steps=steps: [step.score_document(text) for step in steps for text in given])[0]
    return {"seconds": found}


def litdata_loader(folder: Path) -> dict[str, Any]:
    """Batches of tokens in shuffled order by litdata's StreamingDataLoader, from chunks that it wrote before."""
    import numpy as np
    import torch
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader, optimize

    settings = json.loads((folder / "loader.json").read_text())
    files = sorted(str(path) for path in (folder / "tokens" / "web").glob("*.npy"))
    out = folder / "litdata"
    optimize(
        fn=lambda path: torch.from_numpy(np.fromfile(path, np.uint16).astype(np.int32)), inputs=files, output_dir=str(out),
        chunk_bytes="64MB", item_loader=TokensLoader(), num_workers=1, start_method="fork", verbose=False,
    )  # fmt: skip
    data = StreamingDataset(str(out), item_loader=TokensLoader(block_size=settings["length"]), shuffle=True)
    loader = StreamingDataLoader(data, batch_size=settings["batch"], num_workers=0)
    seconds, tokens = timed(lambda: sum(batch.numel() for batch in loader))
    return {"seconds": seconds, "tokens": tokens}


def memmap_loader(folder: Path) -> dict[str, Any]:
    """Batches in random order by PyTorch's DataLoader over NumPy's memory maps, as many trainings have it."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, Dataset

    settings = json.loads((folder / "loader.json").read_text())
    length = settings["length"]
    maps = [np.memmap(path, np.uint16, "r") for path in sorted((folder / "tokens" / "web").glob("*.npy"))]
    places = [(file, row) for file, one in enumerate(maps) for row in range(len(one) // length)]

    class Instances(Dataset):
        def __len__(self) -> int:
            return len(places)

        def __getitem__(self, index: int) -> torch.Tensor:
            file, row = places[index]
            return torch.from_numpy(maps[file][row * length : (row + 1) * length].astype(np.int64))

    loader = DataLoader(Instances(), batch_size=settings["batch"], shuffle=True, num_workers=0)
    seconds, tokens = timed(lambda: sum(batch.numel() for batch in loader))
    return {"seconds": seconds, "tokens": tokens}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2]))))

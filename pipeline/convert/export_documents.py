"""`export --documents`: the plan that writes a run's documents as they were, one task a part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.jobs.export_documents import ExportDocuments, FileOfRun
from pipeline.ledger import Ref
from pipeline.plan.node import Node
from pipeline.questions.documents import kept_paths
from pipeline.recipe.overrides import nearest
from pipeline.run_folder.finished import FinishedRun, SourceParts
from stages.chain import BYTES_IN, TEXT_IN
from stages.errors import UserError
from stages.step import Step
from stages.tokens.formats.jsonl import SUFFIXES


def document_nodes(
    run: FinishedRun, sources: Sequence[str], split: str, format: str, compression: str, measures: Sequence[str]
) -> Iterator[Node]:
    """A node for each part. measures: names as `step.measure`, or "all". Raises UserError where the texts were let go."""
    digests = {output.path: output.digest for entry in run.entries for output in entry.outputs}
    known = {name: _measures(run, run.sources[name]) for name in sources}
    every = [name for names in known.values() for name in names]
    for name in measures:
        if name != "all" and name not in every:
            raise UserError(f"--measures {name}: no source that is exported has it{nearest(name, every)}")
    for name in sources:
        source = run.sources[name]
        wanted = tuple(known[name] if "all" in measures else measures)
        if any(not files.text for files in (source.parts[-1] if source.parts else ())):
            raise UserError(
                f"{run.uri}: the texts of {name} were let go (run.keep is {run.recipe.run.keep}): leave out --documents, for "
                "texts decoded from the tokens, or run the recipe again with run.keep=all"
            )
        for ordinal, path in enumerate(kept_paths(run, source)):
            assert path is not None
            index = source.tokens[ordinal].files[split].index
            ending = ".parquet" if format == "parquet" else SUFFIXES[compression]
            prefix = "" if split == "train" else f"{split}-"
            job = ExportDocuments(
                part=FileOfRun(path, digests[path]),
                index=FileOfRun(index.path, index.digest),
                source=name,
                format=format,
                measures=wanted,
                compression=compression,
                output=f"{name}/{prefix}{ordinal:05d}{ending}",
                run_uri=run.uri,
            )
            yield Node(Ref("export", name, split, ordinal), job, source.tokens[ordinal].files[split].text_bytes)


def _measures(run: FinishedRun, source: SourceParts) -> list[str]:
    """The measures that a source's kept documents have."""
    path = next((files.kept for files in (source.parts[-1] if source.parts else ()) if files.kept), None)
    columns = run.columns(path) if path else []
    steps = tuple(f"{name}." for name, item in run.recipe.sources[source.name].steps if isinstance(item, Step))
    return [name for name in columns if name.startswith(steps) and not name.endswith((TEXT_IN, BYTES_IN))]

"""A summary of a run's content: by licence, by opt-out and by domain, what was kept and what the rules cost (`report --summary`).

Tokens of documents are their bytes over the source's bytes a token, as in `sweep`. Domains are hosts without `www.`. At most
MOST_DOMAINS are counted at a time: beyond, those with the least text are put together, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from rich.console import Console

from pipeline.questions.measured import document_keys, lost_later
from pipeline.questions.sweep import bytes_per_token
from pipeline.run_folder.finished import FinishedRun, PartFiles, SourceParts, open_finished
from pipeline.tables import plain_table
from stages.document import text_buffers
from stages.errors import UserError
from stages.filters.permissions import Permissions
from stages.units import show_count

MOST_DOMAINS = 1_000_000
SHOWN = 20  # domains of the table
OF_ALL = 10  # one domain in so many, the largest, is listed in full: what the EU's template for such summaries asks for
NO_DOMAIN, OTHERS = "(no address)", "(other domains)"
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?:[wW]{3}\.)?(?P<host>[^/?#:]+)"


@dataclass
class _Domain:
    """Documents and tokens of one domain, kept and dropped by the rules."""

    documents: int = 0
    tokens: float = 0.0
    dropped_documents: int = 0
    dropped_tokens: float = 0.0


@dataclass
class _Content:
    """What was counted so far."""

    kept: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # (what is said, value): [documents, tokens]
    cost: dict[str, np.ndarray] = field(default_factory=dict)  # by reason, likewise
    domains: dict[str, _Domain] = field(default_factory=dict)
    merged: bool = False

    def domain(self, name: str) -> _Domain:
        if name not in self.domains and len(self.domains) >= MOST_DOMAINS:
            self._merge()
        return self.domains.setdefault(name, _Domain())

    def _merge(self) -> None:
        """Put the smaller half together."""
        self.merged = True
        order = sorted(self.domains, key=lambda name: self.domains[name].tokens + self.domains[name].dropped_tokens)
        others = self.domains.pop(OTHERS, _Domain())
        for name in order[: len(order) // 2]:
            if name != OTHERS:
                one = self.domains.pop(name)
                others.documents, others.tokens = others.documents + one.documents, others.tokens + one.tokens
                others.dropped_documents += one.dropped_documents
                others.dropped_tokens += one.dropped_tokens
        self.domains[OTHERS] = others


class Said(Struct, frozen=True):
    """Kept documents by what they say: a licence, or an opt-out."""

    what: str
    value: str
    documents: int
    tokens: int


class RuleCost(Struct, frozen=True):
    """What a rule dropped."""

    rule: str
    documents: int
    tokens: int


class DomainShare(Struct, frozen=True):
    """Documents and tokens of one domain, kept and dropped by the rules."""

    domain: str
    documents: int
    tokens: int
    dropped_documents: int
    dropped_tokens: int


class Content(Struct, frozen=True, kw_only=True):
    """What a run's documents say and where they come from. domains: the largest; small_domains_together: others are one."""

    run: str
    tokens: int
    documents: int
    said: list[Said]
    rules: list[RuleCost]
    domains_in_all: int
    small_domains_together: bool
    domains: list[DomainShare]


def content(run: str) -> Content:
    """What is kept, by what it says and by domain, and what rules dropped.

    Raises UserError where there is no finished run, or it let go what is needed.
    """
    finished = open_finished(run)
    found = _Content()
    for source in finished.sources.values():
        per_token = bytes_per_token(finished, source.name)
        _add_kept(finished, source, per_token, found)
        _add_dropped(finished, source, per_token, found)
    entries = finished.manifest["sources"].values()
    names = sorted(found.domains, key=lambda name: (-found.domains[name].tokens, name))
    listed = max(SHOWN, -(-len(names) // OF_ALL))
    return Content(
        run=run,
        tokens=sum(entry["tokens"] + entry["held_out"]["tokens"] for entry in entries),
        documents=sum(entry["documents"] + entry["held_out"]["documents"] for entry in entries),
        said=[Said(what, value, *_counts(counts)) for (what, value), counts in sorted(found.kept.items())],
        rules=[RuleCost(rule, *_counts(counts)) for rule, counts in sorted(found.cost.items())],
        domains_in_all=len(names),
        small_domains_together=found.merged,
        domains=[_share(name, found.domains[name]) for name in names[:listed]],
    )


def _counts(counts: np.ndarray) -> tuple[int, int]:
    return round(counts[0]), round(counts[1])


def _share(name: str, one: _Domain) -> DomainShare:
    return DomainShare(name, one.documents, round(one.tokens), one.dropped_documents, round(one.dropped_tokens))


def _steps(source: SourceParts, stage: int) -> list[str]:
    return [name for name, step in source.plan[stage].steps if isinstance(step, Permissions)]


def _add_kept(run: FinishedRun, source: SourceParts, per_token: float, found: _Content) -> None:
    """What became tokens: the documents of the last parts, but for those that later tasks took."""
    last = len(source.parts) - 1
    names = [name for stage in range(last + 1) for name in _steps(source, stage)]
    columns = [f"{name}.{measure}" for name in names for measure in ("license", *Permissions.tallies)]
    for ordinal, files in enumerate(source.parts[last] if source.parts else []):
        lost = lost_later(run, source, last, ordinal)
        if files.report.docs and files.kept is None:
            raise UserError(f"{run.uri} has let go its documents: run the recipe with run.keep: measures")
        for batch, sizes in _rows(run, files, columns):
            stay = ~np.asarray(pc.is_in(document_keys(batch), value_set=lost))
            batch, tokens = batch.filter(pa.array(stay)), sizes[stay] / per_token
            for domain, documents, sum_tokens in _by(_domains(batch), tokens):
                one = found.domain(domain)
                one.documents, one.tokens = one.documents + documents, one.tokens + sum_tokens
            for column in columns:
                if column in batch.schema.names:
                    _add_said(column.rsplit(".", 1)[1], batch.column(column), tokens, found)


def _add_said(what: str, values: pa.Array, tokens: np.ndarray, found: _Content) -> None:
    said = values if what == "license" else pc.if_else(pc.greater(values, 0), "yes", "no")
    for value, documents, sum_tokens in _by(pc.fill_null(said, "not stated"), tokens):
        counts = found.kept.setdefault((what, value), np.zeros(2))
        counts += [documents, sum_tokens]


def _add_dropped(run: FinishedRun, source: SourceParts, per_token: float, found: _Content) -> None:
    for stage, parts in enumerate(source.parts):
        rules = tuple(f"{name}." for name in _steps(source, stage))
        for files in parts if rules else ():
            for _, batch in run.rows(files.dropped, ["url", "reason", "bytes"]) if files.dropped else ():
                mine = np.array([reason.startswith(rules) for reason in batch.column("reason").to_pylist()], bool)
                batch = batch.filter(pa.array(mine))
                tokens = np.asarray(batch.column("bytes").fill_null(0), np.float64) / per_token
                for reason, documents, sum_tokens in _by(batch.column("reason"), tokens):
                    counts = found.cost.setdefault(f"{source.name}: {reason}", np.zeros(2))
                    counts += [documents, sum_tokens]
                for domain, documents, sum_tokens in _by(_domains(batch), tokens):
                    one = found.domain(domain)
                    one.dropped_documents += documents
                    one.dropped_tokens += sum_tokens


def _rows(run: FinishedRun, files: PartFiles, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Documents of a part, with the bytes of each; the part's mean, where its text was let go."""
    text = ["text"] if files.text else []
    for _, batch in run.rows(files.kept, ["file", "record", "url", *columns, *text]) if files.kept else ():
        if files.text:
            yield batch, np.diff(text_buffers(batch.column("text"))[1]).astype(np.float64)
        else:
            yield batch, np.full(batch.num_rows, files.report.bytes / max(files.report.docs, 1))


def _domains(batch: pa.RecordBatch) -> pa.Array:
    """The host of each URL in lower case, without `www.`."""
    hosts = pc.struct_field(pc.extract_regex(batch.column("url").cast(pa.large_string()), _HOST), "host")
    return pc.fill_null(pc.utf8_lower(hosts), NO_DOMAIN)


def _by(keys: pa.Array, tokens: np.ndarray) -> list[tuple[str, int, float]]:
    """(key, documents, tokens) of each key."""
    table = pa.table({"key": keys, "tokens": pa.array(tokens, pa.float64())})
    grouped = table.group_by("key").aggregate([("tokens", "count"), ("tokens", "sum")])
    return [(row["key"], row["tokens_count"], row["tokens_sum"]) for row in grouped.to_pylist()]


def show_content(found: Content, console: Console) -> None:
    """Print the tables."""
    total = max(1, found.tokens)
    console.print(f"{found.run}: {show_count(found.tokens)} tokens of {found.documents:,} documents")
    rules = plain_table("what rules cost", "rule<", "documents", "tokens")
    said = plain_table("what is kept says", "what<", "value<", "documents", "tokens", "share")
    title = f"domains, the largest of {found.domains_in_all:,}"
    domains = plain_table(title, "domain<", "documents", "tokens", "share", "dropped", "tokens dropped")
    for row in found.rules:
        rules.add_row(row.rule, f"{row.documents:,}", show_count(row.tokens))
    for row in found.said:
        said.add_row(row.what, row.value, f"{row.documents:,}", show_count(row.tokens), f"{row.tokens / total:.1%}")
    for row in found.domains[:SHOWN]:
        cells = [f"{row.documents:,}", show_count(row.tokens), f"{row.tokens / total:.1%}"]
        domains.add_row(row.domain, *cells, f"{row.dropped_documents:,}", show_count(row.dropped_tokens))
    for table in (rules, said, domains):
        if table.row_count:
            console.print(table)
    if found.small_domains_together:
        console.print(f"of more than {MOST_DOMAINS:,} domains the smallest are counted together, as {OTHERS}")

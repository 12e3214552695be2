"""What a recipe says of dedup: `dedup: {method: minhash, ngram: 5, ...}`, checked when the recipe is loaded.

Each method has its own class, chosen by `method`, so a key of another method is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, TypeAdapter, model_validator

from stages.dedup.bloom import check_memory
from stages.dedup.normalize import Normalization
from stages.errors import UserError
from stages.marks import HowMuch, InFile
from stages.step import Settings
from stages.units import Bytes

Fraction = Annotated[float, Field(ge=0, le=1)]
MEBIBYTE = 1 << 20
SMALL_FILTER = 256 * MEBIBYTE  # up to here much of a filter lies in a processor's caches, and one thread is fast
NGRAMS_OF_DOCUMENT = 600  # what a web page holds, about


class _Dedup(Settings):
    """What all methods share."""

    expected_removal: HowMuch[tuple[Fraction, Fraction] | None] = None
    """Share of the documents that may go, [least, most]: outside of it the run stops before it replaces anything."""

    @model_validator(mode="after")
    def _range_is_ordered(self) -> _Dedup:
        if self.expected_removal and self.expected_removal[0] > self.expected_removal[1]:
            raise ValueError(f"expected_removal: {self.expected_removal[0]:g} is above {self.expected_removal[1]:g}")
        return self

    @model_validator(mode="after")
    def _old_documents_stay(self) -> _Dedup:
        if not getattr(self, "keep_old", True):
            raise ValueError(
                "keep_old is false: documents of the runs in `against` always stay, as a finished run is not changed; name the "
                "old files as a source of this recipe where some of them are to go"
            )
        return self

    @property
    def reason(self) -> str:
        """The reason on record for documents that this method removes."""
        return f"dedup.{self.method}"  # type: ignore[attr-defined]

    def check_removal(self, removed: int, documents: int) -> None:
        """Raise UserError where the share removed is outside `expected_removal`."""
        if self.expected_removal is None or documents == 0:
            return
        least, most = self.expected_removal
        share = removed / documents
        if not least <= share <= most:
            raise UserError(
                f"{self.reason} removed {share:.2%} of {documents:,} documents, outside expected_removal "
                f"[{least:g}, {most:g}]: nothing was replaced; look into why, or change the key"
            )


class _Clustered(_Dedup):
    """Methods that find groups of copies and keep one of each."""

    keep: Literal["first", "longest", "best"] = "first"
    """Which of a group stays: the first in canonical order, the longest in bytes of text, or the best by `best`.
    Ties go to the first."""
    best: str | None = None
    """With `keep: best`, the measure (`step.measure`, a number) whose greatest value stays; a missing one is least."""
    against: InFile[tuple[str, ...]] = ()
    """Finished runs, by their folders, whose documents count as there before: copies of these go, and none of these does. Their
    dedup has `save: true`, and the same settings of what is compared."""
    keep_old: HowMuch[bool] = True
    """Documents of the runs in `against` stay, always: these runs are finished, and nothing changes them."""
    save: bool = False
    """Keep an index with the run's output, for later runs that name this one in `against`."""
    copies: bool = False
    """Measure of each document that stays as how many it was found, itself and those that went for it: `NAME.copies`, NAME being
    that of this entry, which a source may be split by."""
    partitions: HowMuch[int | None] = Field(default=None, ge=1, le=1 << 20)
    """Partitions of every shuffle; left out, as many as `partition_bytes` asks for."""
    partition_bytes: HowMuch[Bytes] = Field(default=256 * MEBIBYTE, ge=MEBIBYTE)
    """What one partition of records is meant to hold at most, uncompressed."""
    memory: HowMuch[Bytes] = Field(default=256 * MEBIBYTE, ge=MEBIBYTE)
    """Bytes of records that one task holds before it sorts them and sets them aside on disk."""

    @model_validator(mode="after")
    def _best_names_a_measure(self) -> _Clustered:
        if (self.keep == "best") != (self.best is not None):
            raise ValueError("`keep: best` and `best: step.measure` go together")
        return self

    @property
    def records_per_document(self) -> int:
        return 1

    @property
    def document_bytes(self) -> int:
        """Bytes of a document's records."""
        return 24

    @property
    def member_bytes(self) -> int:
        """Bytes, about, by which a member of a cluster takes part in the choice."""
        return 24

    def partition_count(self, documents: int, document_bytes: int | None = None) -> int:
        """How many partitions `documents` documents are shuffled through, each of so many bytes (as records, if None)."""
        if self.partitions:
            return self.partitions
        size = documents * (document_bytes or self.document_bytes)
        return min(1 << 20, max(1, -(-size // self.partition_bytes)))


class Exact(_Clustered):
    """Equal texts, by the 128-bit hash of the normalized text. A text that normalizes to nothing is no copy."""

    method: Literal["exact"]
    """`exact`."""
    normalize: Normalization = "whitespace"
    """What is made equal first: `whitespace` squeezes white space, `simple` is datatrove's simplify_text, or `none`."""


class Url(_Clustered):
    """Equal URLs, normalized (see stages.dedup.urls). A document without a URL is no copy."""

    method: Literal["url"]
    """`url`."""
    drop_query: bool = False
    """Compare without what follows `?`."""


class MinHash(_Clustered):
    """Near copies, by MinHash over word n-grams. Defaults: datatrove's and FineWeb's (14 x 8, 5-grams).

    Words are what stands between spaces once the text is normalized. A document of fewer than `ngram` words is no copy.
    """

    method: Literal["minhash"]
    """`minhash`."""
    ngram: int = Field(default=5, ge=1, le=64)
    """Words of an n-gram."""
    bands: int = Field(default=14, ge=1, le=1024)
    """Bands of the signature: documents with one equal band are copies."""
    rows: int = Field(default=8, ge=1, le=1024)
    """Hashes of a band."""
    seed: int = Field(default=1, ge=0, lt=1 << 63)
    """Of the hash functions."""
    normalize: Literal["whitespace", "simple"] = "simple"
    """What is made equal first: `simple` is datatrove's simplify_text, `whitespace` squeezes white space alone."""
    verify: Fraction | None = None
    """Remove only a document whose true Jaccard similarity to the kept one is at least this; others stay."""
    verify_against: int = Field(default=64, ge=1)
    """With `verify`, how many kept documents of a cluster, the first ones, each other member is compared to."""

    @model_validator(mode="after")
    def _old_texts_are_not_read(self) -> MinHash:
        if self.against and self.verify is not None:
            raise ValueError("verify reads the texts of copies, and those of the runs in `against` are not read: leave one out")
        return self

    @property
    def records_per_document(self) -> int:
        return self.bands

    @property
    def document_bytes(self) -> int:
        return 16 * self.bands

    @property
    def member_bytes(self) -> int:
        return 24 if self.verify is None else 24 + 8 * NGRAMS_OF_DOCUMENT


class Filtering(_Dedup):
    """Methods that take documents in order past what was seen before, in memory, shard by shard."""

    fp_rate: float = Field(default=0.01, gt=0, lt=1)
    """Share of false positives that the filter is sized for."""
    shards: int = Field(default=1, ge=1)
    """Shares of the corpus with a filter each, deduplicated apart from one another (100 in DCLM): runs of consecutive
    source files, as equal in number as can be. A file belongs to one of them as a whole."""
    memory: HowMuch[Bytes] = Field(default=8 << 30, ge=1 << 16)
    """Bytes that one filter may take: a larger one is an error before the run starts."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Of the hash functions."""
    load: InFile[str | None] = None
    """A saved filter to begin with: what it holds counts as seen (dedup of a new crawl against old ones)."""
    against: InFile[tuple[str, ...]] = ()
    """Finished runs, by their folders, whose dedup by this method has `save: true`: what their filters hold counts as seen. They
    stay as they are, and are held in `memory` beside the own one."""
    keep_old: HowMuch[bool] = True
    """Documents of the runs in `against` stay, always: these runs are finished, and nothing changes them."""
    save: bool = False
    """Keep each shard's filter with the run's output."""
    name_holders: bool = True
    """Read the texts once more to name, for whatever was removed, the document that had it first."""
    witness_memory: HowMuch[Bytes] = Field(default=256 * MEBIBYTE, ge=1 << 16)
    """Bytes of removed spans that one task looks for at a time, with `name_holders`."""

    @property
    def expected(self) -> int | None:
        """How many items each filter is sized for; None where they are counted."""
        raise NotImplementedError

    @property
    def exactly(self) -> bool:
        """Whether a table holds the hashes themselves, in place of a Bloom filter."""
        return False

    @property
    def words(self) -> int:
        """Words of an item of the filter; 0 for whole paragraphs."""
        return 0

    @property
    def cuts(self) -> bool:
        """Whether pieces of documents go."""
        return True

    def cores(self, filter_bytes: int) -> int:
        """Cores that a task with a filter of so many bytes makes use of."""
        return 1

    @model_validator(mode="after")
    def _loaded_filters_are_not_sized(self) -> Filtering:
        if self.load and self.against:
            raise ValueError("load and against are both given: a filter to begin with, and runs whose filters are looked into")
        if self.load and self.shards > 1:
            raise ValueError("load: one saved filter goes with shards: 1")
        if self.exactly and (self.load or self.against or self.save):
            raise ValueError("load and save are for Bloom filters: leave exact out")
        if self.expected and not self.load:
            try:
                check_memory(self.expected, self.fp_rate, self.memory, "what is expected", exactly=self.exactly)
            except UserError as error:
                raise ValueError(str(error)) from None
        return self


class Bff(Filtering):
    """DCLM's Bloom filter dedup of paragraphs and documents (facts in stages.dedup.bff)."""

    method: Literal["bff"]
    """`bff`."""
    ngram: int = Field(default=13, ge=1, le=64)
    """Words (segments of UAX #29 that are not white space) of an n-gram."""
    threshold: Fraction = 0.8
    """A paragraph or document goes when more than this share of its n-grams was seen before (strictly more)."""
    mode: Literal["old-both", "document", "paragraph"] = "old-both"
    """What goes: documents, paragraphs, or both by DCLM's rule."""
    expected_ngrams: int | None = Field(default=None, ge=1)
    """N-grams that each filter is sized for; left out, they are counted in a first pass."""

    threads: HowMuch[int] = Field(default=8, ge=1, le=256)
    """Threads that share a filter of more than 256 MiB, where the machine has so many cores; the task takes these cores. A
    smaller one lies in the caches, and its task takes one core, as one with `against` does. The result is the same."""

    @property
    def expected(self) -> int | None:
        return self.expected_ngrams

    @property
    def words(self) -> int:
        return self.ngram

    @property
    def cuts(self) -> bool:
        return self.mode != "document"

    def cores(self, filter_bytes: int) -> int:
        return self.threads if filter_bytes > SMALL_FILTER and not self.against else 1


class Paragraphs(Filtering):
    """Whole paragraphs that stood before, to the letter, go: as Dolma's deduper (`paragraphs`, with `skip_empty`) marks them.

    A paragraph is what ends in a newline, which goes with it. Of equal ones the first in canonical order stays.
    """

    method: Literal["paragraphs"]
    """`paragraphs`."""
    exact: bool = False
    """Keep 128 bits of each paragraph, 24 bytes of memory, in place of a Bloom filter: nothing goes that did not stand before."""
    min_chars: int = Field(default=0, ge=0)
    """Paragraphs of fewer characters always stay (Dolma's `min_length`); so do those of nothing but white space."""
    expected_paragraphs: int | None = Field(default=None, ge=1)
    """Paragraphs that each filter is sized for; left out, they are counted in a first pass."""

    @property
    def expected(self) -> int | None:
        return self.expected_paragraphs

    @property
    def exactly(self) -> bool:
        return self.exact


class Substring(_Dedup):
    """Repeated substrings: a run of `length` units that stood in the corpus before is cut out.

    Found exactly, by a suffix array (Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better", which
    sets 50 tokens).
    """

    method: Literal["substring"]
    """`substring`."""
    length: int = Field(default=50, ge=2, le=1 << 20)
    """Units of the shortest repeat."""
    unit: Literal["words", "tokens", "bytes"] = "words"
    """words: segments of UAX #29 (punctuation too), white space not compared; tokens: of `tokenizer`, as in the paper;
    bytes: of UTF-8, of which whole characters are cut out."""
    tokenizer: InFile[str | None] = None
    """With `unit: tokens`, a byte-level tokenizer.json."""
    keep: Literal["first", "none"] = "first"
    """first: of each repeat the first in canonical order stays; none: all go, as in the paper."""
    min_left: int = Field(default=50, ge=0)
    """Units that a document must keep: one that loses some and has fewer then goes as a whole, unless it is the kept one
    for another's repeat."""
    shards: int = Field(default=1, ge=1)
    """Shares of the corpus with a suffix array each, deduplicated apart from one another: runs of source files, as in
    bff."""
    memory: HowMuch[Bytes] = Field(default=8 << 30, ge=1 << 16)
    """Bytes that one shard's text and suffix array may take: a larger shard is an error before it is begun."""

    @model_validator(mode="after")
    def _tokens_need_a_tokenizer(self) -> Substring:
        if (self.unit == "tokens") != (self.tokenizer is not None):
            raise ValueError("`unit: tokens` and `tokenizer: FILE` go together")
        return self


AnyClustered = Exact | Url | MinHash
AnyDedup = AnyClustered | Bff | Paragraphs | Substring
Dedup = Annotated[AnyDedup, Field(discriminator="method")]
"""The type of a recipe's `dedup` entry."""

METHODS: dict[str, type[AnyDedup]] = {kind.model_fields["method"].annotation.__args__[0]: kind for kind in get_args(AnyDedup)}  # type: ignore[union-attr]
"""The methods by name."""

Kind = TypeVar("Kind", bound=AnyDedup)
ADAPTER: TypeAdapter[AnyDedup] = TypeAdapter(Dedup)


def read_spec(values: AnyDedup | Mapping[str, Any]) -> AnyDedup:
    """The typed settings of a `dedup` entry; settings that are typed already as they are. Raises pydantic.ValidationError."""
    return ADAPTER.validate_python(values)


def read_spec_as(kind: type[Kind], values: AnyDedup | Mapping[str, Any]) -> Kind:
    """As `read_spec`, of an entry that is known to be of this kind. Raises TypeError for another one."""
    settings = read_spec(values)
    if not isinstance(settings, kind):
        raise TypeError(f"settings of {settings.method}, where those of {kind.__name__} are needed")
    return settings


def read_filtering(values: AnyDedup | Mapping[str, Any]) -> Filtering:
    """As `read_spec`, of an entry that takes documents past a filter. Raises TypeError for another one."""
    settings = read_spec(values)
    if not isinstance(settings, Filtering):
        raise TypeError(f"{settings.method} has no filter")
    return settings


def read_clustered(values: AnyDedup | Mapping[str, Any]) -> AnyClustered:
    """As `read_spec`, of an entry that makes clusters. Raises TypeError for another one."""
    settings = read_spec(values)
    if isinstance(settings, Filtering | Substring):
        raise TypeError(f"{settings.method} makes no clusters")
    return settings

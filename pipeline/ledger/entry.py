"""What the ledger records: that a task is done (`Entry`), that entries or files were let go, and what a basis is made of."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec

from stages.errors import UserError

T = TypeVar("T")


class AnotherVersionError(UserError):
    """A report has another shape than this version of Headrace gives it."""


class Ref(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Identity of a task: kind of job, source, stage within it, and number within that."""

    kind: str
    source: str
    stage: str
    ordinal: int

    def __str__(self) -> str:
        """A name for people. It is never parsed."""
        return "/".join([*filter(None, (self.kind, self.source, self.stage)), f"{self.ordinal:05d}"])

    def hash(self) -> int:
        """64 bits, signed, the same on every machine."""
        return hash64(msgspec.json.encode(self))


class Output(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file that a task wrote: path in the run's folder, size, and the digest of its bytes (`storage.file_digest`)."""

    path: str
    bytes: int
    digest: str


class Entry(msgspec.Struct, gc=False):
    """A task that is done.

    key: 32 hex digits. basis: hash of code and settings, which the tasks of a stage share. inputs: hash of the inputs'
    digests. similar: hash of what decides the measures only. released: paths of `outputs` that were let go on purpose.
    other_code: the result is that of other code or libraries than the key says, kept on purpose. first: it was the first task of
    its stage in its process, and so loaded kernels, models and libraries, which later ones found there.
    held: of `peak_memory`, what the process had before the task.
    """

    key: str
    ref: Ref
    basis: str
    inputs: str
    similar: str | None
    outputs: list[Output]
    released: list[str]
    seconds: float
    cpu_seconds: float
    peak_memory: int
    host: str
    finished: str
    other_code: bool = False
    first: bool = False
    held: int = 0
    report: msgspec.Raw = msgspec.Raw(b"null")  # last: a line of the ledger is read up to it

    def report_as(self, kind: type[T]) -> T:
        """The report, decoded. Raises AnotherVersionError where it is not of that kind."""
        try:
            return msgspec.json.decode(self.report, type=kind)
        except msgspec.ValidationError as error:
            raise AnotherVersionError(
                f"{self.ref}: its report was written by another version of Headrace ({error}); run the recipe again"
            ) from None


class Basis(msgspec.Struct):
    """Named components of a basis: "code repetition" -> its hash, "library pyarrow" -> its version, and so on."""

    hash: str
    components: dict[str, str]


class Forget(msgspec.Struct):
    """The entries of these keys hold no more."""

    keys: list[str]


class Release(msgspec.Struct):
    """Outputs that were let go, by the key of the entry that wrote them; the entries still hold."""

    items: list[tuple[str, list[str]]]


Record = Entry | Basis | Forget | Release


def hash64(data: bytes) -> int:
    """BLAKE2b-64 as a signed integer."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def similar_hash(similar: str | None) -> int:
    """64 bits of `similar`; 0 where there is none."""
    return hash64(similar.encode()) if similar else 0

"""The ledger of a run: records of done tasks, in append-only segments under RUN/ledger."""

from pipeline.ledger.entry import AnotherVersionError, Entry, Output, Ref
from pipeline.ledger.ledger import PARTS, Ledger, report_of
from pipeline.ledger.segment import FOLDER

__all__ = ["FOLDER", "PARTS", "AnotherVersionError", "Entry", "Ledger", "Output", "Ref", "report_of"]

"""The ledger of a run: records of done tasks, in append-only segments under RUN/ledger."""

from pipeline.records.entry import Entry, Output, Ref
from pipeline.records.ledger import PARTS, Ledger, report_of
from pipeline.records.segment import FOLDER

__all__ = ["FOLDER", "PARTS", "Entry", "Ledger", "Output", "Ref", "report_of"]

"""Readers: WARC, JSON, Parquet, CSV and text files as batches of documents, in file order, with every record's place kept.

`read_batches` is the one entry point. A reader holds about one batch in memory, whatever the file's size; what it
cannot read, or leaves out by the source's settings, it reports as an event (stages/read/events.py) and reads on.
"""

from stages.read.events import Dropped, Event, Problem, Repaired, Skipped
from stages.read.format import MEMORY, read_batches, window_of
from stages.read.settings import Part, ReadSpec

__all__ = ["MEMORY", "Dropped", "Event", "Part", "Problem", "ReadSpec", "Repaired", "Skipped", "read_batches", "window_of"]

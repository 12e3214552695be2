"""The sample: a small mixture of real text that is already on the machine, collected offline at run time."""

from stages.sample.write import sample_sources, write_sample

__all__ = ["sample_sources", "write_sample"]

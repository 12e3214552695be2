"""Speed and memory of this pipeline, measured beside its peers on the same data (benchmarks/README.md)."""

"""Benchmarks: interleaved runs, medians, ratios within one run."""

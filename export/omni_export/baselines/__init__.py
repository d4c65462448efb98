"""Baselines for `omni bench --compare`: other engines that do the same work.

Each module has a context manager `comparisons`, which returns the name and version of the engine
and the `omni_runtime.bench.rows.Comparison` of each requested benchmark.
"""

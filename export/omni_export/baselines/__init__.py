"""Other engines on the work of a bundle, for `omni bench --compare`, which finds them by name.

Each module has a `comparisons`, a context manager that gives the engine's name with its version,
and the pairs of cases (`omni_runtime.bench.rows.Comparison`) of the benchmarks that are asked for.
"""

"""Runs in MLflow that belong to no study: benchmarks, sensitivities, reproduced tables and comparisons."""

"""Searching: space files, studies and workers on Optuna. `load.load_space` and `runner.run_search` are the ways in."""

"""The Optuna study of a search: storage, ledger and everything that touches Optuna's insides."""

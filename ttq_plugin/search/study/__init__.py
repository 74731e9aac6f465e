"""The Optuna study of a search: storage, bookkeeping and everything that uses Optuna's internals."""

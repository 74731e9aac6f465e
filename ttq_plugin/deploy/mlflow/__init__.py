"""Compressed models as MLflow models without a pickle."""

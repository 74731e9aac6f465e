"""What keeps libraries from calling home and from printing into our output."""

import os

MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The clients never draw a progress bar into the search's own.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def quiet_mlflow() -> None:
    """To be called before MLflow is imported; what the user has set stays."""
    for name, value in MLFLOW.items():
        os.environ.setdefault(name, value)

"""What keeps libraries from calling home and from printing into our output."""

import os

MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that is gone is found out in seconds, not in the default's minutes: the search tries again later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # The clients never draw a progress bar into the search's own.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def quiet_mlflow() -> None:
    """To be called before MLflow is imported; what the user has set stays."""
    for name, value in MLFLOW.items():
        os.environ.setdefault(name, value)

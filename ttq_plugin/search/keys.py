"""The names under which a study and its trials keep what Optuna has no place for: their user attributes.

They are stored in users' databases, so a name never changes: `tests/search/test_keys.py` holds them, and that
nothing in the package reads or writes such an attribute by a name of its own.
"""

from __future__ import annotations

# Of a study, and of a trial where both have one.
SEED = "seed"

# Of a study: what is searched.
TASK = "task"
SPACE = "space"
OBJECTIVES = "objectives"
INPUTS = "inputs"
WEIGHTS = "weights"
FINGERPRINT = "fingerprint"
FULL_PRECISION = "full_precision"

# Of a study: how it is run, and what became of it.
RELEASE = "release"
HEARTBEAT = "heartbeat"
MODELS = "models"
TRIALS = "trials"
UNTIL = "until"
STOPPED = "stopped"
LOSSES = "losses"
CONFIRMED = "confirmed"

# Of a trial: where it comes from, and what it tries.
ORIGIN = "origin"
GRID = "grid"
MEMBER = "member"
PARAMETERS = "parameters"

# Of a trial: who works on it.
WORKER = "worker"
STARTED = "started"

# Of a trial: how it ended.
METRICS = "metrics"
NOTES = "notes"
PARTS = "parts"
CURVES = "curves"
LOOKS = "looks"
SECONDS = "seconds"
SAVED = "saved"
REASON = "reason"
DIVERGED = "diverged"

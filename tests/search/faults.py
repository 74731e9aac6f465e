"""What faults.c does at the n-th file operation."""

from __future__ import annotations

MODES = {"count": 0, "kill": 1, "full": 2}

"""Records a search in MLflow: one experiment per study, one run per trial, and views that show the front first.

Importing this package costs nothing: MLflow and Matplotlib load when they are first needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttq_plugin.tracking.pictures.front import plot_front
    from ttq_plugin.tracking.recorder import StudyRecorder
    from ttq_plugin.tracking.records import TrialRecord, front
    from ttq_plugin.tracking.store import Store, open_store
    from ttq_plugin.tracking.ui import serve

_HOMES = {
    "Store": "store",
    "open_store": "store",
    "StudyRecorder": "recorder",
    "TrialRecord": "records",
    "front": "records",
    "plot_front": "pictures.front",
    "serve": "ui",
}

__all__ = ["Store", "StudyRecorder", "TrialRecord", "front", "open_store", "plot_front", "serve"]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""MLflow's server with one addition: its page first sets the view of each study in the browser's storage.

python -m ttq_plugin.tracking.interface.landing FOLDER HOST PORT

The names in this module and in landing.js are those of MLflow 3.17; tests/tracking/test_browser.py opens them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ttq_plugin.tracking.store import Store
from ttq_plugin.tracking.views import TAG, unpacked

SCRIPT = Path(__file__).with_name("landing.js")
FIRST = ("front", "by-study")
"""The view that an experiment opens with: a study's, or that of several studies' fronts."""


def seeds(store: Store) -> dict[str, Any]:
    """The state of the page of each experiment that has views of ours, by its id."""
    found: dict[str, Any] = {}
    for experiment in store.client.search_experiments(max_results=1000):
        key = next((TAG + name for name in FIRST if TAG + name in experiment.tags), None)
        if key is not None:
            found[str(experiment.experiment_id)] = unpacked(experiment.tags[key])
    return found


def with_views(page: str, views: dict[str, Any]) -> str:
    """MLflow's page with the script that comes before its own.

    Args:
        page: MLflow's index.html.
        views: What `seeds` gives.

    Returns:
        The page.
    """
    data = json.dumps(views).replace("<", "\\u003c").replace("\u2028", "").replace("\u2029", "")
    script = f"<script>{SCRIPT.read_text(encoding='utf-8')}({data});</script>"
    return page.replace("<head>", f"<head>{script}", 1)


def main(folder: str, host: str, port: str) -> None:
    """Serve until a signal ends it.

    Args:
        folder: The store's.
        host: The interface to listen on.
        port: A free port.
    """
    from mlflow.server import constants

    store = Store(Path(folder))
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: store.uri,
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",  # of experiments that are made through the server
        constants.ARTIFACTS_DESTINATION_ENV_VAR: str(store.artifacts),
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    import uvicorn
    from mlflow.server import app as pages
    from mlflow.server.fastapi_app import app
    from starlette.requests import Request
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    index = Path(str(pages.static_folder), "index.html").read_text(encoding="utf-8")

    def first_page(_: Request) -> HTMLResponse:
        return HTMLResponse(with_views(index, seeds(store)), headers={"Cache-Control": "no-cache"})

    app.router.routes.insert(0, Route("/", first_page))
    uvicorn.run(app, host=host, port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])

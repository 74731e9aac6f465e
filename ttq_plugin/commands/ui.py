"""``ttq ui``: MLflow's interface, opened at a front."""

from __future__ import annotations

from pathlib import Path

from ttq_plugin.commands.parts.console import err, print_json
from ttq_plugin.errors import InputError
from ttq_plugin.tracking import Store, serve
from ttq_plugin.tracking.views import TAG, fragment


def ui(
    store: str,
    study: str | None,
    host: str,
    port: int,
    browser: bool,
    *,
    as_json: bool,
    seed: int | None = None,
    device: str = "cpu",
) -> None:
    """Serve until Ctrl-C; ``seed`` and ``device`` have no effect here."""
    opened = Store(Path(store))
    if opened.database is None or not opened.database.is_file():
        raise InputError(f"{store} holds no MLflow database; run `ttq search` first, or name its folder with --store.")
    link = _link(opened, study)

    def ready(url: str) -> None:
        if as_json:
            print_json({"url": url})
        else:
            err.print(f"MLflow: {url}", style="bold")
            err.print("Ctrl-C ends the server.")

    serve(opened, host, port, link, ready=ready, browser=browser)


def _link(store: Store, study: str | None) -> str:
    """The link to the front of the given or latest study, or, without studies, to the runs of the last experiment."""
    experiments = store.client.search_experiments(order_by=["last_update_time DESC"])
    studies = {e.name: str(e.experiment_id) for e in experiments if TAG + "front" in e.tags}
    if study is not None and study not in studies:
        held = f"it holds: {', '.join(studies)}" if studies else "it holds none yet; run `ttq search` first"
        raise InputError(f"there is no study {study!r} in this store; {held}.")
    if studies:
        return fragment(studies[study] if study else next(iter(studies.values())))
    if others := [e for e in experiments if e.name != "Default"]:  # such as those of `ttq sensitivity`
        return f"#/experiments/{others[0].experiment_id}/runs?workflowType=machine_learning"
    raise InputError("the store holds nothing to show yet; run `ttq search` first.")

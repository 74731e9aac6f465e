// What a browser remembers of MLflow's pages, as if each study's view had been chosen there once: an experiment opened from
// the list then shows its front, where MLflow would show an empty page for language models. What is remembered stays.
(views => {
  const remember = (key, value) => {
    if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));
  };
  remember("mlflow.workflowType_v1", "machine_learning");
  remember("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", true);
  remember("mlflow.assistant.panelOpen_v1", false);
  // The server sends nothing home, so that the notice about it would mislead.
  remember("mlflow.settings.telemetry.enabled_v1", false);
  remember("mlflow.telemetry.info.alert.dismissed_v1", true);
  for (const [id, state] of Object.entries(views))
    remember(`MLflowLocalStorage-1.1-ExperimentPage-["${id}"]-ReactComponentState`, state);

  // A table's headings take two lines where MLflow would cut them, and a chart's tools lie over its x axis, not over the
  // upper right corner, where the best trials are.
  const look = document.createElement("style");
  look.textContent = `
    .ag-header-cell * { white-space: normal !important; line-height: 1.1 !important; }
    .ag-header-cell { font-size: 11px; padding-right: 2px !important; }
    .js-plotly-plot .modebar-container { top: auto !important; bottom: 0; height: 24px; }`;
  document.head.append(look);

  // Where the address of an experiment leads: to its charts, unless it says more.
  const charts = address => {
    const found = /#\/experiments\/(\d+)\/?(\?.*)?$/.exec(address);
    return found && found[1] in views
      ? `#/experiments/${found[1]}/runs?compareRunsMode=CHART&workflowType=machine_learning`
      : null;
  };
  const open = event => {
    const link = event.target.closest?.("a[href]"), target = link && charts(link.getAttribute("href"));
    if (!target || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    location.hash = target;
  };
  const here = charts(location.hash);
  if (here) location.replace(here);
  addEventListener("click", open, true);
})

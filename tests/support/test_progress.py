"""Long work tells how far it is: bars in a terminal, a line now and then elsewhere, nothing with --quiet."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest

from ttq_plugin import InputError, cli, train
from ttq_plugin.commands.parts.confirm import confirm_all
from ttq_plugin.support import progress as module
from ttq_plugin.support.progress import Plain, epoch_bar, progress, stage, working
from ttq_plugin.support.quiet import silenced

TASK = "tests.reproduce.tiny:TASK"


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setenv("TTQ_PROGRESS_SECONDS", "0.002")


def told(capfd):
    return capfd.readouterr().err.splitlines()


def test_lines_tell_what_is_counted(capfd):
    with progress() as bars, stage(bars, "everything"):
        time.sleep(0.1)
        bar = bars.add_task("trials", total=4, note="")
        bars.update(bar, completed=1, note="running [/] 2")
        time.sleep(0.1)
        bars.update(bar, completed=4, note="done")
        time.sleep(0.1)
    lines = told(capfd)
    assert lines[0] == "everything: 0 s" and "trials: 1 of 4 in 0 s, running [/] 2" in lines
    assert lines[-1] == "trials: 4 of 4 in 0 s, done", "the end is told, and unfinished stages are not"
    begun = lines.index("trials: 1 of 4 in 0 s, running [/] 2")
    assert "everything: 0 s" not in lines[begun : len(lines) - lines[::-1].index(lines[begun])]
    assert lines[begun + 1 :].count("everything: 0 s") > 0, "what is left is told after what was counted"


def test_the_first_epochs_time_counts(capfd):
    clock = [100.0]
    with progress() as bars:
        bars.get_time = lambda: clock[0]
        on_epoch = epoch_bar(bars, "training", 2)
        clock[0] = 107.0
        on_epoch(1, 0.5)
        clock[0] = 110.0
        on_epoch(2, 0.25)
    assert capfd.readouterr().err == "training: 2 of 2 in 10 s, loss 0.2500\n"


def test_no_thread_is_left_and_short_work_is_silent(capfd, monkeypatch):
    monkeypatch.setenv("TTQ_PROGRESS_SECONDS", "30")
    begun = time.monotonic()
    with working("something short"):
        assert "progress" in [thread.name for thread in threading.enumerate()]
    with pytest.raises(ZeroDivisionError), progress():
        _ = 1 / 0
    assert "progress" not in [thread.name for thread in threading.enumerate()]
    assert told(capfd) == [] and time.monotonic() - begun < 15


@pytest.mark.parametrize("silent", ["quiet", "shown"])
def test_nothing_where_it_is_unwanted(capfd, silent):
    with silenced(silent == "quiet"), progress(shown=silent != "shown") as bars, stage(bars, "everything"):
        epoch_bar(bars, "training", 3)(1, 0.5)
        time.sleep(0.1)
    assert told(capfd) == []


def test_a_terminal_gets_bars(monkeypatch):
    terminal = Plain(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(module, "err", terminal)
    with progress() as bars, stage(bars, "a stage"):
        epoch_bar(bars, "training", 3)(1, 0.5)
        bars.refresh()
    drawn = terminal.file.getvalue()
    assert "a stage" in drawn and "1/3" in drawn and "0/?" not in drawn and "1 of 3" not in drawn
    terminal.file.truncate(0)
    with silenced(), progress() as bars, stage(bars, "a stage"):
        bars.refresh()
    assert "a stage" not in terminal.file.getvalue()


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", ""])
def test_a_wrong_interval_is_refused(monkeypatch, seconds):
    monkeypatch.setenv("TTQ_PROGRESS_SECONDS", seconds)
    with pytest.raises(InputError, match="TTQ_PROGRESS_SECONDS must be a positive number of seconds, got"), progress():
        pass


# Every command that may take long -------------------------------------------------------------------------------------

SPACE = f"""
task: {TASK}
objectives: [mcc, cr_gain_total]
trials: 1
parameters: {{lr: 1.0e-2, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 2, share: {{low: 0.5, high: 1.0}}}}
methods:
  ttq: {{t: {{low: 0.02, high: 0.3}}}}
"""


def run(capfd, *words):
    """The command in this process; what it told on standard error."""
    cli.cli(list(words), standalone_mode=False)
    return told(capfd)


def progressed(lines, start, counted=True):
    """Whether a line tells how far something is."""
    form = re.compile(r".*: \d+ of \d+ in \d+ s" if counted else r".*: \d+ s")
    return any(line.startswith(start) and form.match(line) for line in lines)


def slow(*arguments, **options):
    """Stands for work of hours."""
    time.sleep(0.1)
    raise InputError("that was all")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTQ_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_single_commands_that_may_take_long(folder, monkeypatch, capfd):
    lines = run(capfd, "train", TASK)
    assert progressed(lines, "full-precision model")
    assert progressed(lines, f"full-precision model of {TASK}", counted=False)
    lines = run(capfd, "train", TASK, "--retrain", "--quiet")
    assert not any(re.search(r": (\d+ of \d+ in )?\d+ s", line) for line in lines)
    assert not module.is_quiet(), "quiet ends with its command"
    lines = run(capfd, "compress", TASK, "--epochs", "2", "--out", "m.safetensors")
    assert progressed(lines, "pttq training") and progressed(lines, "pttq compression", counted=False)
    assert progressed(run(capfd, "export", "m.safetensors", "--task", TASK, "--to", "c"), "export to c", counted=False)
    monkeypatch.setattr("ttq_plugin.commands.sensitivity.select", slow)
    monkeypatch.setattr("ttq_plugin.commands.bench.measure", slow)
    for words, start in (
        (["sensitivity", TASK], "choice of layers"),
        (["bench", "m.safetensors", "--task", TASK], "measuring m.safetensors"),
    ):
        with pytest.raises(InputError, match="that was all"):
            run(capfd, *words)
        assert progressed(told(capfd), start, counted=False)
        with pytest.raises(InputError, match="that was all"):
            run(capfd, *words, "--quiet")
        assert not progressed(told(capfd), start, counted=False)


def test_a_search_and_its_report(folder, capfd):
    (folder / "space.yaml").write_text(SPACE)
    lines = run(capfd, "search", "space.yaml", "--task", TASK, "--study", "s", "--workers", "1")
    assert progressed(lines, "trials") and progressed(lines, "test scores and models of the front", counted=False)
    assert progressed(run(capfd, "report", "s"), "report", counted=False)


def test_other_seeds_of_a_front(monkeypatch, capfd):
    def confirm(*arguments, on_poll, **options):
        on_poll([{}, {}], [{}])
        time.sleep(0.1)
        return {}, False

    monkeypatch.setattr("ttq_plugin.commands.parts.confirm.confirm_front", confirm)
    with progress() as bars:
        confirm_all(None, "", "s", [3, 4], 5, bars, {})
    assert progressed(told(capfd), "other seeds: 2 of 10")


def test_a_reproduced_table(folder, monkeypatch, capfd):
    def cells(todo, place, folder, *, workers, on_result):
        time.sleep(0.1)
        raise InputError("that was all")

    monkeypatch.setattr("ttq_plugin.commands.reproduce.run_cells", cells)
    with pytest.raises(InputError, match="that was all"):
        run(capfd, "reproduce", "main", "--methods", "ttq", "--repetitions", "3")
    assert "trainings: 0 of 6 in 0 s" in told(capfd)


def test_functions_show_it_too_unless_told_not_to(tmp_path, capfd):
    train(TASK, cache=tmp_path)
    assert progressed(told(capfd), "full-precision model")
    train(TASK, cache=tmp_path, retrain=True, show=False)
    assert told(capfd) == []

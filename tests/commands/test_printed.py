"""Every printed command can be pasted into a shell, runs, and does what was said; every link fits its command."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from tests.conftest import ROOT
from tests.tracking.studies import fill_study
from ttq_plugin import cli
from ttq_plugin.commands.options import STORE
from ttq_plugin.commands.parts.lines import command, see, storage_words, store_words
from ttq_plugin.commands.search import Asked, Opened
from ttq_plugin.support.names import with_options
from ttq_plugin.tracking import Store, StudyRecorder

PROGRAM = """#!{python}
# The real program, but for what takes long: the server, whose address is told at once, and the models in MLflow.
import sys
import ttq_plugin.tracking.ui
ttq_plugin.tracking.ui.serve = lambda store, host, port, link, *, ready, browser: ready(f"http://{{host}}:{{port}}/{{link}}")
from ttq_plugin.cli import main
if __name__ == "__main__":
    if "search" in sys.argv:
        import ttq_plugin.commands.parts.front
        ttq_plugin.commands.parts.front._log_model = lambda *arguments: None
    main()
"""
TASK = """
import numpy as np, torch, torch.nn.functional as F
from torch import nn
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

def load(source, seed):
    x = torch.tensor(np.loadtxt(source, delimiter=",")).float()
    y = torch.arange(len(x)) // 3 % 3
    return Data(*(Split(x[i::3] + 3 * F.one_hot(y[i::3], 4), y[i::3]) for i in range(3)))

def model():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

TASK = Task("own", "noise in columns", load, model, F.cross_entropy, Recipe(epochs=3, lr=1e-2))
"""
SPACE = """
task: mine:TASK
objectives: [mcc, cr_gain_total]
parameters: {lr: 1.0e-2, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 2, share: {low: 0.5, high: 1.0}}
methods:
  ttq: {t: {low: 0.02, high: 0.3}}
  twn: {}
"""
STUDY, DATA, RUNS, CACHE = "-it's a $(reboot) `id`; [b] #1 & 2", "my data; $x.csv", "my runs", "cache of 'models'"


@pytest.fixture
def place(tmp_path):
    """A folder with an own task, its data and its space, and the program on the path of a shell."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ttq"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    here = tmp_path / "here it is"
    here.mkdir()
    (here / "mine.py").write_text(TASK)
    (here / "-space of mine.yaml").write_text(SPACE)
    numbers = "\n".join(",".join(f"{math.sin(i * (j + 1) + j):.6f}" for j in range(4)) for i in range(180))
    (here / DATA).write_text(numbers)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    more = {"PATH": path, "PYTHONPATH": str(ROOT), "TTQ_PROGRESS_SECONDS": "0.1", "OMP_NUM_THREADS": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TTQ_", "MLFLOW_"))}
    return SimpleNamespace(folder=here, environment=kept | more)


def shell(place, line, code=0):
    """What the line tells when it is pasted into a shell."""
    done = subprocess.run(
        ["bash", "-c", line], cwd=place.folder, env=place.environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def printed(text):
    """The commands in a text, each until the end of its line or of its quotes."""
    return re.findall(r"(?:^|`|: +| {2,})((?:OMP_NUM_THREADS=1 )?ttq [a-z][^`\n]*(?:`id`[^\n`]*)?)", text, re.MULTILINE)


def stopped(place, line):
    """What a search tells that gets Ctrl-C once it has finished a trial."""
    words = shlex.split(line)
    with subprocess.Popen(
        words, cwd=place.folder, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        told = ""
        for row in process.stderr:
            told += row
            if re.match(r"trials: [1-9]", row):
                process.send_signal(signal.SIGINT)
                break
        out, rest = process.communicate(timeout=600)
        assert process.returncode == 130, told + rest
        return out, told + rest


def test_a_search_and_all_that_follows_from_it(place):
    given = [
        "--study",
        STUDY,
        "--task",
        "mine:TASK",
        "--data",
        DATA,
        "--cache",
        CACHE,
        "--store",
        RUNS,
        "--method",
        "ttq",
    ]
    line = command("search", ["-space of mine.yaml"], [*given, "--workers", "1", "--trials", "400"])
    _, told = stopped(place, line)
    [again] = printed(told)
    words = shlex.split(again)
    for option, value in (("--data", DATA), ("--cache", CACHE), ("--workers", "1"), ("--trials", "400")):
        assert words[words.index(option) + 1] == value
    # Pasted as it is, it goes on; so few trials were left to do that the rest of the test need not wait for them.
    finished = int(re.findall(r"^trials: (\d+) of 400", told, re.MULTILINE)[-1])
    target = finished + 1
    out, told = shell(place, again.replace("--trials 400", f"--trials {target}"))
    assert f"full-precision model: from the cache ({CACHE}/" in told
    assert f"trials: {target} of {target} in" in told
    commands = printed(out)
    assert [shlex.split(each)[1] for each in commands] == ["report", "ui"]
    report, ui = commands
    out, _ = shell(place, report)
    [remake] = printed(out)
    assert remake.startswith("OMP_NUM_THREADS=1 ttq compress mine:TASK ")
    mcc = re.search(r"mcc ([\d.]+) %", out)[1]
    out, _ = shell(place, remake)
    assert f"MCC {mcc} % (validation; full precision" in out, "the model is made once more, bit for bit"
    _, told = shell(place, f"ttq ui --no-browser --store {shlex.quote(RUNS)}")
    assert shell(place, f"BROWSER=true {ui}")[1] == told, "the only study is the latest one"
    _, told = shell(place, f"ttq export compressed.safetensors --to c --data {shlex.quote(DATA)} --name ab", code=2)
    [export] = printed(told)
    assert "--data" in export and "--name" in export
    out, _ = shell(place, export)
    assert "compressed-c/ab.h" in out
    trial = re.search(r"--trial (\d+)|recommended: trial (\d+)", shell(place, report)[0])[2]
    _, told = shell(place, command("export", [STUDY], ["--store", RUNS, "--trial", trial, "--to", "packed"]), code=2)
    [export] = printed(told)
    assert shlex.split(export)[-2:] == ["--", STUDY] and "packed: " in shell(place, export)[0]


def test_a_comparison_and_its_interface(place):
    names = ("-one", "[b]two $x")
    (place.folder / RUNS).mkdir()
    for name in names:
        fill_study(place.folder / RUNS / "studies.db", name, 8)
    out, _ = shell(place, command("compare", names, ["--store", RUNS]))
    [ui] = printed(out)
    link = re.search(r"http://\S+", out)[0]
    _, told = shell(place, ui)
    assert told.startswith("MLflow: http://127.0.0.1:5000/#/experiments/")
    assert link.startswith(told.split()[1].partition("?")[0].rpartition("/runs")[0])


# In this process --------------------------------------------------------------------------------------------------


def parsed(line):
    """The values that the command line takes from a printed command."""
    words = shlex.split(line)
    found = {}
    subcommand = cli.cli.commands[words[1]]
    with subcommand.make_context(words[1], words[2:]) as context:
        found = dict(context.params)
    return found


@pytest.mark.parametrize("name", ["space.yaml", "-space.yaml", "a b", "--", "$(x)"])
def test_the_command_that_goes_on_asks_for_the_same(name, monkeypatch):
    monkeypatch.delenv("TTQ_STORE", raising=False)
    monkeypatch.delenv("TTQ_STORAGE", raising=False)
    given = parsed(
        command("search", [name], [
            *("--study", "-s", "--trials", "7", "--workers", "3", "--engine", "ray", "--heartbeat", "5"),
            *("--method", "ttq", "--method", "twn", "--objectives", "mcc,srqw", "--constraint", "mcc >= 0.9"),
            *("--sampler", "gp", "--timeout", "0.5", "--stagnation", "3", "--confirm", "4", "--epoch-curves", "all"),
            *("--data", "d 1", "--cache", "c", "--device", "cuda:1", "--weights", "w", "--store", "s", "--json"),
            *("--margin", "0.5"),
        ])
    )  # fmt: skip
    asked = Asked(**given)
    opened = Opened(asked, None, "-s", "sqlite:///other.db", "s", 0, [], 7)
    assert parsed(opened.again) == given | {"study": None, "resume": "-s", "storage": "sqlite:///other.db"}
    plain = Opened(Asked(space=name), None, "s", Asked().own_storage, STORE, 0, [], 7)
    assert shlex.split(plain.again) == shlex.split(command("search", [name], ["--resume", "s"]))


def test_what_the_environment_says_is_not_repeated_and_what_it_hides_is(monkeypatch):
    monkeypatch.setenv("TTQ_STORE", "elsewhere")
    monkeypatch.setenv("TTQ_STORAGE", "postgresql://me:hunter2@host/n")
    assert store_words("elsewhere") == [] and store_words(STORE) == ["--store", STORE]
    assert storage_words("postgresql://me:hunter2@host/n", "sqlite:///own.db") == []
    assert storage_words("sqlite:///own.db", "sqlite:///own.db") == ["--storage", "sqlite:///own.db"]
    monkeypatch.delenv("TTQ_STORAGE")
    assert storage_words("sqlite:///own.db", "sqlite:///own.db") == storage_words(None) == []
    assert parsed("ttq ui")["store"] == "elsewhere"


@pytest.mark.parametrize("words, whole", [
    (["a", "--", "-b"], ["a", "--task", "x", "--", "-b"]),
    (["a", "b"], ["a", "b", "--task", "x"]),
    ([], ["--task", "x"]),
])  # fmt: skip
def test_an_option_goes_before_what_ends_the_options(words, whole):
    assert with_options(words, "--task", "x") == whole


@pytest.mark.parametrize("server", ["http://host:8080", "https://host/mlflow", "http://[::1]:5000/a/b"])
def test_a_servers_link_has_its_host_port_and_prefix(server):
    recorder = SimpleNamespace(store=Store(server=server), experiment_id="3")
    link = StudyRecorder.link(recorder, "127.0.0.1", 5000)
    assert link.startswith(f"{server}/#/experiments/3/")
    assert see(server, link, "s") == [f"MLflow:  {link}"]


def test_a_local_link_stands_beside_the_command_that_makes_it_answer(tmp_path):
    recorder = SimpleNamespace(store=Store(tmp_path), experiment_id="3")
    link = StudyRecorder.link(recorder, "127.0.0.1", 5000)
    assert link.startswith("http://127.0.0.1:5000/#/experiments/3/")
    assert see("a b", link, "s") == ["MLflow:  ttq ui --store 'a b' --study s", f"         {link}"]


@pytest.mark.parametrize("words", [["report", "s"], ["compare", "s", "t"], ["bench", "s", "--trial", "3"]])
def test_with_a_servers_store_it_is_said_where_the_study_is_looked_for(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TTQ_STORAGE", raising=False)
    told = str(CliRunner().invoke(cli.cli, [*words, "--store", "http://127.0.0.1:9"]).exception)
    assert (
        "must be named by --storage if --store is a server, because mlflow_runs/studies.db does not exist here" in told
    )
    fill_study(tmp_path / "other.db", "s", 8)
    fill_study(tmp_path / "other.db", "t", 8)
    told = str(
        CliRunner()
        .invoke(cli.cli, [*words, "--store", "http://127.0.0.1:9", "--storage", "sqlite:///other.db"])
        .exception
    )
    assert "must be named by --storage" not in told and not (tmp_path / "mlflow_runs").exists()

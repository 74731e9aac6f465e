"""Messages show the user's own line, wherever the exception was raised."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.support.frames import explain, is_users, of_the_user, user_frame
from ttq_plugin.tasks.scoring.readings import check_indices


def caught(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_whose_files():
    assert is_users(__file__) and not is_users(torch.__file__) and not is_users(json.__file__)
    assert not is_users(sys.modules["ttq_plugin"].__file__) and not is_users("<string>")
    assert not is_users(str(Path(sys.executable).parent / "ttq")), "the command itself"


def test_the_users_innermost_line_below_a_librarys():
    def loss():
        return torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 7]))  # mine

    frame = user_frame(error := caught(loss))
    assert Path(frame.file) == Path(__file__) and frame.function.endswith("<locals>.loss") and "# mine" in frame.code
    assert explain(error).startswith("IndexError: Target 7 is out of bounds (test_frames.py, line ")
    assert explain(error).endswith("# mine)")


def test_a_cause_is_looked_at_where_the_error_itself_has_no_line_of_the_users():
    cause = caught(lambda: 1 / 0)
    error = InputError("something else")
    error.__cause__ = cause
    assert user_frame(error).function.endswith("<lambda>")
    loop = ValueError("its own cause")
    loop.__cause__ = loop
    assert user_frame(loop) is None and explain(loop) == "ValueError: its own cause"


def test_an_error_of_this_packages_own_has_no_user_frame_inside():
    def ours():
        exec(compile("check(torch.tensor([9]), 3)", "<ours>", "exec"), {"check": check_indices, "torch": torch})

    frame = user_frame(caught(ours))
    assert frame is not None and frame.function.endswith("ours"), "the line that called it"


def test_messages_are_one_line_and_bounded():
    error = ValueError("one\n  two\n" + "x" * 2000 + ".")
    assert explain(error).startswith("ValueError: one two xxx") and len(explain(error)) < 520
    assert explain(KeyError()) == "KeyError"


class Damaged(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, place):
        if place == 3:
            raise OSError(f"recording {place} is damaged")
        return torch.zeros(2), 0


def test_an_exception_in_a_worker_process_names_the_users_line():
    error = caught(lambda: list(DataLoader(Damaged(), num_workers=1)))
    assert "Original Traceback" in str(error)
    said = explain(error)
    assert said.startswith("OSError: recording 3 is damaged (test_frames.py, line ") and "\n" not in said
    assert 'raise OSError(f"recording {place} is damaged")' in said and "__getitem__" in said


def test_of_the_user():
    with pytest.raises(
        InputError, match=r"^The model failed: ZeroDivisionError: .* \(test_frames.py, line \d+, in .*\)\.$"
    ):
        with of_the_user("The model"):
            1 / 0  # noqa: B018
    for passing in (InputError("as it is"), Diverged("as it is")):
        with pytest.raises(type(passing), match="^as it is$"), of_the_user("The model"):
            raise passing
    with pytest.raises(KeyboardInterrupt), of_the_user("The model"):
        raise KeyboardInterrupt


def test_where_no_line_is_the_users_an_exception_may_pass():
    with pytest.raises(json.JSONDecodeError):
        exec(  # a frame that is nobody's
            compile("with of_the_user('It', always=False): json.loads('{')", "<ours>", "exec"),
            {"of_the_user": of_the_user, "json": json},
        )


def test_the_command_line_shows_one_line(tmp_path):
    (tmp_path / "mine.py").write_text("import torch\nTASK = torch.zeros(2) @ torch.zeros(3)  # here\n")
    code = "from ttq_plugin.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "mine:TASK"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "(mine.py, line 2, in <module>: TASK = torch.zeros(2) @ torch.zeros(3)  # here)" in done.stderr

"""Files that are read back: whole, the same, or an error that names the file and what to do."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ttq_plugin import InputError
from ttq_plugin.support.files import read_json, write_json, write_text, write_whole
from ttq_plugin.support.weights import load_weights, read_metadata, save_weights

METADATA = {"task": "a task", "mcc": "0.5", "seed": "3", "note": '"ttq_digest":"' + "0" * 64 + '"'}


class Shared(nn.Module):
    """Two names for one storage, a view of a part of it, and a buffer of integers."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 4, bias=False)
        self.two = nn.Linear(3, 4, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("part", self.one.weight.detach()[1:3])
        self.register_buffer("steps", torch.tensor(7))


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(small(), path, METADATA)
    return path


@pytest.mark.parametrize("make", [small, Shared, nn.Identity, lambda: small().double(), lambda: small().bfloat16()])
def test_weights_come_back_with_their_metadata(tmp_path, make):
    model, path = make(), tmp_path / "w.safetensors"
    save_weights(model, path, METADATA)
    twin = make()
    for value in twin.state_dict().values():
        value.zero_()
    assert load_weights(twin, path) == METADATA == read_metadata(path)
    assert same(state(twin), state(model))


def test_shared_weights_are_still_shared_after_loading(tmp_path):
    save_weights(Shared(), tmp_path / "w.safetensors")
    twin = Shared()
    load_weights(twin, tmp_path / "w.safetensors")
    assert twin.one.weight is twin.two.weight


def test_files_are_the_same_bytes_in_every_process(tmp_path, written):
    code = (
        "import sys; from pathlib import Path; from tests.support.test_files import METADATA, save_weights, small\n"
        "save_weights(small(), Path(sys.argv[1]), METADATA)"
    )
    for n in range(2):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / f"{n}")], check=True)
        assert (tmp_path / f"{n}").read_bytes() == written.read_bytes()


def test_every_bit_of_the_header_is_guarded(written, tmp_path):
    data, net = written.read_bytes(), small()
    victim = tmp_path / "victim.safetensors"
    for place in range(8 + struct.unpack("<Q", data[:8])[0]):
        victim.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with pytest.raises(InputError):
            load_weights(net, victim)
    victim.write_bytes(data)
    load_weights(net, victim)


def test_damage_is_told_with_what_to_do(written):
    data = bytearray(written.read_bytes())
    data[-3] ^= 4
    written.write_bytes(data)
    with pytest.raises(InputError, match=r"w.safetensors is damaged: its bytes do not match its digest; delete it"):
        load_weights(small(), written)


def test_files_of_other_programs_load_when_asked(tmp_path):
    path, twin = tmp_path / "own.safetensors", small()
    save_file({name: value + 1 for name, value in small().state_dict().items()}, path, {"by": "someone"})
    with pytest.raises(InputError, match="own.safetensors has no digest, so damage to it could not be detected"):
        load_weights(twin, path)
    assert same(state(twin), state(small()))
    assert load_weights(twin, path, unsigned=True) == {"by": "someone"}
    assert torch.equal(twin[0].weight, small()[0].weight + 1)
    save_file({name: value.half() for name, value in small()[:1].state_dict().items()}, path)
    load_weights(twin[:1], path, unsigned=True)  # half precision is exact in single
    assert torch.equal(twin[0].weight, small()[0].weight.half().float())
    save_file({name: value.to(torch.int8) for name, value in small()[:1].state_dict().items()}, path)
    with pytest.raises(InputError, match="must hold '0.bias' as torch.float32, as the model does, got torch.int8"):
        load_weights(twin[:1], path, unsigned=True)


def test_a_digest_that_is_there_is_checked_even_if_none_is_needed(written):
    data = bytearray(written.read_bytes())
    data[-3] ^= 4
    written.write_bytes(data)
    with pytest.raises(InputError, match="its bytes do not match its digest"):
        load_weights(small(), written, unsigned=True)


def test_numbers_are_not_converted_silently(tmp_path):
    save_weights(small().double(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="must hold '0.bias' as torch.float32, as the model does, got torch.float64"):
        load_weights(small(), tmp_path / "w.safetensors")


def test_a_file_without_end_is_not_read_to_its_end(written):
    with written.open("r+b") as file:
        file.truncate(1 << 40)  # sparse: a terabyte of zeros
    with pytest.raises(InputError, match="holds weights of another architecture"):
        load_weights(small(), written)


def test_what_cannot_be_kept_is_refused(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(InputError, match="a safetensors file holds tensors only, got dict '_extra_state'"):
        save_weights(Extra(2, 2), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="must not have an entry 'ttq_digest'"):
        save_weights(small(), tmp_path / "w.safetensors", {"ttq_digest": "a"})
    sparse = nn.Module()
    sparse.register_buffer("s", torch.eye(2).to_sparse())
    with pytest.raises(InputError, match="safetensors cannot keep these weights"):
        save_weights(sparse, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


# JSON -----------------------------------------------------------------------------------------------------------------

VALUE = [{"name": "conv1", "trace": 0.1 + 0.2, "weights": 5000, "é": None}, {"name": "fc", "trace": 1e-300}]


def test_json_comes_back(tmp_path):
    for value in (VALUE, {}, 0.1, "text", None):
        write_json(tmp_path / "t.json", value)
        assert read_json(tmp_path / "t.json") == value
        assert json.loads((tmp_path / "t.json").read_text())["value"] == value


def test_every_changed_byte_of_json_is_told(tmp_path):
    path = tmp_path / "t.json"
    write_json(path, VALUE)
    data = path.read_bytes()
    for place in range(len(data)):
        for changed in (bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :], data[place + 1 :], b""):
            path.write_bytes(data[:place] + changed)
            with pytest.raises(InputError, match=r"t.json is damaged, .*: its digest does not match; delete it"):
                read_json(path)
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


# Whole or not at all --------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from ttq_plugin.support.files import write_whole

def half(name):
    Path(name).write_bytes(b"half a file")
    os.kill(os.getpid(), 9)

write_whole(Path(sys.argv[1]), half)
"""


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    path = tmp_path / "t.txt"
    write_text(path, "old")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -9
    [left] = set(tmp_path.iterdir()) - {path}
    assert left.name.startswith(".ttq-") and path.read_text() == "old"
    write_text(tmp_path / "other.txt", "new")
    assert {p.name for p in tmp_path.iterdir()} == {"t.txt", "other.txt"}


def test_what_others_write_now_stays(tmp_path):
    """Of a living process, of another machine, and a user's file that looks alike."""
    foreign, own = tmp_path / ".ttq-00000000-1-1-00000000.tmp", tmp_path / "tmpabc.tmp"
    foreign.write_text("")
    own.write_text("")
    code = KILLED.replace("os.kill(os.getpid(), 9)", "print(flush=True); input()")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.txt")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        write_text(tmp_path / "b.txt", "b")
        other.communicate(b"\n")
    assert other.returncode == 0
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", "b.txt", foreign.name, own.name}
    assert (tmp_path / "a.txt").read_text() == "half a file"


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "t.txt"
    write_text(path, "old")

    def fail(name):
        Path(name).write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path, "a folder is there")


def test_the_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "t.txt", "mine")
    finally:
        os.umask(before)
    assert (tmp_path / "t.txt").stat().st_mode & 0o777 == 0o600


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(("replace", str(a))), replace(a, b)))
    write_text(tmp_path / "t.txt", "new")
    [(_, temporary)] = [step for step in done if isinstance(step, tuple)]
    assert done == [temporary, ("replace", temporary), str(tmp_path)]

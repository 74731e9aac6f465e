"""Damaged and forged packed files of both formats: a clear error, an unchanged model and no memory."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.deploy.file.earlier import FOLDER
from tests.deploy.file.forged import CHANGES, FORGED, about2, resealed
from tests.deploy.file.test_packed import compressed
from tests.mutations import mutated
from ttq_plugin import InputError, load_packed, packed_info, save_packed
from ttq_plugin.tasks import get_task


@pytest.fixture
def files(tmp_path):
    """One of each format: version -> file."""
    path = tmp_path / "small.safetensors"
    save_packed(compressed(), path, task="mnist-cnn", method="pttq", report={"srqw": 0.66})
    return {1: FOLDER / "digits.safetensors", 2: path}


def refused(path, data, net):
    """Whether the bytes are refused, and the network is as it was."""
    path.write_bytes(data)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_packed(path, net)
    assert "\n" not in str(caught.value)
    return all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("version, count", [(1, 2000), (2, 10_000)])
def test_ten_thousand_corruptions_and_none_is_silent(files, tmp_path, version, count):
    """Changed, lost, doubled, swapped and inserted bytes at random places, header and payload alike."""
    data = files[version].read_bytes()
    generator = np.random.default_rng(7)
    victim, net = tmp_path / "victim.safetensors", get_task("mnist-cnn").model()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    silent, tried = [], 0
    file = victim.open("wb", buffering=0)  # opening it 10 000 times would take longer than all the rest
    while tried < count:
        changed = mutated(data, generator)
        if changed == data:
            continue
        tried += 1
        file.seek(0)
        file.write(changed)
        file.truncate()
        try:
            load_packed(victim, net)
            silent.append(changed)
        except InputError:
            pass
    file.close()
    assert not silent
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("version", [1, 2])
def test_every_single_byte_is_guarded(files, tmp_path, version):
    """Of the header, and in format 2 of the file."""
    data = files[version].read_bytes()
    victim = tmp_path / "victim.safetensors"
    victim.write_bytes(data)
    with victim.open("r+b", buffering=0) as file:
        for place in range(8 + struct.unpack("<Q", data[:8])[0] if version == 1 else len(data)):
            file.seek(place)
            file.write(bytes([data[place] ^ 1 << place % 8]))
            with pytest.raises(InputError) as refusal:
                packed_info(victim)
            assert str(refusal.value).count(victim.name) == 1, refusal.value
            file.seek(place)
            file.write(data[place : place + 1])
    assert packed_info(victim) == packed_info(files[version])


@pytest.mark.parametrize("version, what", FORGED)
def test_a_file_forged_with_a_fitting_digest_is_refused(files, tmp_path, version, what):
    data = files[version].read_bytes()
    victim = tmp_path / "victim.safetensors"
    victim.write_bytes(resealed(data, lambda *_: None))
    load_packed(victim, get_task("mnist-cnn").model())  # only the change makes it refused
    assert refused(victim, resealed(data, CHANGES[version][what]), get_task("mnist-cnn").model())


def test_an_absurd_size_takes_no_memory(files, tmp_path):
    """A whole process that reads such files stays under its limit, which is what a directory may have at most."""
    for version, what in FORGED:
        data = resealed(files[version].read_bytes(), CHANGES[version][what])
        (tmp_path / f"{version} {what}.safetensors").write_bytes(data)
    (tmp_path / "long.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    code = (
        "import resource, sys, pathlib; from ttq_plugin import load_packed, InputError\n"
        "import torch; from ttq_plugin.tasks import get_task; net = get_task('mnist-cnn').model()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for p in pathlib.Path(sys.argv[1]).glob('*.safetensors'):\n"
        "    for model in (net, None):\n"
        "        try:\n            load_packed(p, model)\n        except InputError:\n            pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40_000  # KiB


@pytest.mark.parametrize("task", ["os", "ttq_plugin.cli", ["mnist-cnn"], {"a": 1}, 3], ids=str)
def test_without_a_model_a_file_opens_no_other_task(files, tmp_path, task):
    for version, data in files.items():
        changes = {1: lambda _h, content, _b: content.update(task=task), 2: about2(task=task)}
        (tmp_path / "x.safetensors").write_bytes(resealed(data.read_bytes(), changes[version]))
        with pytest.raises(InputError, match="does not name a built-in task"):
            load_packed(tmp_path / "x.safetensors")

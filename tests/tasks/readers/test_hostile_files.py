"""Files made to take memory or time, or to reach others: refused in a sentence, and with what they claim unread."""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from scipy.io import wavfile

from tests.tasks.recordings import lines
from ttq_plugin.commands.compress import _read
from ttq_plugin.errors import InputError
from ttq_plugin.search.space.load import load_space, parse_space
from ttq_plugin.support.limits import (
    DEEPEST,
    LARGEST_SETTINGS,
    LONGEST_LINE,
    check_bytes,
    check_lines,
    json_value,
    read_text,
)
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.readers import esr_csv
from ttq_plugin.tasks.readers.ecg_csv import read_csv
from ttq_plugin.tasks.readers.hits_hdf5 import read_hdf5
from ttq_plugin.tasks.readers.hits_wav import read_folder

MNIST = get_task("mnist-cnn")
RATE = 4400


@pytest.fixture(autouse=True)
def little_memory():
    """Whatever a file claims, Python's own allocations (NumPy's among them) stay small."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 << 20


def told(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


# Search spaces --------------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
SPACE = """
task: mnist-cnn
objectives: [mcc, cr_gain_total]
trials: 3
parameters: {lr: &rate {low: 1.0e-4, high: 1.0e-3}, lr_scale: *rate, lr_threshold: *rate, epochs: 1, share: 0.5}
methods: {ttq: {t: 0.1}}
"""


@pytest.mark.parametrize(
    "text, message",
    [
        (LAUGHS, "is not YAML: its aliases stand for more than 100000 values"),
        ("a: &a [*a]\n", f"is nested deeper than {DEEPEST} levels"),
        ("a: &a {<<: *a}\n", f"is nested deeper than {DEEPEST} levels|is not YAML"),
        ("a: " + "[" * 50 + "]" * 50, f"is nested deeper than {DEEPEST} levels"),
        ("a: " + "[" * 100_000, f"is nested deeper than {DEEPEST} levels|is not YAML"),
        ("a: " + "{a: " * 20_000, f"is nested deeper than {DEEPEST} levels|is not YAML"),
        ("a: " + "x" * 20_000, "is not YAML: a value of 20000 characters"),
        (SPACE.replace("trials: 3", "trials: 0x" + "F" * 9000), "is not YAML: a whole number beyond 64 bits"),
        ("trials: " + "9" * 9000, "is not YAML"),
        (SPACE.replace("trials: 3", "trials: " + ":".join(["59"] * 3000)), "a whole number beyond 64 bits"),
        ("a: 2026-13-45\n", "is not YAML"),
        ("a: !!python/object/apply:os.system [id]\n", "is not YAML"),
        ("a: !!float x\n", "is not YAML"),
        ("a: !!int x\n", "is not YAML"),
        ("a: !!timestamp x\n", "is not YAML"),
        ("? [a, b]\n: 1\n", "is not YAML|key"),
    ],
)
def test_a_space_that_is_a_bomb_is_refused(text, message):
    told(lambda: parse_space(text, "space.yaml"), f"^space.yaml.*({message})")


def test_a_space_may_use_aliases():
    space = parse_space(SPACE, "space.yaml")
    assert space.trials == 3 and space.parameters["lr"] == space.parameters["lr_scale"]


def test_a_space_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "space.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    told(lambda: load_space(path), f"must have at most {LARGEST_SETTINGS} bytes, but it has more")


# JSON -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 100_000, "nested deeper than"),
        ("[" * 40 + "]" * 40, "nested deeper than"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested deeper than"),
        ('[{"op_names": ["a"], "op_names": ["b"]}]', "the key 'op_names' appears twice"),
        ("[" + "9" * 5000 + "]", "is not JSON"),
        ("{}", "must be a list of NNI config entries"),
        ("", "is not JSON"),
        ("\x00", "is not JSON"),
    ],
)
def test_a_config_list_that_is_a_bomb_is_refused(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    told(lambda: _read(tmp_path / "c.json", frozenset()), f"the config list .*c.json.*{message}")


def test_a_config_list_that_is_no_text_or_too_large(tmp_path):
    (tmp_path / "c.json").write_bytes(b"\xff\xfe[\x00")
    told(lambda: _read(tmp_path / "c.json", frozenset()), "the config list .*c.json is not UTF-8 text")
    with (tmp_path / "c.json").open("wb") as file:
        file.truncate(1 << 40)
    told(lambda: _read(tmp_path / "c.json", frozenset()), "must have at most")
    (tmp_path / "c.json").write_bytes(b'\xef\xbb\xbf[{"op_types": ["Conv2d"]}]')
    assert _read(tmp_path / "c.json", frozenset()) == {"config_list": [{"op_types": ["Conv2d"]}]}
    told(lambda: read_text(tmp_path, "the text", 10), "cannot be read")
    assert json_value("[" * DEEPEST + "]" * DEEPEST, "it", "x") is not None


# NumPy archives -------------------------------------------------------------------------------------------------------


def npy(shape, dtype="|u1", data=b"", version=b"\x01\x00"):
    text = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-len(text) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def archive(path, **members):
    good = {f"{kind}_{part}": np.zeros(3, np.int64) for kind in "xy" for part in ("train", "test")}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in good:
            stream = io.BytesIO()
            np.save(stream, good[name])
            file.writestr(f"{name}.npy", members.get(name, stream.getvalue()))
    return path


@pytest.mark.parametrize(
    "data, message",
    [
        (npy((100 << 30,)), "x_train claims to have the shape"),
        (npy((1 << 40, 28, 28)), "x_train claims to have the shape"),
        (npy((10**30, 28, 28)), "x_train claims to have the shape"),
        (npy((-1, 28, 28)), "cannot be read|claims"),
        (npy((60_000, 28, 28), data=b"abc"), "its size does not match its shape"),
        (npy((3, 28, 28), "|O"), "cannot be read"),
        (npy((3, 28, 28), "|V100000000000"), "cannot be read|claims"),
        (npy((3, 28, 28)).replace(b"{", b"(", 1), "cannot be read"),
        (npy((3, 28, 28)).replace(b"}", b" ", 1), "cannot be read"),
        (npy((3, 28, 28)).replace(b"'descr'", b"'''des'", 1), "cannot be read"),
        (npy((3, 28, 28), version=b"\x09\x00"), "cannot be read"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_an_archive_with_a_lying_array_is_refused(tmp_path, data, message):
    told(lambda: MNIST.load(archive(tmp_path / "m.npz", x_train=data), 0), f"m.npz.*({message})")


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    """Half a gigabyte of zeros in half a megabyte, of a shape that is refused."""
    path = tmp_path / "bomb.npz"
    archive(path)
    with zipfile.ZipFile(tmp_path / "big.npz", "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("x_train.npy", "w", force_zip64=True) as member:
            member.write(npy((1 << 29,)))
            for _ in range(512):
                member.write(bytes(1 << 20))
        with zipfile.ZipFile(path) as other:
            for name in other.namelist()[1:]:
                file.writestr(name, other.read(name))
    told(lambda: MNIST.load(tmp_path / "big.npz", 0), r"x_train has shape \(536870912,\)")


def test_every_damage_of_an_archive_is_told(tmp_path):
    images, labels = np.zeros((500, 28, 28), np.uint8), np.arange(500) % 10
    images[:, 3, 3] = labels
    good = tmp_path / "good.npz"
    np.savez_compressed(good, x_train=images, y_train=labels, x_test=images, y_test=labels)
    data, numbers = good.read_bytes(), np.random.default_rng(5)
    loaded = MNIST.load(good, 0)
    silent = 0
    for _ in range(60):
        changed = bytearray(data)
        changed[int(numbers.integers(len(data)))] ^= 1 << int(numbers.integers(8))
        (tmp_path / "bad.npz").write_bytes(changed)
        try:
            again = MNIST.load(tmp_path / "bad.npz", 0)
            silent += not np.array_equal(again.train.x, loaded.train.x)
        except InputError as error:
            assert "bad.npz" in str(error) and "\n" not in str(error)
    assert silent == 0  # a change of a time stamp changes nothing


# Tables ---------------------------------------------------------------------------------------------------------------


def test_a_compressed_table_is_not_unpacked_beyond_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(esr_csv, "LARGEST", 1 << 20)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(bytes(1 << 26)))
    told(lambda: esr_csv.read(path), "must hold at most 1048576 bytes of text, but it holds more")
    path.write_bytes(gzip.compress("\n".join(lines()).encode())[:-9])
    told(lambda: esr_csv.read(path), "cannot be read, it is damaged or not a CSV")
    path.write_bytes("\n".join(lines()).encode("utf-16"))
    told(lambda: esr_csv.read(path), "cannot be read, it is damaged or not a CSV")
    path.write_bytes("\n".join(lines()).encode("utf-8-sig"))
    assert len(esr_csv.read(path).labels) == 150


def test_lines_without_end_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a\nb\n" + b"1," * LONGEST_LINE)
    told(lambda: read_csv(path, (0,), 1), f"line 3 is longer than {LONGEST_LINE} bytes")
    path.write_bytes((b"x" * (LONGEST_LINE - 1) + b"\n") * 40)
    check_lines(path)
    path.write_bytes((b"x" * (LONGEST_LINE - 1) + b"\n") * 40 + b"y" * (LONGEST_LINE + 1))
    told(lambda: check_lines(path), f"line 41 is longer than {LONGEST_LINE} bytes")
    path.write_bytes(b"a\n" * 700_000 + b"\x00\n")
    told(lambda: check_lines(path), "line 700001 holds a zero byte")
    with path.open("wb") as file:
        file.truncate(1 << 40)
    told(lambda: read_csv(path, (0,), 1), "must have at most")
    told(lambda: check_bytes("it", (3, -1), 8), "it claims to have the shape")


# WAV ------------------------------------------------------------------------------------------------------------------


def folder(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label,subject\na.wav,0,p\n")
    wavfile.write(tmp_path / "a.wav", RATE, np.zeros((1400, 2), np.int16))
    return tmp_path


def test_a_wav_that_claims_more_than_it_has_is_refused(tmp_path):
    path = folder(tmp_path) / "a.wav"
    good = path.read_bytes()
    assert len(read_folder(tmp_path).labels) == 1
    at = good.index(b"data") + 4
    for claim in (1 << 31, (1 << 32) - 1, len(good)):
        path.write_bytes(good[:at] + struct.pack("<I", claim) + good[at + 4 :])
        told(lambda: read_folder(tmp_path), r"a.wav is damaged or not a WAV file \(\d+ bytes of samples claimed")
    path.write_bytes(good[:12] + b"junk\x00\x00\x00\x00" * 2000 + good[12:])
    told(lambda: read_folder(tmp_path), "a.wav must have at most 1000 parts")
    path.write_bytes(
        b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<IQQQI", 28, 1 << 40, 1 << 40, 1 << 38, 0) + good[12:]
    )
    told(lambda: read_folder(tmp_path), "a.wav")
    path.write_bytes(good[:22] + b"\xff\xff" + good[24:])
    told(lambda: read_folder(tmp_path), "a.wav")
    with path.open("wb") as file:
        file.write(good)
        file.truncate(1 << 40)
    told(lambda: read_folder(tmp_path), "a.wav must have at most")


def test_a_table_of_recordings_with_odd_names(tmp_path):
    folder(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"file,label,subject\na\x00.wav,0,p\n")
    told(lambda: read_folder(tmp_path), "labels.csv is damaged or not a CSV file")
    for name in ("\x1b[2J.wav", "x" * 5000 + ".wav", "../a.wav", "."):
        (tmp_path / "labels.csv").write_text(f"file,label,subject\n{name},0,p\n")
        told(lambda: read_folder(tmp_path), "labels.csv, line 2")


# HDF5 -----------------------------------------------------------------------------------------------------------------


def hdf5(path, change):
    with h5py.File(path, "w") as file:
        file["signals"] = np.ones((9, 2, 1400), np.float32)
        file["labels"], file["subjects"] = np.arange(9) % 3, np.arange(9) // 3
        file.attrs["rate"] = float(RATE)
        change(file)
    return path


def again(name, **options):
    def change(file):
        del file[name]
        file.create_dataset(name, **options)

    return change


def linked(name, link):
    def change(file):
        del file[name]
        file[name] = link

    return change


def references(file):
    file["names"] = b"x"
    del file["subjects"]
    file.create_dataset("subjects", (9,), h5py.ref_dtype)[:] = file["names"].ref


def ragged(file):
    del file["subjects"]
    file.create_dataset("subjects", (9,), h5py.vlen_dtype(np.int32))


def bomb(file):
    """A part that is compressed to more than it holds: a gigabyte of zeros, once unpacked."""
    del file["signals"]
    signals = file.create_dataset("signals", (9, 2, 1400), np.float32, chunks=(9, 2, 1400), compression="gzip")
    squeezed = zlib.compressobj(9)
    packed = b"".join(squeezed.compress(bytes(1 << 24)) for _ in range(64)) + squeezed.flush()
    signals.id.write_direct_chunk((0, 0, 0), packed)


def virtual(file):
    layout = h5py.VirtualLayout((9, 2, 1400), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "x", (9, 2, 1400))
    del file["signals"]
    file.create_virtual_dataset("signals", layout)


@pytest.mark.parametrize(
    "change, message",
    [
        (references, "subjects holds values of type reference"),
        (ragged, "subjects holds values of type list"),
        (again("signals", shape=(1 << 40, 2, 1400), dtype="f4", chunks=(1, 2, 1400)), "labels has shape"),
        (again("signals", shape=(9, 2, 1 << 40), dtype="f4", chunks=(1, 1, 1 << 28)), "a part of it claims"),
        (again("signals", shape=(9, 2, 1400), dtype="f4", chunks=(1, 1, 1)), None),
        (again("signals", shape=(9, 2, 1 << 20), dtype="f4", chunks=(1, 1, 1)), "must have at most 100000 parts"),
        (again("labels", shape=(1 << 40,), dtype="i8", chunks=(1 << 10,)), "labels has shape"),
        (again("subjects", shape=(9,), dtype="S1000000000", chunks=(1,)), "subjects.* claims"),
        (linked("signals", h5py.ExternalLink("/etc/passwd", "x")), "signals lies in another file"),
        (linked("signals", h5py.SoftLink("/signals")), "lacks the dataset signals|cannot be read"),
        (
            again("signals", shape=(9, 2, 1400), dtype="f4", external=[("/etc/passwd", 0, 100800)]),
            "lies in another file",
        ),
        (virtual, "signals lies in another file"),
        (bomb, "holds more than 100800 bytes"),
        (again("signals", shape=(9, 2, 1400), dtype="f4", chunks=True, scaleoffset=3), "must be compressed by one of"),
        (
            lambda file: file.attrs.create("rate", np.zeros(8000)),
            "must have the attribute rate, a number, got an array",
        ),
        (
            lambda file: file.attrs.create("rate", h5py.Reference(), dtype=h5py.ref_dtype),
            "must have the attribute rate",
        ),
    ],
)
def test_a_hostile_hdf5_file_is_refused(tmp_path, change, message):
    path = hdf5(tmp_path / "mine.h5", change)
    if message is None:
        assert len(read_hdf5(path).labels) == 9
    else:
        told(lambda: read_hdf5(path), f"mine.h5.*({message})")


HONEST = (
    {"compression": "gzip", "shuffle": True},
    {"compression": "gzip", "fletcher32": True},
    {"compression": "lzf"},
    {"chunks": (2, 2, 500)},
)


@pytest.mark.parametrize("options", HONEST)
def test_honest_compression_is_read(tmp_path, options):
    values = np.random.default_rng(0).normal(size=(9, 2, 1500)).astype(np.float32)
    values[3] = 0
    path = hdf5(tmp_path / "mine.h5", again("signals", data=values, **options))
    assert np.array_equal(read_hdf5(path).signals, values[:, :, 50:1450])


def test_a_long_text_is_refused(tmp_path):
    def change(file):
        del file["subjects"]
        file["subjects"] = ["x" * 20_000, *"bcdefghi"]

    told(lambda: read_hdf5(hdf5(tmp_path / "mine.h5", change)), "the subject in row 0 has 20000 characters")


# All at once, in a process that may have little memory ----------------------------------------------------------------


def test_bombs_take_no_memory_of_a_whole_process(tmp_path):
    """Also of the memory that Python does not count: NumPy's and HDF5's own."""
    path = hdf5(tmp_path / "bomb.h5", bomb)
    (tmp_path / "bomb.yaml").write_text(LAUGHS)
    archive(tmp_path / "bomb.npz", x_train=npy((100 << 30,)))
    code = (
        "import json, resource, sys\nfrom pathlib import Path\n"
        "from ttq_plugin.errors import InputError\nfrom ttq_plugin.tasks import get_task\n"
        "from ttq_plugin.search.space.load import load_space\nimport h5py, scipy.io\n"
        "from ttq_plugin.tasks.readers.hits_hdf5 import read_hdf5\n"
        "before, told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []\n"
        "for read, name in ((read_hdf5, 'bomb.h5'), (load_space, 'bomb.yaml'),\n"
        "                   (lambda p: get_task('mnist-cnn').load(p, 0), 'bomb.npz')):\n"
        "    try:\n        read(Path(sys.argv[1]) / name)\n"
        "    except InputError as error:\n        told.append(str(error))\n"
        "print(json.dumps([told, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    told, grown = json.loads(done.stdout)
    assert len(told) == 3 and path.exists() and grown < 100_000  # KiB

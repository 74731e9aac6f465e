"""Reading a user's own Doppler recordings, and one sentence for each thing that can be wrong with them."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
from scipy.io import wavfile

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.readers.hits_hdf5 import read_hdf5
from ttq_plugin.tasks.readers.hits_wav import read_folder

FORM = r"an HDF5 file is needed \(datasets signals \(n, 2, samples\) of I and Q"
RATE = 4400


def arrays(n=9, samples=1400):
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(n, 2, samples)).astype(np.float32)
    return {"signals": signals, "labels": np.arange(n) % 3, "subjects": 100 - np.arange(n) // 3}


def write_hdf5(path, *, rate=RATE, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
        if rate is not None:
            file.attrs["rate"] = rate
    return path


def write_folder(path, lines, files, rate=RATE):
    """A folder with the CSV's lines and WAV files, given as {name: samples (n, 2) or (n,)}."""
    path.mkdir(exist_ok=True)
    (path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, samples in files.items():
        wavfile.write(path / name, rate, samples)
    return path


def noise(samples=1400, kind=np.int16, channels=2):
    shape = (samples, channels) if channels > 1 else (samples,)
    return np.random.default_rng(samples).integers(0, 200, size=shape).astype(kind)


LINES = ["file,label,subject", "a.wav,0,p1", "b.wav,1,p1", "c.wav,2,p2"]
FILES = {name: noise(1400 + k) for k, name in enumerate(("a.wav", "b.wav", "c.wav"))}


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_an_hdf5_file_as_it_is_written(tmp_path, kind):
    data = arrays(samples=1403) | {"signals": (100 * arrays(samples=1403)["signals"]).astype(kind)}
    found = read_hdf5(write_hdf5(tmp_path / "mine.h5", **data))
    assert np.array_equal(found.signals, data["signals"][:, :, 1:1401].astype(np.float32))
    assert found.signals.dtype == np.float32 and found.labels.dtype == found.subjects.dtype == np.int64
    assert np.array_equal(found.labels, data["labels"])
    assert found.subjects.tolist() == [2, 2, 2, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("kind", [h5py.string_dtype(), "S6"])
def test_subjects_may_be_text(tmp_path, kind):
    names = np.array(["müller", "x", "müller"] if kind != "S6" else [b"m", b"x", b"m"], dtype=kind)
    found = read_hdf5(write_hdf5(tmp_path / "mine.h5", **arrays(3) | {"subjects": names}))
    assert found.subjects.tolist() == [0, 1, 0]


def spoilt(name, row, value):
    data = arrays()
    data[name] = data[name].astype(float) if name == "signals" else data[name]
    data[name][row] = value
    return data


@pytest.mark.parametrize(
    "data, message",
    [
        ({"labels": arrays()["labels"], "subjects": arrays()["subjects"]}, " lacks the dataset signals;"),
        ({"signals": arrays()["signals"], "labels": arrays()["labels"]}, " lacks the dataset subjects;"),
        (arrays() | {"rate": None}, " must have the attribute rate, a number, got None;"),
        (arrays() | {"rate": "fast"}, " must have the attribute rate, a number, got 'fast';"),
        (arrays() | {"rate": [1.0, 2.0]}, " must have the attribute rate, a number, got an array"),
        (arrays() | {"rate": 4.4}, ": the rate must lie from 1400 to 14000 samples per second, got 4.4;"),
        (arrays() | {"rate": 44100}, ": the rate must lie from 1400 to 14000 samples per second, got 44100;"),
        (arrays() | {"rate": float("nan")}, ": the rate must lie .* got nan;"),
        (arrays(samples=1399), r": signals has shape \(9, 2, 1399\), not \(n, 2, 1400 or more\);"),
        (arrays() | {"signals": np.zeros((9, 1400))}, r": signals has shape \(9, 1400\), not"),
        (arrays() | {"signals": np.zeros((9, 3, 1400))}, r": signals has shape \(9, 3, 1400\), not"),
        (arrays() | {"signals": np.zeros((9, 2, 1400), complex)}, ": signals holds values of type complex128;"),
        (arrays() | {"labels": np.zeros(9)}, ": labels holds values of type float64;"),
        (arrays() | {"labels": np.zeros(8, int)}, r": labels has shape \(8,\) beside 9 signals;"),
        (arrays() | {"subjects": np.zeros((9, 1), int)}, r": subjects has shape \(9, 1\) beside 9 signals;"),
        (arrays() | {"subjects": np.zeros(9)}, ": subjects holds values of type float64;"),
        (spoilt("labels", 4, 3), ": the label in row 4 is 3;"),
        (spoilt("labels", 7, -1), ": the label in row 7 is -1;"),
        (spoilt("signals", (5, 1, 9), np.nan), ": the signal in row 5 holds a value that is NaN or infinite;"),
        (spoilt("signals", (2, 0, 0), 1e39), ": the signal in row 2 holds a value that is NaN or infinite;"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_hdf5_file_of_another_form(tmp_path, data, message):
    path = write_hdf5(tmp_path / "mine.h5", **data)
    with pytest.raises(InputError, match=f"^{path}{message}.*{FORM}") as error:
        read_hdf5(path)
    assert "\n" not in str(error.value)


def test_a_group_is_no_dataset(tmp_path):
    path = write_hdf5(tmp_path / "mine.h5", **arrays() | {"labels": np.zeros(9, int)})
    with h5py.File(path, "a") as file:
        del file["labels"]
        file.create_group("labels")
    with pytest.raises(InputError, match="lacks the dataset labels"):
        read_hdf5(path)


def test_an_hdf5_file_that_is_missing_or_damaged(tmp_path):
    with pytest.raises(InputError, match=rf"nowhere\.h5 do not exist; {FORM}"):
        read_hdf5(tmp_path / "nowhere.h5")
    good = write_hdf5(tmp_path / "good.h5", **arrays()).read_bytes()
    for raw in (b"", b"file,label\n", good[:100], good[: len(good) // 2], good[:-100]):
        (tmp_path / "bad.h5").write_bytes(raw)
        with pytest.raises(InputError, match=r"bad\.h5 cannot be read, it is damaged or not an HDF5 file"):
            read_hdf5(tmp_path / "bad.h5")
    told = 0
    for at in range(0, 4096, 13):  # where HDF5 keeps what the file holds
        flipped = bytearray(good)
        flipped[at] ^= 255
        (tmp_path / "bad.h5").write_bytes(bytes(flipped))
        try:
            read_hdf5(tmp_path / "bad.h5")
        except InputError as error:
            assert "bad.h5" in str(error)
            told += 1
    assert told > 20


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32, np.uint8])
def test_a_folder_of_wav_files(tmp_path, kind):
    files = {name: noise(1400 + k, kind) for k, name in enumerate(FILES)}
    found = read_folder(write_folder(tmp_path, LINES, files))
    for signal, (k, samples) in zip(found.signals, enumerate(files.values()), strict=True):
        middle = samples[k // 2 : k // 2 + 1400].T.astype(np.float32)
        assert np.array_equal(signal, middle - 128 if kind == np.uint8 else middle)
    assert found.labels.tolist() == [0, 1, 2] and found.subjects.tolist() == [0, 0, 1]
    assert found.labels.dtype == found.subjects.dtype == np.int64


@pytest.mark.parametrize(
    "lines",
    [
        ["subject,age,file,label", "p1,7,a.wav,0", "p1,7,b.wav,1", "p2,8,c.wav,2"],
        ["\ufefffile,label,subject", '"a.wav", 0 ,p1', "", "b.wav,1,p1", "c.wav,2,p2", ""],
    ],
)
def test_other_spellings_of_the_same_table(tmp_path, lines):
    found = read_folder(write_folder(tmp_path, lines, FILES))
    assert found.labels.tolist() == [0, 1, 2] and found.subjects.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "lines, files, message",
    [
        (["file,label", "a.wav,0"], {}, " lacks the column subject, or has it twice;"),
        (["file,label,label,subject"], {}, " lacks the column label, or has it twice;"),
        ([""], {}, " lacks the column file, or has it twice;"),
        (LINES[:1], {}, " holds no rows;"),
        ([*LINES[:2], "b.wav,1"], {}, ", line 3 holds 2 values, not 3;"),
        ([*LINES[:3], "c.wav,2,p2,old"], {}, ", line 4 holds 4 values, not 3;"),
        ([*LINES[:2], "", "b.wav,1"], {}, ", line 4 holds 2 values, not 3;"),
        ([*LINES[:2], "b.wav,3,p1"], {}, ", line 3: the label is '3';"),
        ([*LINES[:2], "b.wav,-1,p1"], {}, ", line 3: the label is '-1';"),
        ([*LINES[:2], "b.wav,gas,p1"], {}, ", line 3: the label is 'gas';"),
        ([*LINES[:2], "b.wav,1,"], {}, ", line 3: the subject is empty;"),
        ([*LINES[:2], ",1,p1"], {}, ", line 3: the file is empty;"),
        ([*LINES, "a.wav,0,p3"], {}, ", line 5 names a.wav a second time;"),
        ([*LINES, "d.wav,0,p3"], {}, ", line 5: there is no .*d.wav;"),
        (LINES, {"b.wav": noise(channels=1)}, ", line 3: .*b.wav has 1 channel, not 2;"),
        (LINES, {"b.wav": noise(channels=3)}, ", line 3: .*b.wav has 3 channels, not 2;"),
        (LINES, {"b.wav": noise(1399)}, ", line 3: .*b.wav has 1399 samples, fewer than 1400;"),
        (LINES, {"c.wav": np.full((1400, 2), np.nan, np.float32)}, ", line 4: .*c.wav holds a value that is NaN"),
        (LINES, {"c.wav": np.full((1400, 2), 1e300)}, ", line 4: .*c.wav holds a value that is NaN"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_folder_of_another_form(tmp_path, lines, files, message):
    folder = write_folder(tmp_path / "mine", lines, FILES | files)
    with pytest.raises(InputError, match=f"^{folder / 'labels.csv'}{message}.*{FORM}") as error:
        read_folder(folder)
    assert "\n" not in str(error.value)


def test_a_wav_of_another_rate(tmp_path):
    folder = write_folder(tmp_path, LINES, FILES)
    wavfile.write(folder / "c.wav", 8000, noise())
    with pytest.raises(InputError, match=r"line 4: c\.wav has 8000 samples a second where a\.wav has 4400;"):
        read_folder(folder)
    write_folder(tmp_path, LINES, FILES, rate=44_100)
    with pytest.raises(InputError, match=r"line 2: .*a\.wav: the rate must lie from 1400 to 14000 .* got 44100;"):
        read_folder(folder)


def test_a_folder_without_a_table_or_with_damaged_files(tmp_path):
    with pytest.raises(InputError, match=rf"the table .*labels\.csv does not exist; {FORM}"):
        read_folder(tmp_path)
    folder = write_folder(tmp_path, LINES, FILES)
    good = (folder / "b.wav").read_bytes()
    for raw in (b"", good[:20], good[:44], good[:1000], b"MP3" + good[3:]):
        (folder / "b.wav").write_bytes(raw)
        with pytest.raises(InputError, match=r"line 3: .*b\.wav (is damaged or not a WAV|has \d+ samples, fewer)"):
            read_folder(folder)
    wavfile.write(folder / "b.wav", RATE, noise(3000))
    (folder / "b.wav").write_bytes((folder / "b.wav").read_bytes()[:-400])  # enough is left, but not its middle
    with pytest.raises(InputError, match=r"line 3: .*b\.wav is damaged or not a WAV file"):
        read_folder(folder)
    for at in range(48):
        flipped = bytearray(good)
        flipped[at] ^= 255
        (folder / "b.wav").write_bytes(bytes(flipped))
        try:
            read_folder(folder)
        except InputError as error:
            assert "b.wav" in str(error)
    (folder / "labels.csv").write_bytes(b"\xff\xfe\x00file")
    with pytest.raises(InputError, match="is damaged or not a CSV"):
        read_folder(folder)


def test_without_h5py_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = write_hdf5(tmp_path / "mine.h5", **arrays())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"mine\.h5 cannot be read without h5py: install it \(pip install h5py\)"):
        read_hdf5(path)

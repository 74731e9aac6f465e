"""Reading the seizure CSV: its forms, and one sentence for each thing that can be wrong with it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tasks.recordings import HEADER, edit, lines, write
from ttq_plugin.errors import InputError
from ttq_plugin.tasks.readers.esr_csv import find, read

ROWS = lines()
FORM = r'the CSV "Epileptic Seizure Recognition\.csv" \(plain or \.gz\) is needed: an id such as X21\.V1\.791'


def test_the_rows_come_as_they_are_written(tmp_path):
    chunks = read(write(tmp_path / "eeg.csv", ROWS))
    cells = [row.split(",") for row in ROWS[1:]]
    assert chunks.signals.tolist() == [[float(v) for v in row[1:-1]] for row in cells]
    assert chunks.labels.tolist() == [int(row[-1]) for row in cells]
    assert chunks.recordings.tolist() == [int(row[0].split(".")[2]) for row in cells]


@pytest.mark.parametrize(
    "name, change, end",
    [
        ("eeg.csv.gz", lambda row: row, "\n"),
        ("windows.csv", lambda row: ("\ufeff" if row == HEADER else "") + row, "\r\n"),
        ("quoted.csv", lambda row: ",".join(f'"{cell}"' for cell in row.split(",")), "\n"),
        ("r.csv", lambda row: row.replace("Unnamed", '""'), "\n"),
        ("blank.csv", lambda row: row + "\n", "\n"),
        ("decimal.csv", lambda row: row if row == HEADER else ",".join([*row.split(",")[:-1], row[-1] + ".0"]), "\n"),
    ],
)
def test_other_spellings_of_the_same_file(tmp_path, name, change, end):
    expected = read(write(tmp_path / "eeg.csv", ROWS))
    found = read(write(tmp_path / name, [change(row) for row in ROWS], end))
    assert np.array_equal(found.signals, expected.signals)
    assert np.array_equal(found.labels, expected.labels) and np.array_equal(found.recordings, expected.recordings)


def without(column):
    """The file without one of its columns."""
    return [",".join(c for i, c in enumerate(row.split(",")) if i != column) for row in ROWS]


def of_class(label, keep):
    """The file with only `keep` recordings of a class."""
    names = sorted({row.split(",")[0].split(".")[2] for row in ROWS[1:] if row.endswith(f",{label}")})[keep:]
    return [row for row in ROWS if row.split(",")[0].split(".")[-1] not in names]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "lacks the column X1;"),
        (ROWS[1:], "lacks the column X1;"),
        (without(5), "lacks the column X5;"),
        (without(179), "lacks the column y;"),
        (without(0), "has other columns, or has them in another order;"),
        ([HEADER.replace("X1,X2,", "X2,X1,"), *ROWS[1:]], "has other columns, or has them in another order;"),
        ([HEADER], "holds no rows;"),
        ([*ROWS[:6], ROWS[6] + ",1", *ROWS[7:]], "line 7 holds 181 values, not 180;"),
        ([*ROWS[:-1], ROWS[-1][:60]], f"line {len(ROWS)} holds [0-9]+ values, not 180;"),
        (edit(ROWS, 9, 4, "high"), "line 9 holds a value that is not a number;"),
        (edit(ROWS, 9, 4, ""), "line 9 holds a value that is not a number;"),
        (edit(ROWS, 12, 178, "nan"), "line 12 holds a value that is NaN or infinite;"),
        (edit(ROWS, 12, 1, "-inf"), "line 12 holds a value that is NaN or infinite;"),
        (edit(ROWS, 4, 179, "6"), "y is 6 in line 4;"),
        (edit(ROWS, 4, 179, "0"), "y is 0 in line 4;"),
        (edit(ROWS, 4, 179, "1.5"), "y is 1.5 in line 4;"),
        (edit(ROWS, 3, 0, "recording 7"), "line 3 has the id 'recording 7', which names no recording;"),
        (edit(ROWS, 3, 0, "X1.V1.7.2"), "line 3 has the id 'X1.V1.7.2', which names no recording;"),
        (edit(ROWS, 3, 0, "X1.V1." + 30 * "9"), "line 3 has the id 'X1.V1.9+', which names no recording;"),
        (of_class(3, 9), "class 3 has 9 recordings, at least 10 are needed;"),
        (of_class(1, 0), "class 1 has 0 recordings, at least 10 are needed;"),
    ],
)
def test_a_file_of_another_form(tmp_path, rows, message):
    path = write(tmp_path / "eeg.csv", rows)
    with pytest.raises(InputError, match=f"^{path}:? {message} {FORM}") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_blank_line_does_not_shift_the_numbers(tmp_path):
    rows = edit(ROWS, 9, 4, "high")
    with pytest.raises(InputError, match="line 10 holds a value that is not a number"):
        read(write(tmp_path / "eeg.csv", [*rows[:3], "", *rows[3:]]))


def test_a_recording_of_two_classes(tmp_path):
    label = int(ROWS[1][-1])
    rows = edit(ROWS, 2, 179, str(label % 5 + 1))
    name = ROWS[1].split(",")[0].split(".")[2]
    pair = " and ".join(map(str, sorted({label, label % 5 + 1})))
    with pytest.raises(InputError, match=rf"recording {name} has rows of class {pair}, it must have one class"):
        read(write(tmp_path / "eeg.csv", rows))


def test_a_file_that_is_missing_truncated_or_not_a_text(tmp_path):
    with pytest.raises(InputError, match=rf"nowhere\.csv does not exist; {FORM}"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path)
    good = write(tmp_path / "good.csv.gz", ROWS).read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    for raw in (good[:3], good[: len(good) // 2], good[:-4], bytes(flipped), b"PK\x03\x04\xff\xfe"):
        (tmp_path / "bad.csv.gz").write_bytes(raw)
        with pytest.raises(
            InputError, match=r"bad\.csv\.gz cannot be read, it is damaged or not a CSV \(.*\); the CSV"
        ):
            read(tmp_path / "bad.csv.gz")


def test_where_the_file_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("TTQ_DATA_DIR", raising=False)
    with pytest.raises(
        InputError, match=rf"{FORM}.*; none was given with --data and TTQ_DATA_DIR is not set: download"
    ):
        find(None)
    monkeypatch.setenv("TTQ_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match=rf"TTQ_DATA_DIR is '{tmp_path}', where there is none: download it .* --data"):
        find(None)
    compressed = write(tmp_path / "Epileptic Seizure Recognition.csv.gz", ROWS)
    assert find(None) == compressed
    plain = write(tmp_path / "Epileptic Seizure Recognition.csv", ROWS)
    assert find(None) == plain
    assert find(tmp_path / "mine.csv") == tmp_path / "mine.csv"

"""Reading heart beats from the public CSVs and from WFDB records, and one sentence for each thing that can be wrong."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import wfdb

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.builtin.esr import scaled
from ttq_plugin.tasks.readers.ecg_csv import read_csv
from ttq_plugin.tasks.readers.ecg_wfdb import AAMI, read_wfdb

CLASSES = (0, 1, 2)
FORM = "a CSV without header is needed, each row 187 samples and a label"
WFDB = r"a folder of WFDB records is needed \(\.hea, \.dat and beat annotations \.atr each"


def rows(each=4):
    """Lines of the public CSVs' form: numbers as they print them."""
    rng = np.random.default_rng(0)
    return [
        ",".join(f"{value:.18e}" for value in [*rng.uniform(size=187), label]) for label in CLASSES for _ in range(each)
    ]


ROWS = rows()


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def edit(line, column, value):
    """The rows with one cell replaced; lines count from 1."""
    cells = ROWS[line - 1].split(",")
    cells[column] = value
    return [*ROWS[: line - 1], ",".join(cells), *ROWS[line:]]


@pytest.mark.parametrize(
    "change", [lambda row: row, lambda row: row + "\r", lambda row: row + "\n", lambda row: " " + row]
)
def test_the_rows_come_as_they_are_written(tmp_path, change):
    beats = read_csv(write(tmp_path / "beats.csv", map(change, ROWS)), CLASSES, 1)
    cells = np.array([[float(value) for value in row.split(",")] for row in ROWS])
    assert np.array_equal(beats.signals, cells[:, :187]) and beats.labels.tolist() == cells[:, 187].tolist()
    assert beats.signals.shape == (12, 187) and beats.labels.dtype == np.int64


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], " holds no rows;"),
        (["", ""], " holds no rows;"),
        ([",".join(map(str, range(188))), *ROWS], ": the label in line 1 is 187, not 0 or 1 or 2;"),
        ([",".join(f"c{i}" for i in range(188)), *ROWS], " has a value in line 1 that is not a number;"),
        ([row[row.index(",") + 1 :] for row in ROWS], " has 187 values in line 1, not 188;"),
        ([*ROWS[:5], ROWS[5] + ",0", *ROWS[6:]], " has 189 values in line 6, not 188;"),
        ([*ROWS[:-1], ROWS[-1][:100]], " has 5 values in line 12, not 188;"),
        ([row.replace(",", ";") for row in ROWS], " has 1 values in line 1, not 188;"),
        (edit(9, 4, "high"), " has a value in line 9 that is not a number;"),
        (edit(9, 4, ""), " has a value in line 9 that is not a number;"),
        (edit(7, 186, "nan"), ": line 7 holds a value that is NaN or infinite;"),
        (edit(7, 0, "-inf"), ": line 7 holds a value that is NaN or infinite;"),
        (edit(7, 187, "nan"), ": line 7 holds a value that is NaN or infinite;"),
        (["", *edit(7, 0, "inf")], ": line 8 holds a value that is NaN or infinite;"),
        (edit(4, 187, "3"), ": the label in line 4 is 3, not 0 or 1 or 2;"),
        (edit(4, 187, "-1"), ": the label in line 4 is -1, not 0 or 1 or 2;"),
        (edit(4, 187, "0.5"), ": the label in line 4 is 0.5, not 0 or 1 or 2;"),
        (ROWS[:8], ": class 2 has 0 rows, at least 4 are needed;"),
        (ROWS[1:], ": class 0 has 3 rows, at least 4 are needed;"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_file_of_another_form(tmp_path, lines, message):
    path = write(tmp_path / "beats.csv", lines)
    with pytest.raises(InputError, match=f"^{path}{message} {FORM}") as error:
        read_csv(path, CLASSES, 4)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_not_a_text(tmp_path):
    with pytest.raises(InputError, match=f"nowhere.csv does not exist; {FORM}"):
        read_csv(tmp_path / "nowhere.csv", CLASSES, 1)
    (tmp_path / "bad.csv").write_bytes(b"PK\x03\x04\xff\xfe\n\x00")
    with pytest.raises(
        InputError, match=rf"bad\.csv is damaged or not a CSV file \(line 2 holds a zero byte\); {FORM}"
    ):
        read_csv(tmp_path / "bad.csv", CLASSES, 1)


def record(folder, name, *, rate=360, symbols="N" * 8, leads=("V5", "MLII"), period=0.8, annotate=True):
    """A record with a peak at each annotation, in its lead MLII or its first; that signal and the annotations."""
    at = np.rint((0.48 + period * np.arange(len(symbols))) * rate).astype(int)
    time = np.arange(round((period * len(symbols) + 1) * rate)) / rate
    peaks = sum(np.exp(-(((time - start / rate) / 0.05) ** 2)) for start in at)
    chosen = leads.index("MLII") if "MLII" in leads else 0
    signals = np.stack([peaks if k == chosen else 0.3 * np.sin(40 * time) for k in range(len(leads))], axis=1)
    wfdb.wrsamp(
        name,
        fs=rate,
        units=["mV"] * len(leads),
        sig_name=list(leads),
        p_signal=signals,
        fmt=["16"] * len(leads),
        write_dir=str(folder),
    )
    if annotate:
        wfdb.wrann(name, "atr", at, symbol=list(symbols), write_dir=str(folder))
    return signals[:, chosen], at


@pytest.mark.parametrize("rate", [125, 250, 257, 360, 1000])
def test_beats_begin_at_their_annotation(tmp_path, rate):
    record(tmp_path, "100", rate=rate)
    beats = read_wfdb(tmp_path)
    length = round(1.2 * 0.8 * 125)
    assert beats.signals.shape == (8, 187) and beats.signals[:, length:].max() == 0
    time = np.arange(length) / 125
    expected = np.exp(-((time / 0.05) ** 2)) + np.exp(-(((time - 0.8) / 0.05) ** 2))
    for beat in beats.signals[:-1]:
        np.testing.assert_allclose(beat[:length], scaled(expected[None])[0], atol=0.03)
        assert beat.min() == 0 and beat.max() == 1


@pytest.mark.parametrize("rate, clock", [(360, 1000), (250, 500), (1000, 128), (257, 10_000), (360, 360)])
def test_beats_begin_at_their_r_peak_whatever_the_annotations_clock(tmp_path, rate, clock):
    """R peaks stand at known seconds; the annotations count in ticks of their own."""
    _, at = record(tmp_path, "100", rate=rate, annotate=False)
    seconds = at / rate
    ticks = np.rint(seconds * clock).astype(int)
    wfdb.wrann("100", "atr", ticks, symbol=["N"] * len(at), fs=clock, write_dir=str(tmp_path))
    beats = read_wfdb(tmp_path)
    assert beats.signals.shape == (8, 187)
    length = round(1.2 * 0.8 * 125)
    for number, beat in enumerate(beats.signals[:-1]):
        time = np.rint(ticks[number] / clock * 125) / 125 + np.arange(length) / 125
        expected = sum(np.exp(-(((time - peak) / 0.05) ** 2)) for peak in seconds)
        np.testing.assert_allclose(beat[:length], scaled(expected[None])[0], atol=0.03)
        assert np.argmax(beat[:50]) <= 1 and 98 <= 50 + np.argmax(beat[50:length]) <= 102  # its own R, then the next


def segments(folder, name, signal, at, *, cuts, rate=360, layout="fixed"):
    """The record in segments, cut at these samples, with one header over them."""
    ends = [0, *cuts, len(signal)]
    lines = []
    for k, (begin, end) in enumerate(zip(ends, ends[1:], strict=False)):
        wfdb.wrsamp(f"{name}_{k}", fs=rate, units=["mV"], sig_name=["MLII"], p_signal=signal[begin:end, None],
                    fmt=["16"], write_dir=str(folder))  # fmt: skip
        lines.append(f"{name}_{k} {end - begin}")
    if layout == "variable":
        (folder / f"{name}_layout.hea").write_text(f"{name}_layout 1 {rate} 0\n~ 0 200 16 0 0 0 0 MLII\n")
        lines.insert(0, f"{name}_layout 0")
    (folder / f"{name}.hea").write_text("\n".join([f"{name}/{len(lines)} 1 {rate} {len(signal)}", *lines]) + "\n")
    wfdb.wrann(name, "atr", at, symbol=["N"] * len(at), write_dir=str(folder))


@pytest.mark.parametrize("layout", ["fixed", "variable"])
@pytest.mark.parametrize("cuts", [[1000], [700, 1400]])
def test_a_record_of_several_segments_is_one_record(tmp_path, cuts, layout):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    signal, at = record(tmp_path / "whole", "100")
    segments(tmp_path / "cut", "100", signal, at, cuts=cuts, layout=layout)
    whole, cut = read_wfdb(tmp_path / "whole"), read_wfdb(tmp_path / "cut")
    np.testing.assert_allclose(cut.signals, whole.signals, atol=1e-3)
    assert np.array_equal(cut.labels, whole.labels) and np.array_equal(cut.people, whole.people)


def test_a_clock_of_its_own_counts_over_several_segments(tmp_path):
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    signal, at = record(tmp_path / "whole", "100", rate=250)
    segments(tmp_path / "cut", "100", signal, at, cuts=[500, 900], rate=250)
    for folder in ("whole", "cut"):
        wfdb.wrann("100", "atr", at * 4, symbol=["N"] * len(at), fs=1000, write_dir=str(tmp_path / folder))
    whole, cut = read_wfdb(tmp_path / "whole"), read_wfdb(tmp_path / "cut")
    assert np.argmax(whole.signals[:, :50], axis=1).max() <= 1  # the R peak comes first
    np.testing.assert_allclose(cut.signals, whole.signals, atol=1e-3)


def test_a_gap_between_segments_is_told(tmp_path):
    signal, at = record(tmp_path, "whole", annotate=False)
    segments(tmp_path, "100", signal, at, cuts=[1000])
    header = (tmp_path / "100.hea").read_text().replace("100/2", "100/3").replace("100_1", "~ 300\n100_1")
    (tmp_path / "100.hea").write_text(header.replace(f" {len(signal)}\n100_0", f" {len(signal) + 300}\n100_0"))
    (tmp_path / "whole.hea").unlink()
    with pytest.raises(InputError, match=r"100\.hea: segment 1 is a gap, where samples of the signal are missing;"):
        read_wfdb(tmp_path)


@pytest.mark.parametrize("form", ["a counter", "two samples a frame"])
def test_other_clocks_of_a_header_do_not_move_the_beats(tmp_path, form):
    signal, _ = record(tmp_path, "100", leads=("MLII",))
    plain = read_wfdb(tmp_path).signals
    header = (tmp_path / "100.hea").read_text()
    if form == "a counter":
        (tmp_path / "100.hea").write_text(header.replace("100 1 360 ", "100 1 360/1000(0) ", 1))
    else:
        np.repeat(np.fromfile(tmp_path / "100.dat", "<i2"), 2).tofile(tmp_path / "100.dat")
        (tmp_path / "100.hea").write_text(header.replace("100.dat 16 ", "100.dat 16x2 ", 1))
    assert (tmp_path / "100.hea").read_text() != header and len(signal)
    np.testing.assert_allclose(read_wfdb(tmp_path).signals, plain, atol=2e-3)


def test_headers_that_claim_too_much_are_refused(tmp_path):
    """Each at once, and none of the memory that it claims."""

    def told(message):
        with pytest.raises(InputError, match=f"{message}.*{WFDB}") as error:
            read_wfdb(tmp_path)
        assert "\n" not in str(error.value)

    signal, at = record(tmp_path, "100", leads=("MLII",))
    header = (tmp_path / "100.hea").read_text()
    (tmp_path / "100.hea").write_text(header.replace(str(len(signal)), "100000000000"))
    told(r"100\.hea claims to have the shape \(100000000000, 1\)")
    (tmp_path / "100.hea").write_text(header.replace("100.dat", "../../../etc/passwd"))
    told(r"100(\.hea names| cannot be read)")
    (tmp_path / "100.hea").write_text("#" * (1 << 21))
    told(r"100\.hea must have at most 1048576 bytes")
    (tmp_path / "100.hea").write_text("100/2 1 360 2000\n100 1000\n100 1000\n")
    with pytest.raises(InputError):
        read_wfdb(tmp_path)
    (tmp_path / "100.hea").write_text("100/1 1 360 1000\n101 1000\n")
    (tmp_path / "101.hea").write_text("101/1 1 360 1000\n101 1000\n")
    told("the segment '101' must have no segments of its own")


def test_slow_hearts_fill_all_samples(tmp_path):
    record(tmp_path, "100", period=2.0)
    beats = read_wfdb(tmp_path).signals
    record(tmp_path, "100", period=1.2)
    others = read_wfdb(tmp_path).signals
    assert beats.shape == others.shape == (8, 187)
    assert np.argmax(others[0, 100:]) == 50 and not others[0, 180:].any()  # the next beat, then nothing
    assert np.argmax(beats[0]) == 0 and beats[0, 186] > 0  # the record's own floor


def test_the_symbols_become_aami_classes(tmp_path):
    symbols = "".join(AAMI.values())
    record(tmp_path, "100", symbols=symbols)
    labels = read_wfdb(tmp_path).labels
    assert labels.tolist() == [k for k, group in enumerate(AAMI.values()) for _ in group]
    # What is no beat (rhythm, noise) or of no class is left out, wherever it stands.
    record(tmp_path, "100", symbols="N+V~|!AF~~")
    assert read_wfdb(tmp_path).labels.tolist() == [0, 2, 1, 3]


def test_the_lead_is_mlii_or_else_the_first(tmp_path):
    for leads in (("V5", "MLII"), ("MLII", "V1"), ("V5", "V2"), ("II",)):
        record(tmp_path, "100", leads=leads)
        assert read_wfdb(tmp_path).signals[0, 0] == pytest.approx(1, abs=0.01)


def test_a_beat_that_passes_the_end_is_left_out(tmp_path):
    signal, at = record(tmp_path, "100")
    wfdb.wrann("100", "atr", np.append(at, len(signal) - 40), symbol=["N"] * 9, write_dir=str(tmp_path))
    assert len(read_wfdb(tmp_path).labels) == 8


def test_records_of_one_person_are_one(tmp_path):
    for name in ("100", "201", "202", "203"):
        record(tmp_path, name, symbols="NN")
    people = read_wfdb(tmp_path).people
    assert people.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]


def test_records_of_another_form(tmp_path):
    def told(message):
        with pytest.raises(InputError, match=f"{message}.*{WFDB}") as error:
            read_wfdb(tmp_path)
        assert "\n" not in str(error.value)

    record(tmp_path, "100", annotate=False)
    told(r"100\.atr does not exist;")
    record(tmp_path, "100", symbols="N+~")
    told(r"100\.atr: at least 2 annotated beats are needed, got 1;")
    record(tmp_path, "100", rate=20_000)
    told(r"100\.hea: the rate must lie from 60 to 10000 hertz, got 20000;")
    signal, at = record(tmp_path, "100")
    gap = np.where(np.arange(len(signal)) == 77, np.nan, signal)[:, None]
    wfdb.wrsamp("100", fs=360, units=["mV"], sig_name=["MLII"], p_signal=gap, fmt=["16"], write_dir=str(tmp_path))
    told(r"100\.dat: sample 77 of the signal is missing or not finite;")


@pytest.mark.parametrize("ending, kept", [(".hea", 0), (".hea", 40), (".dat", 0), (".dat", -20), (".atr", 0)])
def test_records_that_are_damaged(tmp_path, ending, kept):
    record(tmp_path, "100")
    path = tmp_path / f"100{ending}"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"100 cannot be read, it is damaged|100\.atr: at least 2 .* got 0"):
        read_wfdb(tmp_path)


def test_a_record_whose_signals_are_missing(tmp_path):
    record(tmp_path, "100")
    (tmp_path / "100.dat").unlink()
    with pytest.raises(InputError, match=r"record .*100 cannot be read, it is damaged or not WFDB \(.*100\.dat"):
        read_wfdb(tmp_path)


def test_without_wfdb_the_message_says_what_to_install(tmp_path, monkeypatch):
    record(tmp_path, "100")
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(InputError, match=r"record .*100 cannot be read without wfdb: install it \(pip install wfdb\)"):
        read_wfdb(tmp_path)

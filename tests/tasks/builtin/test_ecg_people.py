"""`ecg-cnn`: beats by record, the usual split between people, rhythm by hand, and each thing that can be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import wfdb
from torch import nn

from tests.tasks.walk import walk, walk_on
from ttq_plugin.errors import InputError
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.builtin import ecg_people
from ttq_plugin.tasks.builtin.ecg_people import (
    BEFORE,
    CLASSES,
    LEFT_OUT,
    TEST,
    TRAINING,
    EcgCNN,
    beats_of,
    load,
    rhythm,
    typical,
)
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.readers.ecg_wfdb import Record, read_records
from ttq_plugin.tasks.subjects import held_out

WIDTHS = {"N": 0.02, "A": 0.02, "V": 0.08, "F": 0.045, "/": 0.05}
"""Seconds of a beat; the supraventricular one differs by coming early."""

MIXED = "NNNANNVNFNNANVNNFN" * 2


def write(folder: Path, name: str, symbols: str = MIXED, *, rate: int = 360, lead: str = "MLII", period: float = 0.8):
    """A record with a peak at each annotation, wide or narrow, on a wandering baseline; where the peaks are, in s."""
    early = np.array([0.6 if symbol in "AV" else 1.0 for symbol in symbols])
    late = np.array([1.4 if before in "AV" else 1.0 for before in f"N{symbols[:-1]}"])
    at = np.rint(rate * (1 + np.cumsum(period * early * late))) / rate
    time = np.arange(round((at[-1] + 1.5) * rate)) / rate
    signal = 0.5 * np.sin(2 * np.pi * 0.1 * time)
    for second, symbol in zip(at, symbols, strict=True):
        signal += (-1 if symbol == "V" else 1) * np.exp(-(((time - second) / WIDTHS[symbol]) ** 2))
    wfdb.wrsamp(
        name, fs=rate, units=["mV"], sig_name=[lead], p_signal=signal[:, None], fmt=["16"], write_dir=str(folder)
    )
    wfdb.wrann(name, "atr", np.rint(at * rate).astype(int), symbol=list(symbols), write_dir=str(folder))
    return at


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six training people, one of whom has most fusion beats, four test people, and records that are left out."""
    folder = tmp_path_factory.mktemp("mitdb")
    for place, name in enumerate(("101", "106", "119", "201", "205", "208", "100", "200", "210", "233", "202", "102")):
        write(folder, name, MIXED * (4 if name == "208" else 1), period=0.7 + 0.02 * place)
    return folder


def parts(data):
    return data.train, data.validation, data.test


def test_the_usual_split_has_43_records_and_nobody_on_both_sides():
    assert len(TRAINING) == 22 and len(TEST) == 21 and len({*TRAINING, *TEST, *LEFT_OUT}) == 48
    assert "201" in TRAINING and "202" in LEFT_OUT


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_records_and_no_one_is_in_two_splits(folder, seed):
    data = load(folder, seed)
    train, validation, test = (set(part.group_ids.tolist()) for part in parts(data))
    assert test == {"100", "200", "210", "233"} and train | validation == {"101", "106", "119", "201", "205", "208"}
    assert not train & validation and len(validation) == 1 and "208" in train
    for part in parts(data):
        assert part.x.shape[1:] == (4, 128) == get_task("ecg-cnn").shape and part.x.dtype == torch.float32
        assert part.y.unique().tolist() == [0, 1, 2, 3]


def test_each_sample_is_of_the_record_that_its_group_names(folder):
    """Every beat is found again among those that the record alone gives."""
    data = load(folder, 0)
    for record in read_records(folder, ["101", "208", "233"]):
        own = {beat.tobytes() for beat in beats_of(record).x}
        for part in parts(data):
            mine = part.group_ids == record.path.name
            assert {beat.tobytes() for beat in part.x[torch.from_numpy(mine)].numpy()} in (own, set())
            assert not own & {beat.tobytes() for beat in part.x[torch.from_numpy(~mine)].numpy()}


def test_equal_seeds_give_equal_data_and_others_other_people(folder):
    first, again = load(folder, 0), load(folder, 0)
    assert first.fingerprint() == again.fingerprint()
    assert len({tuple(sorted(set(load(folder, seed).validation.group_ids.tolist()))) for seed in range(6)}) > 1


def test_rhythm_by_hand():
    """A beat at half the usual interval is -1, the pause after it 1; extremes are cut at 2."""
    rows = rhythm(np.array([0, 1, 2, 3, 3.5, 5.5, 6.5, 16.5]))
    np.testing.assert_allclose(rows[:, 0], [0, 0, 0, -1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rows[:, 1], [0, 0, -1, 1, 0, 2], atol=1e-12)
    # Of 20 intervals, the first ten long ones leave the median of the last 16 one by one.
    seconds = np.cumsum([0.0, *[2.0] * 10, *[1.0] * 20])
    expected = [np.median(np.diff(seconds)[max(0, k - 16) : k]) for k in range(1, 30)]
    np.testing.assert_allclose(rhythm(seconds)[:, 0], np.log2(np.diff(seconds)[:-1] / expected), atol=1e-12)


@pytest.mark.parametrize("rate", [125, 250, 360, 1000])
def test_beats_stand_at_their_r_peak_in_units_of_the_typical_beat(tmp_path, rate):
    at = write(tmp_path, "101", "NNNNNNNN", rate=rate)
    (record,) = read_records(tmp_path)
    beats = beats_of(record)
    assert beats.x.shape == (6, 4, 128) and beats.labels.tolist() == [0] * 6 and set(beats.records) == {"101"}
    assert (np.abs(beats.x[:, 0].argmax(1) - BEFORE) <= 1).all()
    np.testing.assert_allclose(np.ptp(beats.x[:, 0], axis=1), 1, atol=0.1)
    assert np.abs(beats.x[:, 0, :20]).max() < 0.15, "the wandering baseline of half a millivolt is gone"
    np.testing.assert_allclose(beats.x[:, 2], np.repeat(rhythm(at)[:, :1], 128, axis=1), atol=1e-6)


def test_the_typical_beat_is_the_mean_of_the_last():
    windows = np.random.default_rng(0).normal(size=(300, 5))
    expected = [windows[max(0, k - 127) : k + 1].mean(axis=0) for k in range(300)]
    np.testing.assert_allclose(typical(windows), expected, atol=1e-12)


def test_paced_beats_are_not_used_but_keep_the_rhythm(tmp_path):
    write(tmp_path, "101", "NN/NN")
    (record,) = read_records(tmp_path)
    assert beats_of(record).labels.tolist() == [0, 0]


def test_records_of_ones_own_are_split_by_record(tmp_path):
    for name in ("ann", "bob", "cid", "dot"):
        write(tmp_path, name)
    data = load(tmp_path, 0)
    people = [set(part.group_ids.tolist()) for part in parts(data)]
    assert set.union(*people) == {"ann", "bob", "cid", "dot"} and sum(map(len, people)) == 4


def test_the_network_is_below_a_hundred_kilobytes():
    model = EcgCNN()
    weights = [m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Linear))]
    assert weights == [448, 2688, 3840, 7680, 1536]
    assert sum(p.numel() for p in model.parameters()) == 16_556 < 100_000 / 4


def test_unmistakable_beats_are_learnt(folder, tmp_path):
    task = get_task("ecg-cnn")
    quick = replace(task, recipe=replace(task.recipe, batch_size=16))
    found = full_precision(quick, load(folder, 0), seed=0, cache=tmp_path)
    assert found.score > 0.9


def refused(source, message):
    with pytest.raises(InputError, match=message) as error:
        load(source, 0)
    assert "\n" not in str(error.value)


def test_without_records(tmp_path):
    refused(None, "a folder of WFDB records is needed .*; none was given with --data: ttq_plugin ships no data")
    refused(tmp_path, f"a folder of WFDB records is needed .*; {tmp_path} is none")


def test_one_side_of_the_split_or_strangers_among_the_records(tmp_path):
    write(tmp_path, "100")
    refused(tmp_path, "holds none of the training records 101, 106, .*, 230;")
    write(tmp_path, "mine")
    refused(tmp_path, r"/mine\.hea is not a record of the MIT-BIH arrhythmia database, but 100\.hea is")
    for path in tmp_path.glob("*"):
        path.unlink()
    write(tmp_path, "101")
    refused(tmp_path, "holds none of the test records 100, 103,")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lead": "V5"}, r"106\.hea must have the lead MLII, but its first one is V5;"),
        ({"rate": 20}, r"106\.hea: the rate must lie from 60 to 10000 hertz, got 20;"),
        ({"symbols": "NN"}, r"106\.atr must have at least 3 beats, got 2;"),
        (
            {"period": 0},
            r"106\.atr: beat 1 must come after beat 0, both are at 1\.000 s or out of order;",
        ),
    ],
)
def test_records_of_another_form(tmp_path, change, message):
    for name in ("101", "100"):
        write(tmp_path, name)
    write(tmp_path, "106", **change)
    refused(tmp_path, message)


def test_a_flat_signal(tmp_path):
    write(tmp_path, "100")
    write(tmp_path, "101")
    time = len(wfdb.rdrecord(str(tmp_path / "101")).p_signal)
    wfdb.wrsamp("101", fs=360, units=["mV"], sig_name=["MLII"], d_signal=np.full((time, 1), 1024), fmt=["16"],
                adc_gain=[200.0], baseline=[1024], write_dir=str(tmp_path))  # fmt: skip
    refused(tmp_path, r"101\.dat is flat where its beats are annotated")


def test_annotations_that_are_missing_or_unknown(tmp_path):
    for name in ("100", "101"):
        write(tmp_path, name)
    words = [(1 << 10 | 360), (1 << 10 | 300), (45 << 10 | 100), (1 << 10 | 300)]
    (tmp_path / "101.atr").write_bytes(b"".join(word.to_bytes(2, "little") for word in words) + b"\0\0")
    refused(tmp_path, r"101\.atr: annotation 2 \(at 2\.111 s\) has a symbol that WFDB does not know;")
    (tmp_path / "101.atr").unlink()
    refused(tmp_path, r"101\.atr does not exist;")


def test_a_truncated_signal(tmp_path):
    for name in ("100", "101"):
        write(tmp_path, name)
    path = tmp_path / "101.dat"
    path.write_bytes(path.read_bytes()[:-21])
    refused(tmp_path, "record .*101 cannot be read, it is damaged or not WFDB")


def test_classes_that_are_missing_from_one_side(tmp_path):
    for name in ("101", "106", "100"):
        write(tmp_path, name)
    write(tmp_path, "100", "NNNANNVNN")
    refused(tmp_path, r"no beat of its test records is of class F \(symbols F\)")
    write(tmp_path, "100")
    write(tmp_path, "106", "NNNNNNNN")
    refused(tmp_path, r"its 2 training records cannot be spread over two splits with every class in both")


def test_a_rare_class_trains_with_at_least_half_of_its_samples():
    groups = np.repeat(np.arange(6), 10)
    labels = np.zeros(60, dtype=np.int64)
    labels[[0, 1, 2, 3, 4, 10, 20]] = 1  # five of group 0, one each of groups 1 and 2
    for seed in range(20):
        train, validation = held_out(groups, labels, 2, seed, share=0.2, source="here", noun="person")
        assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(60))
        assert set(groups[validation]) in ({1}, {2}) and len(validation) == 10


def test_every_command_takes_it(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk("ecg-cnn", folder, tmp_path)


@pytest.mark.long
def test_so_do_search_report_and_fit(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk_on("ecg-cnn", folder, tmp_path)


def test_the_lead_need_not_be_the_first(tmp_path):
    """In MIT-BIH's record 114, it is the second."""
    write(tmp_path, "101")
    signal = wfdb.rdrecord(str(tmp_path / "101")).p_signal
    wfdb.wrsamp("101", fs=360, units=["mV"] * 2, sig_name=["V5", "MLII"], p_signal=np.hstack([signal[::-1], signal]),
                fmt=["16"] * 2, write_dir=str(tmp_path))  # fmt: skip
    (record,) = read_records(tmp_path)
    assert isinstance(record, Record) and record.lead == ecg_people.LEAD
    assert set(beats_of(record).labels.tolist()) == set(range(len(CLASSES)))

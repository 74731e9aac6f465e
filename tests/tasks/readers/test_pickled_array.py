"""The reader of pickled arrays: numpy's own files as numpy reads them, and nothing of what a hostile file asks for."""

from __future__ import annotations

import io
import os
import pickle
import struct

import numpy as np
import pytest

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.readers.pickled_array import GLOBALS, read_pickled_object


def saved(value, protocol=2):
    """The file that `numpy.save` writes for one object, with its program in another protocol."""
    array = np.empty((), dtype=object)
    array[()] = value
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    return stream.getvalue() + pickle.dumps(array, protocol=protocol)


HEADER = saved(None)[: -len(pickle.dumps(np.array(None, dtype=object), protocol=2))]


def read(tmp_path, content):
    path = tmp_path / "mine.npy"
    path.write_bytes(content)
    return read_pickled_object(path, "a dictionary is needed")


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def call(module, name, *arguments):
    """A program that calls a function of that name with texts, as an author of hostile files writes it."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(map(text, arguments)) + b"tR."


EXAMPLE = {
    "X": [np.arange(12.0).reshape(4, 3), np.asfortranarray(np.arange(6, dtype=">i2").reshape(3, 2))],
    "y": np.array([3, 1]),
    "flags": (np.array([True, False]), "text", 2.5, None, 1 << 40),
    7: "seven",
}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, protocol):
    content = saved(EXAMPLE, protocol)
    found = read(tmp_path, content)
    numpys = np.load(io.BytesIO(content), allow_pickle=True).item()
    assert found.keys() == numpys.keys()
    for ours, theirs in zip(found["X"], numpys["X"], strict=True):
        assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype
    assert np.array_equal(found["y"], EXAMPLE["y"]) and found["y"].dtype == np.int64
    assert found["flags"][0].tolist() == [True, False] and list(found["flags"][1:]) == ["text", 2.5, None, 1 << 40]
    assert found[7] == "seven"


def test_what_numpy_saves_is_read(tmp_path):
    np.save(tmp_path / "mine.npy", np.array(EXAMPLE, dtype=object), allow_pickle=True)
    assert read_pickled_object(tmp_path / "mine.npy", "")["y"].tolist() == [3, 1]


def test_a_hostile_program_runs_elsewhere_and_not_here(tmp_path):
    mark = tmp_path / "mark"
    program = call("os", "system", f"touch {mark}")
    with pytest.raises(InputError, match=r"mine\.npy cannot be read.*it asks for os\.system, and only numpy's arrays"):
        read(tmp_path, HEADER + program)
    assert not mark.exists()
    assert pickle.loads(program) == 0 and mark.exists()


@pytest.mark.parametrize(
    "module, name",
    [
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "eval"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy", "memmap"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.__class__"),
        ("numpy.testing", "runstring"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.f2py", "run_main"),
        ("numpy.f2py.diagnose", "run_command"),
        ("numpy.ctypeslib", "load_library"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.core", "multiarray._reconstruct"),
        ("_codecs", "decode"),
        ("_codecs", "register"),
        ("codecs", "encode"),
        ("Numpy", "ndarray"),
        ("numpy ", "ndarray"),
    ],
)
def test_every_other_name_is_refused_and_named(tmp_path, module, name):
    for program in (
        call(module, name, "print(1)"),
        b"\x80\x04" + text(module) + text(name) + b"\x93)R.",
    ):
        with pytest.raises(InputError) as caught:
            read(tmp_path, HEADER + program)
        assert f"it asks for {module}.{name}, and only" in str(caught.value)


def test_refused_modules_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "trap_of_a_file.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"asks for trap_of_a_file\.x"):
        read(tmp_path, HEADER + call("trap_of_a_file", "x"))


@pytest.mark.parametrize(
    "program, instruction",
    [
        (b"(S'true'\nios\nsystem\n.", "STRING 'true'"),
        (b"(ios\nsystem\n.", "INST 'os system'"),
        (b"(cos\nsystem\no.", "OBJ"),
        (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x82\x01.", "EXT1"),
        (b"Pname\n.", "PERSID 'name'"),
        (b"\x96" + struct.pack("<Q", 1 << 40) + b".", ""),
        (b"\x8e" + struct.pack("<Q", 1 << 40) + b".", ""),
    ],
)
def test_instructions_that_no_array_needs_are_refused(tmp_path, program, instruction):
    with pytest.raises(InputError, match=f"instruction {instruction} is not allowed" if instruction else "expected"):
        read(tmp_path, HEADER + program)


def test_a_number_that_would_take_gigabytes_is_refused(tmp_path):
    with pytest.raises(InputError, match="puts something in place 2000000000 of"):
        read(tmp_path, HEADER + b"\x80\x02Nr" + struct.pack("<I", 2_000_000_000) + b".")


def test_text_cannot_be_decoded_more_often_than_it_is_there(tmp_path):
    program = b"\x80\x02]" + text("a" * 5000) + b"q\x00a" + text("latin1") + b"q\x01a"
    program += b"c_codecs\nencode\nh\x00h\x01\x86Ra" * 50 + b"."
    with pytest.raises(InputError, match="decodes the same text many times"):
        read(tmp_path, HEADER + program)


@pytest.mark.parametrize(
    "value", [{"X": [EXAMPLE["X"][0]] * 500}, dict.fromkeys(range(500), [1.5] * 500)], ids=["an array", "a list"]
)
def test_values_cannot_be_repeated_without_end(tmp_path, value):
    with pytest.raises(InputError, match="holds the same values many times"):
        read(tmp_path, saved(value))


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ttq_plugin.tasks.readers.pickled_array.LARGEST_TABLE", 100)
    with pytest.raises(InputError, match="must have at most 100 bytes"):
        read(tmp_path, saved(EXAMPLE))


def array(dtype, shape, content):
    """A program that describes an array with any state that an author likes."""
    kind = (
        b"cnumpy\ndtype\n" + text(dtype) + b"\x85R(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + b"C\x01b" + b"\x87R"
    return b"\x80\x03" + empty + b"(K\x01" + shape + kind + b"\x89" + content + b"tb."


def test_the_helper_describes_an_array(tmp_path):
    assert read(tmp_path, HEADER + array("O8", b")", b"]K\x05a")) == 5


@pytest.mark.parametrize(
    "program, message",
    [
        (array("O8", b")", b"C\x08AAAAAAAA"), "lacks its type or its values"),  # bytes for pointers, flags changed
        (array("V8", b")", b"C\x08AAAAAAAA"), "arrays of type 'V8' are not allowed"),
        (array("O8", b"K\x02\x85", b"]K\x05a"), "does not hold as many"),
        (array("O8", b"J\xff\xff\xff\xff\x85", b"]K\x05a"), "is none"),
        (array("f8", b")", b"C\x08AAAAAAAA"), "does not hold as many"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "does not hold as many"),
        (b"\x80\x02c_codecs\nencode\n}" + text("x") + text("y") + b"sb.", "a function has no state"),
        (b"\x80\x02cnumpy\nndarray\n}" + text("values") + b"Nsb.", "missing 1 required positional argument"),
        (b"\x80\x02c_codecs\nencode\n" + text("x") + text("zip") + b"\x86R.", "text in latin1, not as 'zip'"),
        (b"\x80\x02K\x01.", "it holds no array"),
        (b"\x80\x02", "no STOP|ran out|exhausted"),
    ],
)
def test_descriptions_that_do_not_fit(tmp_path, program, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, HEADER + program)


def test_nothing_here_was_changed_by_those_files(tmp_path):
    with pytest.raises(InputError):
        read(tmp_path, HEADER + b"\x80\x02c_codecs\nencode\nN}" + text("_call") + b"Ns\x86b.")
    assert read(tmp_path, saved(EXAMPLE))["y"].tolist() == [3, 1]
    assert len(GLOBALS) == 5 and {module for module, _ in GLOBALS} <= {"numpy", "numpy.core.multiarray",
                                                                       "numpy._core.multiarray", "_codecs"}  # fmt: skip


def test_damaged_files_are_refused_or_read_never_worse(tmp_path):
    content = saved(EXAMPLE)
    for end in range(0, len(content), 3):
        with pytest.raises(InputError, match=r"mine\.npy cannot be read, it is damaged or of another form"):
            read(tmp_path, content[:end])
    rng = np.random.default_rng(0)
    refused = 0
    for place in range(0, len(content), 3):
        spoilt = bytearray(content)
        spoilt[place] = rng.integers(256)
        try:
            read(tmp_path, bytes(spoilt))
        except InputError:
            refused += 1
    assert refused > len(content) // 12


@pytest.mark.parametrize("value", [np.arange(3), np.array([{}, {}], dtype=object)])
def test_other_arrays_are_not_one_object(tmp_path, value):
    np.save(tmp_path / "mine.npy", value, allow_pickle=True)
    with pytest.raises(InputError, match=r"it holds an array of shape \(., ?\) and type .*, not one object"):
        read_pickled_object(tmp_path / "mine.npy", "a dictionary is needed")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"the data file .*none\.npy does not exist; a dictionary is needed\."):
        read_pickled_object(tmp_path / "none.npy", "a dictionary is needed")
    os.mkdir(tmp_path / "folder.npy")
    with pytest.raises(InputError, match="does not exist"):
        read_pickled_object(tmp_path / "folder.npy", "a dictionary is needed")

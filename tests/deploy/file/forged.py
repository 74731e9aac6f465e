"""Packed files that someone changed and gave a fitting digest: what an attacker would write, in both formats."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib

from ttq_plugin.deploy.file.container import DICTIONARY, HEADER, IDENTITY, SHA
from ttq_plugin.deploy.file.entropy import varint


def resealed(data, change):
    """The file with its contents changed, and a digest that fits again."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    content = json.loads(header["__metadata__"]["ttq_packed"])
    reseal = _resealed1 if isinstance(content, dict) else _resealed2
    return reseal(header, content, bytearray(data[8 + length :]), change)


def _resealed1(header, content, body, change):
    change(header, content, body)
    content["digest"] = "0" * 64
    header["__metadata__"]["ttq_packed"] = json.dumps(content, sort_keys=True, separators=(",", ":"))
    text = json.dumps(header, separators=(",", ":")).encode()
    out = bytearray(struct.pack("<Q", len(text)) + text + body)
    [place] = re.finditer(rb'\\"digest\\":\\"(0{64})\\"', out)
    out[slice(*place.span(1))] = hashlib.sha256(out).hexdigest().encode()
    return bytes(out)


def _resealed2(_header, _content, body, change):
    directory, parts = unpacked(body)
    told = {"header": HEADER, "directory": directory, "parts": parts, "length": None}
    change(told)
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    coded = coder.compress(json.dumps(told["directory"]).encode()) + coder.flush()
    inside = varint(told["length"] or len(coded)) + coded + told["parts"]
    size = len(inside) + SHA
    header = told["header"].replace("%d", str(size)).encode()
    whole = struct.pack("<Q", len(header)) + header + inside
    return whole + hashlib.sha256(whole).digest()


def unpacked(body):
    """The directory, and the parts with the hash of their values."""
    start = next(i for i, byte in enumerate(body) if byte < 128) + 1
    length = sum((byte & 127) << 7 * i for i, byte in enumerate(body[:start]))
    text = zlib.decompressobj(-15, zdict=DICTIONARY).decompress(bytes(body[start : start + length]))
    return json.loads(text), bytearray(body[start + length : -SHA])


def body1(place):
    def change(_header, _content, body):
        body[place] ^= 0x10

    return change


def entry1(name, **values):
    def change(_header, content, _body):
        content["entries"][name] |= values

    return change


CRAFTED1 = {
    "a payload byte": body1(200),
    "the last byte": body1(-1),
    "an absurd shape": entry1("conv2.weight", shape=[1 << 40, 1 << 40]),
    "a negative size": entry1("conv2.weight", shape=[-1, 5000]),
    "a size that is no number": entry1("conv2.weight", shape=["a"]),
    "another shape of the same size": entry1("conv2.weight", shape=[10, 20, 5, 5]),
    "another dtype": entry1("conv2.weight", dtype="F64"),
    "an unknown dtype": entry1("conv2.weight", dtype="F3"),
    "an unknown scheme": entry1("conv2.weight", **{"as": "zip"}),
    "another scheme": entry1("conv2.weight", **{"as": "base3"}),
    "another kind": entry1("conv2.weight", kind="binary"),
    "another identity": entry1("conv2.weight", id="00"),
    "another checksum": entry1("conv2.weight", crc=1),
    "an entry without a tensor": lambda _h, content, _b: content["raw"].update(ghost=1),
    "a tensor without an entry": lambda _h, content, _b: content["raw"].pop("fc1.bias"),
    "an entry that is itself": entry1("conv2.weight", **{"as": "same", "of": "conv2.weight"}),
    "no entries": lambda _h, content, _b: content.pop("entries"),
    "entries that are a list": lambda _h, content, _b: content.update(entries=[]),
    "a report that is none": lambda _h, content, _b: content.update(report=3),
    "version 2": lambda _h, content, _b: content.update(version=2),
    "version true": lambda _h, content, _b: content.update(version=True),
    "a tensor of absurd size": lambda header, _c, _b: header["fc1.weight"].update(shape=[1 << 50, 80]),
    "offsets beyond the file": lambda header, _c, _b: header["fc1.weight"].update(data_offsets=[0, 1 << 40]),
    "offsets that overlap": lambda header, _c, _b: header["fc1.bias"].update(
        data_offsets=header["fc2.bias"]["data_offsets"]
    ),
    "a tensor of another type": lambda header, _c, _b: header["fc1.weight"].update(dtype="I32"),
}


def body2(place):
    """Counted from the first part that is no gathered vector."""

    def change(told):
        told["parts"][sum(told["directory"]["gathered"]) + place] ^= 0x10

    return change


def line2(name, *, places=(), drop=0, add=()):
    def change(told):
        [line] = [line for line in told["directory"]["tensors"] if line[0] == name]
        for place, value in dict(places).items():
            line[place] = value
        line[len(line) - drop :] = add

    return change


def about2(**values):
    return lambda told: told["directory"].update(values)


def told2(**values):
    return lambda told: told.update(values)


def longer_vectors(told):
    """The stream holds more than the vectors take."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = coder.compress(bytes(1 << 26)) + coder.flush()
    told["parts"][: sum(told["directory"]["gathered"])] = stream
    told["directory"]["gathered"] = [len(stream)]


CONV2 = {"dtype": 1, "shape": 2, "kind": 3, "rows": 4, "scheme": 5, "payload": 6}


def conv2(**values):
    return line2("conv2.weight", places={CONV2[key]: value for key, value in values.items()})


CRAFTED2 = {
    "a byte of scales": body2(2),
    "a byte of codes": body2(12),
    "a byte of gathered vectors": lambda told: told["parts"].__setitem__(0, told["parts"][0] ^ 7),
    "the hash of the values": lambda told: told["parts"].__setitem__(-1, told["parts"][-1] ^ 1),
    "a part that is longer": lambda told: told["parts"].__setitem__(slice(-IDENTITY, -IDENTITY), b"\0"),
    "a part that is cut off": lambda told: told["parts"].__delitem__(slice(-IDENTITY - 1, -IDENTITY)),
    "an absurd shape": conv2(shape=[1 << 40, 1 << 40]),
    "an absurd shape of a vector": line2("fc1.bias", places={2: [1 << 40]}),
    "an absurd shape of a matrix": line2("fc1.weight", places={2: [1 << 50, 80]}),
    "a negative size": conv2(shape=[-1, 5000]),
    "a size that is no number": conv2(shape=["a"]),
    "a shape that is a number": conv2(shape=5000),
    "another shape of the same size": conv2(shape=[10, 20, 5, 5]),
    "another dtype": conv2(dtype="F64"),
    "an unknown dtype": conv2(dtype="F3"),
    "a dtype that is a list": conv2(dtype=["F32"]),
    "an unknown kind": conv2(kind="zip"),
    "another kind": conv2(kind="binary"),
    "an unknown scheme": conv2(scheme="zip"),
    "another scheme": conv2(scheme="base3"),
    "a scheme that is none": conv2(scheme="raw"),
    "other rows": conv2(rows=1 << 60),
    "rows that are true": conv2(rows=True),
    "a negative length": conv2(payload=-1),
    "an absurd length": conv2(payload=1 << 60),
    "a line that is cut off": line2("conv2.weight", drop=1),
    "a line that is too long": line2("conv2.weight", add=[1]),
    "an empty line": lambda told: told["directory"]["tensors"].append([]),
    "a line that is no list": lambda told: told["directory"]["tensors"].append(7),
    "a name that is a number": lambda told: told["directory"]["tensors"].append([7, "same", "fc1.bias"]),
    "a name that ends in that of scales": lambda told: told["directory"]["tensors"].append(["a#table", "F32", [0]]),
    "a name that occurs twice": lambda told: told["directory"]["tensors"].append(["fc1.bias", "same", "fc2.bias"]),
    "a tensor of nothing": lambda told: told["directory"]["tensors"].append(["ghost", "F32", [0]]),
    "a tensor that is missing": lambda told: told["directory"]["tensors"].pop(),
    "a raw tensor in an unknown coding": line2("fc1.weight", add=["float8"]),
    "a tensor that is itself": line2("fc1.weight", places={1: "same", 2: "fc1.weight"}),
    "a tensor that is one that is not there": line2("fc1.weight", places={1: "same", 2: "ghost"}),
    "a tensor that is a list": line2("fc1.weight", places={1: "same", 2: ["fc2.weight"]}),
    "no tensors": lambda told: told["directory"].pop("tensors"),
    "tensors that are a word": about2(tensors="abc"),
    "no architecture": lambda told: told["directory"].pop("architecture"),
    "an architecture that is a number": about2(architecture=3),
    "a report that is none": about2(report=3),
    "a directory that is a list": told2(directory=[]),
    "a directory of absurd length": told2(length=1 << 34),
    "a directory of no length": told2(length=1),
    "a directory that inflates without end": lambda told: told["directory"].update(note="0" * (1 << 26)),
    "gathered vectors that inflate without end": longer_vectors,
    "no lengths of gathered vectors": lambda told: told["directory"].pop("gathered"),
    "a negative length of gathered vectors": lambda told: told["directory"]["gathered"].__setitem__(0, -1),
    "other gathered vectors": lambda told: told["directory"]["gathered"].append(0),
    "version 3": told2(header=HEADER.replace('"2"', '"3"')),
    "version true": told2(header=HEADER.replace('"2"', '"true"')),
    "version 2.0": told2(header=HEADER.replace('"2"', '"2.0"')),
    "version 1 of no content": told2(header=HEADER.replace('"2"', '"1"')),
    "another header": told2(header=HEADER.replace("model", "other")),
    "a header with a space": told2(header=HEADER + " "),
}

FORGED = [(1, what) for what in CRAFTED1] + [(2, what) for what in CRAFTED2]
CHANGES = {1: CRAFTED1, 2: CRAFTED2}

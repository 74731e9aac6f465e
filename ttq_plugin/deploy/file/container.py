"""A safetensors file of one tensor of bytes, which are a directory, the stored parts and two digests.

The tensor ``model`` holds, one after the other: the length of the deflated directory (LEB128), the directory (JSON,
deflated with ``DICTIONARY``), the parts of all weights, a short hash of the decoded values, and the
SHA-256 of all of the file that comes before it. The metadata entry ``ttq_packed`` is the format's version.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ttq_plugin.deploy.file.entropy import Damaged, varint
from ttq_plugin.errors import InputError
from ttq_plugin.support.digests import LARGEST_HEADER
from ttq_plugin.support.files import write_whole

KEY = "ttq_packed"
VERSION = 2

HEADER = '{"__metadata__":{"ttq_packed":"2"},"model":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
"""The header of every file of this version, except for the number of bytes."""

IDENTITY, SHA = 8, 32
"""Bytes of the two digests at the file's end."""

_CHUNK = 1 << 20

DICTIONARY = (
    b'"bits_base3":"bits_coo34":"bits_dense2":"bits_entropy":"bits_fp32":"cr_gain_base3":"cr_gain_dense2":'
    b'"cr_gain_entropy":"cr_gain_quantized":0.9"cr_gain_total":0.9"ec_gain_total":0.9"ec_total":e-0"ec_total_fp32":'
    b'"energy_model":"3.7e-12 J a mult-add, 1e-09 J a transfer","mult_adds":"mult_adds_fp32":"srqw":0.9'
    b'"kinds":"layers":["seed":0"accuracy":"macro_f1":"mcc":0.9},"task":"float16"],["int8"],["same","'
    b'"gathered":["method":"pttq","more":{"report":{"self_attn.in_proj_bias"out_proj.encoder.layers.0.linear1.'
    b'"F64",[],"num_batches_tracked","I64",[]],["running_mean","F32",[norm1.running_var","F32",['
    b'"binary",1,"bits"],"palette","base3"],["F16",[,"ternary",1,"entropy",1'
    b'{"architecture":"ttq_plugin.tasks.builtin.,"tensors":[["conv1.bias","F32",[10]],["fc2.weight","F32",[10,5,5],'
    b'"ternary",1,"pattern",'
)
"""The dictionary for deflating directories (zlib's ``zdict``), most common words last; part of the format."""


def write(path: Path, directory: dict[str, Any], parts: Sequence[memoryview], identity: bytes) -> None:
    """Write the file, whole or not at all.

    Args:
        path: Path of the file; its folder is created if needed.
        directory: What JSON holds; keys are sorted.
        parts: The bytes of the weights.
        identity: A hash of the decoded values, ``IDENTITY`` bytes.

    Raises:
        InputError: If the place cannot be written, or the directory would be too long.
    """
    text = json.dumps(directory, sort_keys=True, separators=(",", ":")).encode()
    if len(text) > LARGEST_HEADER:
        raise InputError(
            f"{path} cannot be written: its directory (task, method, report and tensors) must have at most "
            f"{LARGEST_HEADER} bytes, got {len(text)}; shorten the report."
        )
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    coded = coder.compress(text) + coder.flush()
    pieces: list[bytes | memoryview] = [varint(len(coded)), coded, *parts, identity]
    size = sum(map(len, pieces)) + SHA
    header = (HEADER % (size, size)).encode()
    digest = hashlib.sha256()

    def fill(temporary: str) -> None:
        with open(temporary, "wb") as file:
            for piece in (len(header).to_bytes(8, "little"), header, *pieces):
                file.write(piece)
                digest.update(piece)
            file.write(digest.digest())

    write_whole(path, fill)


def check(path: Path, file: IO[bytes], header: bytes) -> None:
    """Compare a file's digest with its bytes, and leave the file positioned at its directory.

    Args:
        path: Path of the file, for the error message.
        file: Opened.
        header: Its safetensors header.

    Raises:
        InputError: If a byte of the file is not as it was written.
    """
    size = file.seek(0, 2)
    rest = size - SHA
    inside = size - 8 - len(header)
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(min(_CHUNK, max(rest, 0))):
        digest.update(chunk)
        rest -= len(chunk)
    if header != (HEADER % (inside, inside)).encode() or rest or file.read() != digest.digest():
        raise InputError(f"{path} is damaged: its bytes do not match its digest; get another copy of the file.")
    file.seek(8 + len(header))


def read_directory(file: IO[bytes]) -> tuple[dict[str, Any], int, int, bytes]:
    """Read the directory of the file's parts.

    Args:
        file: The file, positioned as ``check`` left it.

    Returns:
        The directory, the first byte of the parts, the one after their last, and the hash of their values.

    Raises:
        Damaged: If it is not a valid directory.
    """
    start = file.tell()
    end = file.seek(-IDENTITY - SHA, 2)
    identity = file.read(IDENTITY)
    file.seek(start)
    length = shift = 0
    while shift < 35:
        [byte] = file.read(1)
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    begin = file.tell() + length
    if not start < begin <= end:
        raise Damaged("the directory's length")
    directory = json.loads(inflate(file.read(length), LARGEST_HEADER, DICTIONARY))
    if not isinstance(directory, dict):
        raise Damaged("the directory")
    return directory, begin, end, identity


def inflate(coded: bytes, most: int, dictionary: bytes = b"") -> bytes:
    """What was deflated.

    Args:
        coded: A raw stream of deflate.
        most: Largest number of decompressed bytes; no more are ever held in memory.
        dictionary: The dictionary that it was compressed with.

    Returns:
        The bytes.

    Raises:
        Damaged: If it is not such a stream, or would give more bytes.
    """
    decoder = zlib.decompressobj(-15, zdict=dictionary)
    try:
        found = decoder.decompress(coded, most + 1)
    except zlib.error as error:
        raise Damaged(f"a deflated stream ({error})") from None
    if len(found) > most or not decoder.eof or decoder.unused_data:
        raise Damaged("the length of a deflated stream")
    return found

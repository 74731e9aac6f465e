"""Files that are written while their disk fills up at the n-th file operation; run with faults.c preloaded.

Reads a line of JSON for each try, and answers with a line. Each try is a fork of one process.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from pathlib import Path

import torch
from torch import nn

from tests.search.faults import MODES
from ttq_plugin import bake, integerize, save_packed, ternarize
from ttq_plugin.deploy.c99.export import export_c
from ttq_plugin.deploy.c_int8.export import export_int8
from ttq_plugin.errors import InputError
from ttq_plugin.support.files import write_text
from ttq_plugin.support.weights import save_weights

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def forms():
    """What writes each form to a path; one folder is made on the way."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    ternarize(model, layers=["0"])
    model = bake(model.eval())
    module = integerize(model, X)
    return {
        "packed": lambda path: save_packed(model, path / "out"),
        "weights": lambda path: save_weights(nn.Linear(6, 3), path / "out"),
        "text": lambda path: write_text(path / "out", "text " * 5000),
        "c": lambda path: export_c(model, X, path, name="out"),
        "c-int8": lambda path: export_int8(module, path, name="out", samples=X),
    }


def child(write, asked, out):
    faults = ctypes.CDLL(None)
    faults.counted.restype = ctypes.c_long
    faults.arm(ctypes.c_long(asked["at"]), MODES[asked["mode"]], asked["folder"].encode())
    said = ""
    try:
        write(Path(asked["folder"], "new" if asked["new"] else ""))
    except InputError as error:
        said = str(error)
    except BaseException:
        said = traceback.format_exc()
    os.write(out, json.dumps({"said": said, "operations": faults.counted()}).encode())
    os._exit(0)


def main():
    known = forms()
    for line in sys.stdin:
        asked = json.loads(line)
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            child(known[asked["form"]], asked, writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            print(pipe.read(), flush=True)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()

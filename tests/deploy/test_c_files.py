"""Files of two exports are never compiled together, as a process that is killed between their renames leaves them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ttq_plugin.deploy.c_files import write_c

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")

FILES = ("net.c", "net.h", "net_test.c")


def written(folder, value):
    header = f"#ifndef NET_H\n#define NET_H\n\n#define NET_INPUTS {value}\n#endif\n"
    code = '#include "net.h"\n\nint net_{}(void);\nint net_{}(void) {{ return NET_INPUTS; }}\n'
    write_c(folder, "net", {"net.h": header, "net.c": code.format("run", "run"), "net_test.c": code.format(*"tt")})


def compiled(folder):
    sources = [folder / file for file in FILES if file.endswith(".c")]
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wundef", "-Werror", "-pedantic", "-fsyntax-only"]
    return subprocess.run(["gcc", *strict, *sources], capture_output=True, text=True).stderr


def test_only_files_of_one_export_are_compiled(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    written(old, 4)
    assert compiled(old) == ""
    for file in FILES:
        written(old, 4)
        written(new, 5)
        shutil.copy(new / file, old / file)
        assert '#error "net.h is of another export than this file; export all files again"' in compiled(old), file


def test_the_same_export_gives_the_same_bytes(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        written(folder, 4)
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in FILES)

"""Compiles the native kernels when the package is installed; without a C compiler it goes on without them."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = "ttq_plugin/native"


class NativeKernels(BuildHookInterface):
    """Adds the library to the wheel, which then fits this platform alone."""

    def initialize(self, version: str, build_data: dict) -> None:  # noqa: D102 - hatchling's name
        # Run, not imported: ttq_plugin's own imports need what may not be installed yet.
        script = runpy.run_path(str(Path(self.root, NATIVE, "build.py")))
        for source in script["SOURCES"]:
            library = script["library_of"](source)
            if reason := script["build"](library, source):
                self.app.display_warning(
                    f"ttq-plugin: native kernels not built, training and inference run slower: {reason}."
                )
                return
            build_data["artifacts"].append(library.relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        # The library is of this platform, but knows nothing of Python.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

"""Compiles the engine: every `fastmq/_*.pyx` becomes one extension module. Everything else is in pyproject.toml.

FASTMQ_SANITIZE=address   builds with AddressSanitizer (`make asan`)
FASTMQ_DEBUG=1            builds with bounds and None checks, whatever the files say
FASTMQ_ENGINE=0           leaves the engine out: for an editable install, whose engine `make build` compiles
"""

import os
import re
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("FASTMQ_SANITIZE", "")
DEBUG = os.environ.get("FASTMQ_DEBUG", "") == "1"
CHECKED = {"boundscheck": True, "wraparound": False, "nonecheck": True, "initializedcheck": True, "cdivision": False}

compile_flags, link_flags = ["-O2", "-g0"], []
if DEBUG:
    compile_flags = ["-O1", "-g", "-UNDEBUG"]
if SANITIZE:
    compile_flags = [f"-fsanitize={SANITIZE}", "-g", "-O1", "-fno-omit-frame-pointer"]
    link_flags = [f"-fsanitize={SANITIZE}"]


def checked(source: str) -> str:
    """A copy without its `# cython:` comment, which would win over CHECKED."""
    copy = Path("build/checked") / source
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(re.sub(r"^# cython:.*$", "#", Path(source).read_text(), flags=re.MULTILINE))
    return str(copy)


extensions = [
    Extension(
        f"fastmq.{Path(source).stem}",
        [checked(source) if DEBUG else source],
        extra_compile_args=[*compile_flags, "-Wno-sign-compare"],  # Cython's loops mix the two
        extra_link_args=link_flags,
    )
    for source in sorted(glob("fastmq/_*.pyx"))
    if os.environ.get("FASTMQ_ENGINE") != "0"
]
variant = SANITIZE or ("debug" if DEBUG else "release")

setup(
    ext_modules=cythonize(
        extensions,
        build_dir=f"build/cython-{variant}",
        include_path=["."],
        language_level=3,
        compiler_directives=CHECKED if DEBUG else {},
    )
)

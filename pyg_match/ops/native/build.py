"""Building the library of the C code in this folder; ``python -m pyg_match.ops.native`` does it in place.

It needs no headers of Python or torch, so that one library serves all versions of them. The code of attention and of
top-k is compiled once for each instruction set; which of them a machine has is asked when the library is loaded.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
NAME = "libpyg_match.dll" if sys.platform == "win32" else "libpyg_match.so"
_OPTIONS = ["-std=gnu11", "-O3", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno"]
_OPTIONS += ["-g0", "-fno-trapping-math", "-fno-signed-zeros", "-Wall", "-Wextra", "-Wno-psabi"]
INSTRUCTION_SETS: dict[str, list[str]] = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
}
_ONCE = ("machine.c", "graphs.c")
_EACH = ("attention.c", "topk.c", "diverse.c")


def compiler() -> list[str]:
    """The words that call a C compiler: ``$CC``, the system's, or the one of the ``ziglang`` package.

    Raises:
        FileNotFoundError: If there is none.
    """
    named = os.environ.get("CC", "").split()
    if named:
        return named
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang") is None:
        raise FileNotFoundError("there is no C compiler: install one, or the package 'ziglang'")
    return [sys.executable, "-m", "ziglang", "cc"]


def has_compiler() -> bool:
    """Whether there is a compiler."""
    try:
        return bool(compiler())
    except FileNotFoundError:
        return False


def build(
    target: Path = FOLDER / NAME,
    machine: str = "",
    options: Sequence[str] = (),
    quiet: bool = True,
    baseline: bool = False,
) -> Path:
    """Compile the library.

    Args:
        target: The file to write.
        machine: The kind of processor, if it is not this machine's.
        options: More options of the compiler and linker.
        quiet: Whether not to show what is called.
        baseline: Whether to leave out what not every processor of this kind has.

    Raises:
        FileNotFoundError: If there is no compiler.
        RuntimeError: If it fails; with what it said.
    """
    words = [*compiler(), *_OPTIONS, *([] if sys.platform == "win32" else ["-fPIC"]), *options]
    on_x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64")
    sets: dict[str, list[str]] = INSTRUCTION_SETS if on_x86 and not baseline else {"baseline": []}
    with tempfile.TemporaryDirectory() as folder:
        jobs: list[tuple[str, str, list[str]]] = [(source, "baseline", []) for source in _ONCE]
        jobs += [(source, name, flags) for source in _EACH for name, flags in sets.items()]
        objects = []
        for source, name, flags in jobs:
            objects.append(f"{folder}/{Path(source).stem}_{name}.o")
            _call([*words, *flags, f"-DISA={name}", "-c", str(FOLDER / source), "-o", objects[-1]], quiet)
        made = Path(folder) / NAME
        _call([*words, "-shared", *objects, "-o", str(made), *([] if os.name == "nt" else ["-lm"])], quiet)
        part = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copyfile(made, part)
        os.replace(part, target)
    return target


def _call(words: list[str], quiet: bool) -> None:
    if not quiet:
        print(" ".join(words))
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    if done.stderr and not quiet:
        print(done.stderr)

"""Building the library of the C code in this folder; ``python -m pyg_match.ops.native`` does it in place.

It needs no headers of Python or torch, so that one library serves all versions of them. Most of the code is compiled
once for each instruction set; which of them a machine has is asked when the library is loaded.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
# Left to itself, zig builds for the processor at hand only.
_ZIG_OPTIONS = ["-mcpu=baseline"]
_ONCE = ("machine.c", "graphs.c")
_EACH = ("attention.c", "topk.c", "diverse.c", "convolution.c", "detection.c")


# What GCC knows from version 12 on.
_PROBE = """
typedef int four __attribute__((vector_size(16)));
four probe(four a) { return __builtin_shufflevector(a, a, 0, 4, 1, 5); }
"""


def compiler() -> list[str]:
    """The words that call a C compiler: ``$CC``, the system's, or the one of the ``ziglang`` package.

    It must know vectors as GCC 12 and clang do; one that does not, such as an older GCC, is passed over.

    Raises:
        FileNotFoundError: If there is none.
    """
    named = os.environ.get("CC", "").split()
    choices = [named] if named else [[name] for name in ("cc", "gcc", "clang") if shutil.which(name)]
    if not named and importlib.util.find_spec("ziglang") is not None:
        choices.append([sys.executable, "-m", "ziglang", "cc", *_ZIG_OPTIONS])
    for words in choices:
        if _works(words):
            return words
    raise FileNotFoundError(
        "there is no C compiler that knows vectors: install GCC 12, clang or the package 'ziglang'"
    )


def _works(words: list[str]) -> bool:
    """Whether a compiler can be called and knows what the code uses."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text(_PROBE)
        try:
            done = subprocess.run(
                [*words, "-c", str(source), "-o", f"{folder}/probe.o"],
                capture_output=True,
                env=_environment(folder),
            )
        except OSError:
            return False
        return done.returncode == 0


def _environment(folder: str) -> dict[str, str]:
    """The environment of a compiler, which may have no other place to write to."""
    return {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder, **os.environ}


def digest_of_sources() -> int:
    """A number that changes with the C code, by which a library built from other code is known."""
    files = sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h")])
    return zlib.crc32(b"".join(file.read_bytes() for file in files))


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
    words = compiler()
    if "-target" in options:  # whose processor zig takes as the baseline anyway
        words = [word for word in words if word not in _ZIG_OPTIONS]
    words += [
        *_OPTIONS,
        f"-DSOURCES={digest_of_sources()}",
        *([] if sys.platform == "win32" else ["-fPIC"]),
        *options,
    ]
    on_x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64")
    sets: dict[str, list[str]] = INSTRUCTION_SETS if on_x86 and not baseline else {"baseline": []}
    with tempfile.TemporaryDirectory() as folder:
        jobs: list[tuple[str, str, list[str]]] = [(source, "baseline", []) for source in _ONCE]
        jobs += [(source, name, flags) for source in _EACH for name, flags in sets.items()]
        objects = [f"{folder}/{Path(source).stem}_{name}.o" for source, name, _ in jobs]

        def compile_one(job: tuple[str, str, list[str]], target: str) -> None:
            source, name, flags = job
            _call([*words, *flags, f"-DISA={name}", "-c", str(FOLDER / source), "-o", target], folder, quiet)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, jobs, objects))
        made = Path(folder) / NAME
        _call(
            [*words, "-shared", *objects, "-o", str(made), *([] if os.name == "nt" else ["-lm"])],
            folder,
            quiet,
        )
        part = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copyfile(made, part)
        os.replace(part, target)
    return target


def _call(words: list[str], folder: str, quiet: bool) -> None:
    if not quiet:
        print(" ".join(words))
    done = subprocess.run(words, capture_output=True, text=True, env=_environment(folder))
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    if done.stderr and not quiet:
        print(done.stderr)

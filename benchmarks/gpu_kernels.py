"""What the Triton kernels need of a GPU that does not have to be there: registers, spills and shared memory.

    python benchmarks/gpu_kernels.py [--capability 90] [--dtypes bfloat16 float32] [--heads 4] [--channels 64]

Every kernel is compiled as `sparse_attention` and `edge_scores` launch it, with listed edges, weighted groups and
gradients, down to machine code for one compute capability (80: A100, 90: H100 and H200). `spilled` is the stack of a
thread in bytes, of which there should be none or little. Needs Triton, which brings its own assembler, on Linux.
"""

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch
import triton
from rich.console import Console
from rich.table import Table
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pyg_match.ops import CSR, EdgeSet, attention_cuda
from pyg_match.ops.gpu import dense, listed

TYPES = {
    torch.float: "fp32", torch.double: "fp64", torch.bfloat16: "bf16", torch.half: "fp16", torch.long: "i64",
    torch.int: "i32", torch.uint8: "u8",
}  # fmt: skip
NODES = 256


class Launches:
    """Stands in for a kernel and notes what it is launched with."""

    def __init__(self, name: str, kernel: Any, into: list[tuple[str, Any, Any, Any]]) -> None:
        self.name, self.kernel, self.into = name, kernel, into

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        """The launch on that grid."""
        return lambda *args, **kwargs: self.into.append((self.name, self.kernel, args, kwargs))


def launches(dtype: torch.dtype, heads: int, channels: int) -> Iterator[tuple[str, Any, Any, Any]]:
    """Every kernel once, with the arguments that the operators give to it."""
    noted: list[tuple[str, Any, Any, Any]] = []
    kernels = {
        (module, name): getattr(module, name)
        for module in (listed, dense)
        for name in ("forward", "backward_targets", "backward_sources", "scores", "gather", "count_tiles")
        if hasattr(module, name)
    }
    for (module, name), kernel in kernels.items():
        kind = module.__name__.rpartition(".")[2]
        setattr(module, name, Launches(f"{kind} {name}", kernel, noted))
    try:
        q, k, v = torch.zeros(3, NODES, heads, channels, dtype=dtype)
        csr = CSR(torch.arange(NODES + 1) * 4, torch.arange(4 * NODES) % NODES)
        groups = [[0, 100, 0, 64], [100, NODES, 64, 80]]
        edges = EdgeSet.of(csr, NODES, NODES).with_transpose()
        edges = edges.with_groups(groups, torch.arange(80), torch.zeros(NODES), torch.arange(NODES))
        arguments = (q, k, v, edges, None, None, False, 0.1)
        out, lse = attention_cuda.attention_forward(*arguments)
        attention_cuda.attention_backward(out, out, lse, None, True, *arguments)
        scores = attention_cuda.scores_forward(q, k, edges, 0.1)
        attention_cuda.scores_backward(scores, q, k, edges, 0.1)
    finally:
        for (module, name), kernel in kernels.items():
            setattr(module, name, kernel)
    seen = set()
    for name, kernel, args, kwargs in noted:
        key = (name, *sorted((k, str(v)) for k, v in kwargs.items()))
        if key not in seen:
            seen.add(key)
            yield name, kernel, args, kwargs


def compiled(kernel: Any, args: Any, kwargs: Any, capability: int) -> Any:
    """The kernel for these arguments, as Triton would specialise it for them."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for place, parameter in enumerate(kernel.params):
        name, exact = parameter.name, not parameter.do_not_specialize
        value = kwargs[name] if name in kwargs else args[place]
        if name in kwargs or (exact and isinstance(value, int) and value == 1):
            signature[name], constants[(place,)] = "constexpr", value
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = f"*{TYPES[value.dtype]}" if isinstance(value, Tensor) else "i32"
            aligned = exact and not parameter.do_not_specialize_on_alignment
            if aligned and (isinstance(value, Tensor) or value % 16 == 0):
                attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    stages = {"num_stages": kwargs["num_stages"]} if "num_stages" in kwargs else {}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=stages)


def resources(code: Any) -> tuple[int, int, int]:
    """Registers and stack of a thread, and shared memory of a program."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{word}:(\d+)", said)[1]) for word in ("REG", "STACK"))  # type: ignore[index]
    return registers, stack, code.metadata.shared


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--capability", type=int, default=90)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--channels", type=int, default=64)
    options = parser.parse_args()
    title = f"Triton {triton.__version__}, compute capability {options.capability}, {options.heads} heads"
    table = Table("kernel", "numbers", "registers", "spilled", "shared memory", title=title)
    for dtype in options.dtypes:
        for name, kernel, args, kwargs in launches(getattr(torch, dtype), options.heads, options.channels):
            table.add_row(
                name, dtype, *map(str, resources(compiled(kernel, args, kwargs, options.capability)))
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

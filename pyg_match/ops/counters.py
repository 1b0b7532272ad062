"""What kernels need to share work out: a job is known by its address, and begins with counters."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

TASK, WORKER = 0, 1  # the counters


@intrinsic
def at_address(context: Any, address: Any) -> Any:
    """A number as an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


@intrinsic
def count_up(context: Any, job: Any, counter: Any) -> Any:
    """The value of a counter, which goes up by one; no two threads get the same."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        counters = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        place = builder.gep(counters, [args[1]])
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.uint64(types.voidptr, types.int64), generate

"""The two innermost loops of the kernels, written for vector registers.

Left to itself, the compiler checks before each short loop whether its arrays overlap, keeps sums in memory, and adds up
every scalar product on its own. Here a block of channels is one register: eight scalar products are summed up by one
tree of shuffles, and a weighted sum stays in registers until all edges are in it.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

EDGES = 8  # whose scalar products are taken at a time
_FLAGS = ("contract", "reassoc", "nsz", "arcp")  # as for the kernels: fused and reordered, but NaN stays NaN
_INDEX = ir.IntType(64)
_ACCUMULATORS = 4  # of a weighted sum: enough to hide how long an addition takes


def _register_bytes() -> int:
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


REGISTER = _register_bytes()


class _Code:
    """What both loops need to emit."""

    def __init__(self, context: Any, builder: Any, real: Any) -> None:
        self.builder = builder
        self.real = context.get_data_type(real)
        self.bytes = real.bitwidth // 8
        self.lanes = REGISTER // self.bytes
        self.vector = ir.VectorType(self.real, self.lanes)

    def load(self, data: Any, index: Any) -> Any:
        """A register of numbers from ``data[index]`` on."""
        place = self.builder.bitcast(self.builder.gep(data, [index]), self.vector.as_pointer())
        return self.builder.load(place, align=self.bytes)

    def store(self, value: Any, data: Any, index: Any) -> None:
        place = self.builder.bitcast(self.builder.gep(data, [index]), value.type.as_pointer())
        self.builder.store(value, place, align=self.bytes)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FLAGS)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return self.add(self.builder.fmul(a, b, flags=_FLAGS), c)

    def spread(self, number: Any) -> Any:
        """A register with one number in all places."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        single = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(single, undefined, [0] * self.lanes)

    def shuffle(self, a: Any, b: Any, places: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
        return self.builder.shuffle_vector(a, b, mask)

    def row(self, col: Any, edge: Any, step: Any, offset: Any) -> Any:
        """Where the numbers of an edge's source start."""
        source = self.builder.load(self.builder.gep(col, [edge]))
        return self.builder.add(self.builder.mul(source, step), offset)


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """The address of an array's numbers."""
    return context.make_array(kind)(context, builder, value).data


@intrinsic
def dot_rows(
    context: Any, a: Any, at: Any, b: Any, step: Any, offset: Any, col: Any, first: Any, channels: Any, out: Any,
    into: Any,
) -> Any:  # fmt: skip
    """``out[into + e] = <a[at:], b[col[first + e] * step + offset:]>`` for eight edges and whole registers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        code = _Code(context, builder, kinds[0].dtype)
        a, b, col, out = (_data(context, builder, kinds[i], args[i]) for i in (0, 2, 5, 8))
        at, step, offset, first, channels, into = (args[i] for i in (1, 3, 4, 6, 7, 9))
        zero = ir.Constant(code.vector, None)
        rows, totals = [], []
        for e in range(EDGES):
            edge = builder.add(first, ir.Constant(_INDEX, e))
            rows.append(code.row(col, edge, step, offset))
            totals.append(cgutils.alloca_once_value(builder, zero))
        with cgutils.for_range_slice(
            builder, ir.Constant(_INDEX, 0), channels, ir.Constant(_INDEX, code.lanes), _INDEX
        ) as (c, _):
            x = code.load(a, builder.add(at, c))
            for row, total in zip(rows, totals, strict=True):
                y = code.load(b, builder.add(row, c))
                builder.store(code.multiply_add(x, y, builder.load(total)), total)
        code.store(_summed(code, [builder.load(total) for total in totals]), out, into)
        return context.get_dummy_value()

    return types.void(a, at, b, step, offset, col, first, channels, out, into), generate


@intrinsic
def sum_rows(
    context: Any, weight: Any, origin: Any, b: Any, step: Any, offset: Any, col: Any, first: Any, count: Any,
    channels: Any, out: Any, at: Any,
) -> Any:  # fmt: skip
    """``out[at:] += sum_e weight[origin + e] b[col[first + e] * step + offset:]`` for whole registers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        code = _Code(context, builder, kinds[0].dtype)
        weight, b, col, out = (_data(context, builder, kinds[i], args[i]) for i in (0, 2, 5, 9))
        origin, step, offset, first, count, channels, at = (args[i] for i in (1, 3, 4, 6, 7, 8, 10))

        def block(start: Any, registers: int) -> None:
            places = [builder.add(start, ir.Constant(_INDEX, i * code.lanes)) for i in range(registers)]
            into = [builder.add(at, place) for place in places]
            totals = [cgutils.alloca_once_value(builder, code.load(out, place)) for place in into]
            with cgutils.for_range(builder, count, intp=_INDEX) as edge:
                row = code.row(col, builder.add(first, edge.index), step, offset)
                factor = code.spread(builder.load(builder.gep(weight, [builder.add(origin, edge.index)])))
                for place, total in zip(places, totals, strict=True):
                    y = code.load(b, builder.add(row, place))
                    builder.store(code.multiply_add(factor, y, builder.load(total)), total)
            for place, total in zip(into, totals, strict=True):
                code.store(builder.load(total), out, place)

        width = ir.Constant(_INDEX, _ACCUMULATORS * code.lanes)
        wide = builder.sub(channels, builder.urem(channels, width))
        zero, lanes = ir.Constant(_INDEX, 0), ir.Constant(_INDEX, code.lanes)
        with cgutils.for_range_slice(builder, zero, wide, width, _INDEX) as (start, _):
            block(start, _ACCUMULATORS)
        with cgutils.for_range_slice(builder, wide, channels, lanes, _INDEX) as (start, _):
            block(start, 1)
        return context.get_dummy_value()

    return types.void(weight, origin, b, step, offset, col, first, count, channels, out, at), generate


def _summed(code: _Code, registers: list[Any]) -> Any:
    """The sums of eight registers, as one vector of eight numbers."""
    width = code.lanes  # of what belongs to one sum, within a register
    while len(registers) > 1:
        pairs = list(zip(registers[::2], registers[1::2], strict=True))
        if width > 1:
            registers, width = [_halved(code, a, b, width) for a, b in pairs], width // 2
        else:
            places = list(range(2 * registers[0].type.count))
            registers = [code.shuffle(a, b, places) for a, b in pairs]
    total = registers[0]
    while width > 1:
        total, width = _halved(code, total, None, width), width // 2
    return total


def _halved(code: _Code, a: Any, b: Any, width: int) -> Any:
    """Add the second half of each stretch of so many numbers to its first half; those of ``b`` follow ``a``'s."""
    count = a.type.count if b is None else 2 * a.type.count
    b = ir.Constant(a.type, ir.Undefined) if b is None else b
    low = [i for i in range(count) if i % width < width // 2]
    return code.add(code.shuffle(a, b, low), code.shuffle(a, b, [i + width // 2 for i in low]))

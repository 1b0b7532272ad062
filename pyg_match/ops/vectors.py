"""The innermost loops of the kernels, written for vector registers.

Left to itself, the compiler checks before each short loop whether its arrays overlap, keeps sums in memory, and adds up
every scalar product on its own. Here channels come in registers, some at a time: eight scalar products are summed up by
one tree of shuffles, and a weighted sum stays in registers until all edges are in it.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

EDGES = 8  # whose scalar products are taken at a time
_FLAGS = ("contract", "reassoc", "nsz", "arcp")  # as for the kernels: fused and reordered, but NaN stays NaN
_IN_ORDER = ("contract",)  # without flags, a sum would get those of the kernel around it
_INDEX = ir.IntType(64)
_LINE = 64  # bytes of a cache's line
_REGISTERS = 4  # of channels that are taken at a time


def _register_bytes() -> int:
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


REGISTER = _register_bytes()


class _Code:
    """What the loops need to emit."""

    def __init__(self, context: Any, builder: Any, real: Any) -> None:
        self.builder = builder
        self.real = context.get_data_type(real)
        self.bytes = real.bitwidth // 8
        self.lanes = REGISTER // self.bytes
        self.vector = ir.VectorType(self.real, self.lanes)
        self.zero = ir.Constant(self.vector, None)

    def load(self, data: Any, index: Any) -> Any:
        """A register of numbers from ``data[index]`` on; bfloat16, the upper half of single precision, is made that."""
        builder, start = self.builder, self.builder.gep(data, [index])
        if not self.is_rounded(data):
            return builder.load(builder.bitcast(start, self.vector.as_pointer()), align=self.bytes)
        short, whole = (ir.VectorType(ir.IntType(bits), self.lanes) for bits in (16, 32))
        numbers = builder.zext(builder.load(builder.bitcast(start, short.as_pointer()), align=2), whole)
        numbers = builder.shl(numbers, ir.Constant(whole, [16] * self.lanes))
        return builder.bitcast(numbers, self.vector)

    def is_rounded(self, data: Any) -> bool:
        """Whether the numbers of a table are bfloat16."""
        return bool(data.type.pointee != self.real)

    def load_rounded(self, data: Any, index: Any) -> tuple[Any, Any]:
        """Two registers of bfloat16, :meth:`parted`: a pair of numbers is one of 32 bits, its first the lower half."""
        builder, pairs = self.builder, ir.VectorType(ir.IntType(32), self.lanes)
        both = builder.load(builder.bitcast(builder.gep(data, [index]), pairs.as_pointer()), align=2)
        even = builder.shl(both, ir.Constant(pairs, [16] * self.lanes))
        odd = builder.and_(both, ir.Constant(pairs, [0xFFFF0000] * self.lanes))
        return builder.bitcast(even, self.vector), builder.bitcast(odd, self.vector)

    def parted(self, registers: list[Any]) -> list[Any]:
        """The numbers of each two registers anew: those in even places, and those in odd ones."""
        return self._moved(registers, [*range(0, 2 * self.lanes, 2), *range(1, 2 * self.lanes, 2)])

    def joined(self, registers: list[Any]) -> list[Any]:
        """What :meth:`parted` was given."""
        return self._moved(registers, [i + j for i in range(self.lanes) for j in (0, self.lanes)])

    def _moved(self, registers: list[Any], places: list[int]) -> list[Any]:
        pairs = zip(registers[::2], registers[1::2], strict=True)
        halves = (places[: self.lanes], places[self.lanes :])
        return [self.shuffle(a, b, half) for a, b in pairs for half in halves]

    def load_row(self, row: Any, places: list[Any], rounded: bool) -> list[Any]:
        """The numbers of a node at these places, :meth:`parted` if ``rounded``."""
        if rounded:
            return [register for place in places[::2] for register in self.load_rounded(row, place)]
        return [self.load(row, place) for place in places]

    def store(self, value: Any, data: Any, index: Any) -> None:
        place = self.builder.bitcast(self.builder.gep(data, [index]), value.type.as_pointer())
        self.builder.store(value, place, align=self.bytes)

    def store_some(self, value: Any, data: Any, index: Any, count: Any) -> None:
        """Store the first numbers of a vector, and touch nothing behind them."""
        builder, places = self.builder, ir.VectorType(_INDEX, value.type.count)
        numbers = ir.Constant(places, list(range(places.count)))
        inside = builder.icmp_unsigned("<", numbers, self.spread(count, places.count))
        place = builder.bitcast(builder.gep(data, [index]), value.type.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [value.type, place.type, ir.IntType(32), inside.type])
        suffix = f"v{places.count}f{8 * self.bytes}"
        name = f"llvm.masked.store.{suffix}.p0{suffix}"
        store = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(store, [value, place, ir.Constant(ir.IntType(32), self.bytes), inside])

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FLAGS)

    def multiply(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=_FLAGS)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return self.add(self.multiply(a, b), c)

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def constant(self, number: float) -> Any:
        return ir.Constant(self.vector, [number] * self.lanes)

    def spread(self, number: Any, places: int = 0) -> Any:
        """A vector, as wide as a register if not told otherwise, with one number in all places."""
        undefined = ir.Constant(ir.VectorType(number.type, self.lanes), ir.Undefined)
        single = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(single, undefined, [0] * (places or self.lanes))

    def shuffle(self, a: Any, b: Any, places: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
        return self.builder.shuffle_vector(a, b, mask)

    def reduced(self, numbers: Any, join: Callable[[Any, Any], Any]) -> Any:
        """All numbers of a vector in one."""
        while numbers.type.count > 1:
            half = numbers.type.count // 2
            low, high = (self.shuffle(numbers, numbers, list(range(i, i + half))) for i in (0, half))
            numbers = join(low, high)
        return self.builder.extract_element(numbers, ir.Constant(ir.IntType(32), 0))

    def row(self, b: Any, col: Any, edge: Any, step: Any, offset: Any) -> Any:
        """The address of the numbers of an edge's source."""
        source = self.builder.zext(self.builder.load(self.builder.gep(col, [edge])), _INDEX)
        row = self.builder.gep(b, [self.builder.add(self.builder.mul(source, step), offset)])
        # Nothing happens here, but the compiler has to have the address in one register: adding two again for each
        # number would cost an instruction each time.
        return self.builder.asm(ir.FunctionType(row.type, [row.type]), "", "=r,0", [row], False)

    def for_blocks(self, channels: Any, body: Callable[[Any, int], None]) -> None:
        """Call ``body(start, registers)`` for blocks of some registers, then for the single ones that are left."""
        builder, zero = self.builder, ir.Constant(_INDEX, 0)
        width, lanes = (ir.Constant(_INDEX, number) for number in (_REGISTERS * self.lanes, self.lanes))
        with builder.if_else(builder.icmp_unsigned("==", channels, width)) as (one, several):
            with one:  # what most networks have, without an index to count up
                body(zero, _REGISTERS)
            with several:
                wide = builder.sub(channels, builder.urem(channels, width))
                with cgutils.for_range_slice(builder, zero, wide, width, _INDEX) as (start, _):
                    body(start, _REGISTERS)
                with cgutils.for_range_slice(builder, wide, channels, lanes, _INDEX) as (start, _):
                    body(start, 1)

    def for_registers(self, count: Any, body: Callable[[Any, Any], None]) -> None:
        """Call ``body(place, inside)`` for each register of so many numbers; in the last one not all may be inside."""
        builder, zero, lanes = self.builder, ir.Constant(_INDEX, 0), ir.Constant(_INDEX, self.lanes)
        whole = builder.and_(count, ir.Constant(_INDEX, -self.lanes))
        with cgutils.for_range_slice(builder, zero, whole, lanes, _INDEX) as (place, _):
            body(place, None)
        with builder.if_then(builder.icmp_unsigned("<", whole, count)):
            numbers = ir.Constant(ir.VectorType(_INDEX, self.lanes), list(range(self.lanes)))
            rest = self.spread(builder.sub(count, whole))
            body(whole, builder.icmp_unsigned("<", numbers, rest))


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """The address of an array's numbers."""
    return context.make_array(kind)(context, builder, value).data


def _dot_rows(edges: int) -> Any:
    """The function for so many edges at a time."""

    @intrinsic
    def dot_rows(
        context: Any, a: Any, at: Any, b: Any, step: Any, offset: Any, col: Any, first: Any, count: Any,
        channels: Any, scale: Any, out: Any, into: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            code = _Code(context, builder, kinds[0].dtype)
            a, b, col, out = (_data(context, builder, kinds[i], args[i]) for i in (0, 2, 5, 10))
            at, step, offset, first, count = (args[i] for i in (1, 3, 4, 6, 7))
            channels, scale, into = (args[i] for i in (8, 9, 11))
            last = builder.sub(count, ir.Constant(_INDEX, 1))
            rows, totals = [], []
            for e in range(edges):
                number = ir.Constant(_INDEX, e)
                number = builder.select(builder.icmp_unsigned("<", number, last), number, last)
                edge = builder.add(first, number)
                rows.append(code.row(b, col, edge, step, offset))
                totals.append(cgutils.alloca_once_value(builder, code.zero))

            def block(start: Any, registers: int) -> None:
                places = [builder.add(start, ir.Constant(_INDEX, i * code.lanes)) for i in range(registers)]
                rounded = code.is_rounded(b) and registers > 1
                step = 2 if rounded else 1  # registers of all rows at a time
                for i in range(0, registers, step):
                    here = places[i : i + step]
                    xs = [code.load(a, builder.add(at, place)) for place in here]
                    xs = code.parted(xs) if rounded else xs
                    for row, total in zip(rows, totals, strict=True):
                        for x, y in zip(xs, code.load_row(row, here, rounded), strict=True):
                            builder.store(code.multiply_add(x, y, builder.load(total)), total)

            code.for_blocks(channels, block)
            found = _summed(code, [builder.load(total) for total in totals])
            code.store_some(code.multiply(code.spread(scale, edges), found), out, into, count)
            return context.get_dummy_value()

        return types.void(a, at, b, step, offset, col, first, count, channels, scale, out, into), generate

    return dot_rows


# ``out[into + e] = scale * <a[at:], b[col[first + e] * step + offset:]>`` for whole registers and ``count`` edges: from
# one to eight, or to four. The last edge is read again in place of those that are missing.
dot_rows, dot_few_rows = _dot_rows(EDGES), _dot_rows(EDGES // 2)


@intrinsic
def sum_rows(
    context: Any, weight: Any, origin: Any, b: Any, step: Any, offset: Any, col: Any, first: Any, count: Any,
    channels: Any, anew: Any, part: Any, part_at: Any, out: Any, at: Any,
) -> Any:  # fmt: skip
    """``out[at:] = part[part_at:] + sum_e weight[origin + e] b[col[first + e] * step + offset:]``, whole registers.

    If ``anew``, the part is taken as 0.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        code = _Code(context, builder, kinds[0].dtype)
        weight, b, col, part, out = (_data(context, builder, kinds[i], args[i]) for i in (0, 2, 5, 10, 12))
        origin, step, offset, first, count, channels = (args[i] for i in (1, 3, 4, 6, 7, 8))
        anew, part_at, at = (args[i] for i in (9, 11, 13))
        zero, one, two = (ir.Constant(_INDEX, number) for number in range(3))
        paired = builder.and_(count, ir.Constant(_INDEX, -2))

        def block(start: Any, registers: int) -> None:
            places = [builder.add(start, ir.Constant(_INDEX, i * code.lanes)) for i in range(registers)]
            # Sums of edges with an even and with an odd number, so that one need not wait for the other.
            totals = [[cgutils.alloca_once_value(builder, code.zero) for _ in places] for _ in range(2)]

            rounded = code.is_rounded(b) and registers > 1

            def add(edge: Any, totals: list[Any]) -> None:
                row = code.row(b, col, builder.add(first, edge), step, offset)
                factor = code.spread(builder.load(builder.gep(weight, [builder.add(origin, edge)])))
                for y, total in zip(code.load_row(row, places, rounded), totals, strict=True):
                    builder.store(code.multiply_add(factor, y, builder.load(total)), total)

            with builder.if_then(builder.not_(anew)):
                before = [code.load(part, builder.add(part_at, place)) for place in places]
                before = code.parted(before) if rounded else before
                for y, total in zip(before, totals[0], strict=True):
                    builder.store(y, total)
            with cgutils.for_range_slice(builder, zero, paired, two, _INDEX) as (edge, _):
                add(edge, totals[0])
                add(builder.add(edge, one), totals[1])
            with builder.if_then(builder.icmp_unsigned("<", paired, count)):
                add(paired, totals[0])
            sums = [
                code.add(builder.load(even), builder.load(odd)) for even, odd in zip(*totals, strict=True)
            ]
            sums = code.joined(sums) if rounded else sums
            for place, y in zip(places, sums, strict=True):
                code.store(y, out, builder.add(at, place))

        code.for_blocks(channels, block)
        return context.get_dummy_value()

    kinds = (weight, origin, b, step, offset, col, first, count, channels)
    return types.void(*kinds, types.boolean, part, part_at, out, at), generate


def _fetch_row(write: bool, level: int) -> Any:
    """The function for reading or writing, into the first level of a core's cache or a later one."""

    @intrinsic
    def fetch_row(context: Any, a: Any, at: Any, channels: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code, (at, channels) = _Code(context, builder, signature.args[0].dtype), args[1:]
            data = _data(context, builder, signature.args[0], args[0])
            word, place = ir.IntType(32), cgutils.voidptr_t
            kind = ir.FunctionType(ir.VoidType(), [place, word, word, word])
            prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")

            def block(start: Any, registers: int) -> None:
                for i in range(0, registers, _LINE // REGISTER):
                    number = builder.add(builder.add(at, start), ir.Constant(_INDEX, i * code.lanes))
                    line = builder.bitcast(builder.gep(data, [number]), place)
                    builder.call(
                        prefetch, [line, *(ir.Constant(word, flag) for flag in (int(write), 4 - level, 1))]
                    )

            code.for_blocks(channels, block)
            return context.get_dummy_value()

        return types.void(a, at, channels), generate

    return fetch_row


# Have the cache lines of ``a[at:]`` ready to be written, or in the second level to be read; they may lie outside of the
# array. Whole registers.
fetch_to_write, fetch_to_read = _fetch_row(True, 1), _fetch_row(False, 2)


@intrinsic
def largest(context: Any, score: Any, at: Any, count: Any) -> Any:
    """The largest of ``count`` scores from ``score[at]`` on, minus infinity if there are none.

    The array must go on for a register.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature.args[0].dtype)
        data, (at, count) = _data(context, builder, signature.args[0], args[0]), args[1:]
        nothing = ir.Constant(code.vector, [float("-inf")] * code.lanes)
        top = cgutils.alloca_once_value(builder, nothing)

        def take(place: Any, inside: Any) -> None:
            x, highest = code.load(data, builder.add(at, place)), builder.load(top)
            x = x if inside is None else builder.select(inside, x, nothing)
            builder.store(code.larger(x, highest), top)

        code.for_registers(count, take)
        return code.reduced(builder.load(top), code.larger)

    return score.dtype(score, at, count), generate


@intrinsic
def exponentials(context: Any, score: Any, at: Any, count: Any, top: Any) -> Any:
    """Replace ``count`` scores by ``exp(min(score - top, 0))``, single precision; returns the sum.

    The array must go on for a register. What lies there is written anew as it was, so that it must be the thread's own.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature.args[0].dtype)
        data, (at, count) = _data(context, builder, signature.args[0], args[0]), args[1:3]
        top, total = code.spread(args[3]), cgutils.alloca_once_value(builder, code.zero)

        def take(place: Any, inside: Any) -> None:
            place = builder.add(at, place)
            x = code.load(data, place)
            power = _exp(code, builder.fsub(x, top, flags=_IN_ORDER))
            code.store(power if inside is None else builder.select(inside, power, x), data, place)
            power = power if inside is None else builder.select(inside, power, code.zero)
            builder.store(code.add(power, builder.load(total)), total)

        code.for_registers(count, take)
        return code.reduced(builder.load(total), code.add)

    return score.dtype(score, at, count, score.dtype), generate


def _exp(code: _Code, x: Any) -> Any:
    """``exp(min(x, 0))`` as Cephes' expf: 2^n e^r with |r| < ln(2) / 2. These steps must not be reordered."""
    builder, number = code.builder, code.constant

    def add(a: Any, b: Any) -> Any:
        return builder.fadd(a, b, flags=_IN_ORDER)

    def multiply(a: Any, b: Any) -> Any:
        return builder.fmul(a, b, flags=_IN_ORDER)

    x = builder.select(builder.fcmp_ordered(">", x, code.zero, flags=_IN_ORDER), code.zero, x)  # NaN stays
    x = builder.select(builder.fcmp_ordered("<", x, number(-87.0), flags=_IN_ORDER), number(-87.0), x)
    integers = ir.VectorType(ir.IntType(32), code.lanes)
    nearest = add(multiply(x, number(1.4426950408889634)), number(-0.5))  # towards zero, as x is not positive
    nearest = builder.select(builder.fcmp_ordered("ord", x, x, flags=_IN_ORDER), nearest, code.zero)
    whole = builder.fptosi(nearest, integers)
    n = builder.sitofp(whole, code.vector)
    r = add(add(x, multiply(n, number(-0.693359375))), multiply(n, number(2.12194440e-4)))
    p = number(1.9875691500e-4)
    for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = add(multiply(p, r), number(factor))
    p = add(add(multiply(multiply(p, r), r), r), number(1.0))
    bias, places = (ir.Constant(integers, [n] * code.lanes) for n in (127, 23))
    power = builder.shl(builder.add(whole, bias), places)
    return multiply(p, builder.bitcast(power, code.vector))


def _summed(code: _Code, registers: list[Any]) -> Any:
    """The sums of some registers, as a vector."""
    width = code.lanes  # of what belongs to one sum, within a register
    while len(registers) > 1:
        half = len(registers) // 2
        pairs = zip(registers[:half], registers[half:], strict=True)
        if width > 1:
            registers, width = [_halved(code, a, b, width) for a, b in pairs], width // 2
        else:
            count = registers[0].type.count
            registers = [
                code.shuffle(a, b, [i + j for i in range(count) for j in (0, count)]) for a, b in pairs
            ]
    total = registers[0]
    while width > 1:
        low = [i for i in range(total.type.count) if i % width < width // 2]
        total = code.add(
            code.shuffle(total, total, low), code.shuffle(total, total, [i + width // 2 for i in low])
        )
        width //= 2
    return total


def _halved(code: _Code, a: Any, b: Any, width: int) -> Any:
    """Add both halves of each stretch of so many numbers: those of ``a`` into its first half, ``b``'s into its second.

    Half of the numbers stay in their places, which any unit of a core can do; few of them can move numbers.
    """
    count, half = code.lanes, width // 2
    stay = [i if i % width < half else count + i for i in range(count)]
    move = [i + half if i % width < half else count + i - half for i in range(count)]
    return code.add(code.shuffle(a, b, stay), code.shuffle(a, b, move))

"""Sums of 8-bit table entries for a block of 256 codes, by instructions that look up 64 bytes at once (AVX-512 VBMI).

A table of 64 bytes stands in one vector register, and ``vpermb`` looks up 64 codes in it; two registers serve up to
128 codewords (``vpermi2b``), and four serve 256. No look-up touches memory. Numba has no vector types, so the block's
work is one intrinsic, written in LLVM's language; what surrounds it is plain Numba in `kernels`.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

BLOCK = 256  # codes that are summed at a time
_LANES = 64  # bytes of a vector register
_VECTOR = ir.VectorType(ir.IntType(8), _LANES)
_I64 = ir.IntType(64)

# What Numba compiles for, which may be less than what the machine has (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES).
HAS_SHUFFLES = "+avx512vbmi," in cpu_target.target_context.codegen().magic_tuple()[2] + ","


def n_registers(K):
    """Return how many registers a part's table takes; 0 where there is no such instruction, or K is too large."""
    if not HAS_SHUFFLES or K > 4 * _LANES:
        return 0
    return 1 if K <= _LANES else 2 if K <= 2 * _LANES else 4


def _define(n_registers):
    """Return the intrinsic for tables of so many registers."""

    @intrinsic
    def mark_block(typing_context, codes, bounds, M, bound, masks):
        """Set bit i of the masks where the saturating sum of code i's entries is at most the bound.

        `codes`, `bounds` and `masks` are addresses: of M rows of 256 codes, of M rows of 64 bytes a register, and of
        four 64-bit words. Returns the union of the masks.
        """
        signature = types.uint64(types.uintp, types.uintp, types.intp, types.uint8, types.uintp)

        def codegen(context, builder, signature, arguments):
            codes, bounds, M, bound, masks = arguments
            pointer = _VECTOR.as_pointer()
            zero = ir.Constant(_VECTOR, None)

            def declare(name, n):
                return cgutils.get_or_insert_function(
                    builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * n), f"llvm.{name}"
                )

            shuffle, shuffle_two = declare("x86.avx512.permvar.qi.512", 2), declare("x86.avx512.vpermi2var.qi.512", 3)
            add = declare("uadd.sat.v64i8", 2)

            def load(address, i):
                address = builder.add(address, ir.Constant(_I64, _LANES * i))
                return builder.load(builder.inttoptr(address, pointer), align=1)

            def look_up(table, index):
                if n_registers == 1:
                    return builder.call(shuffle, [table[0], index])
                low = builder.call(shuffle_two, [table[0], index, table[1]])
                if n_registers == 2:
                    return low
                high = builder.call(shuffle_two, [table[2], index, table[3]])
                return builder.select(builder.icmp_signed("<", index, zero), high, low)  # the top bit of the code

            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(BLOCK // _LANES)]
            with cgutils.for_range(builder, M) as loop:
                row = builder.add(bounds, builder.mul(loop.index, ir.Constant(_I64, _LANES * n_registers)))
                table = [load(row, i) for i in range(n_registers)]
                row = builder.add(codes, builder.mul(loop.index, ir.Constant(_I64, BLOCK)))
                for i, total in enumerate(sums):
                    entries = look_up(table, load(row, i))
                    builder.store(builder.call(add, [builder.load(total), entries]), total)
            lanes = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), bound, ir.Constant(ir.IntType(32), 0))
            limit = builder.shuffle_vector(
                lanes, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), _LANES), None)
            )
            union = ir.Constant(_I64, 0)
            for i, total in enumerate(sums):
                mask = builder.bitcast(builder.icmp_unsigned("<=", builder.load(total), limit), _I64)
                address = builder.add(masks, ir.Constant(_I64, 8 * i))
                builder.store(mask, builder.inttoptr(address, _I64.as_pointer()), align=1)
                union = builder.or_(union, mask)
            return union

        return signature, codegen

    return mark_block


if HAS_SHUFFLES:
    _mark_block_1, _mark_block_2, _mark_block_4 = _define(1), _define(2), _define(4)

    @njit(nogil=True, inline="always")
    def mark_block(n_registers, codes, bounds, M, bound, masks):
        """Mark the codes of a block whose sums are at most the bound; see `_define`."""
        if n_registers == 1:
            return _mark_block_1(codes, bounds, M, bound, masks)
        if n_registers == 2:
            return _mark_block_2(codes, bounds, M, bound, masks)
        return _mark_block_4(codes, bounds, M, bound, masks)

else:

    @njit(nogil=True)
    def mark_block(n_registers, codes, bounds, M, bound, masks):
        """Stand where there are no such instructions; `n_registers` is then 0, and nothing calls this."""
        return 0


@intrinsic
def mark_queries(typing_context, codes, bounds, K, M, sums, new_sums):
    """Add the entries of one code to 64 queries' saturating sums, and mark the queries whose sums are below 255.

    All but K and M are addresses: of the code's entries, one every 256 bytes, for M parts; of these parts' rounded
    tables (M, K, 64); and of 64 sums before and after. LLVM lowers this to the vectors of any machine.
    """
    signature = types.uint64(types.uintp, types.uintp, types.intp, types.intp, types.uintp, types.uintp)

    def codegen(context, builder, signature, arguments):
        codes, bounds, K, M, sums, new_sums = arguments
        add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 2), "llvm.uadd.sat.v64i8"
        )

        def pointer(address):
            return builder.inttoptr(address, _VECTOR.as_pointer())

        total = cgutils.alloca_once_value(builder, builder.load(pointer(sums), align=1))
        with cgutils.for_range(builder, M) as loop:
            code = builder.add(codes, builder.mul(loop.index, ir.Constant(_I64, BLOCK)))
            code = builder.zext(builder.load(builder.inttoptr(code, ir.IntType(8).as_pointer())), _I64)
            row = builder.mul(builder.add(builder.mul(loop.index, K), code), ir.Constant(_I64, _LANES))
            row = builder.load(pointer(builder.add(bounds, row)), align=1)
            builder.store(builder.call(add, [builder.load(total), row]), total)
        total = builder.load(total)
        builder.store(total, pointer(new_sums), align=1)
        full = ir.Constant(_VECTOR, [255] * _LANES)
        return builder.bitcast(builder.icmp_unsigned("!=", total, full), _I64)

    return signature, codegen


@intrinsic
def trailing_zeros(typing_context, word):
    """Return the position of the lowest bit that is set; the word is not zero."""

    def codegen(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen


@intrinsic
def float_bits(typing_context, x):
    """Return the bits of a float32; of floats that are not negative, larger ones have larger bits."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def bits_float(typing_context, bits):
    """Undo `float_bits`."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), codegen

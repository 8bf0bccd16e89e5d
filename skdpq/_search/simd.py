"""SIMD primitives of the kernels: saturating sums of 8-bit table entries, and the bits of words and floats.

`kernels`, `topk` and `ranking` call them. Sums are exact up to 254; larger ones stand at most at 255.

In-register look-up tables: a table of 64 bytes stands in one vector register, and ``vpermb`` of AVX-512 VBMI looks up
64 codes in it at once; two registers serve up to 128 codewords (``vpermi2b``), and four serve 256. No look-up touches
memory. Numba has no vector types, so the work on a block is one intrinsic, written in LLVM's language; what surrounds
it is plain Numba.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

BLOCK_CODES = 256  # codes that are summed at a time
VECTOR_BYTES = 64  # of a vector register
_VECTOR = ir.VectorType(ir.IntType(8), VECTOR_BYTES)
_I64 = ir.IntType(64)

# What Numba compiles for, which may be less than what the machine has (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES).
HAS_SIMD = "+avx512vbmi," in cpu_target.target_context.codegen().magic_tuple()[2] + ","


def n_registers(K):
    """Return how many registers a part's table takes; 0 where there is no such instruction, or K is too large."""
    if not HAS_SIMD or K > 4 * VECTOR_BYTES:
        return 0
    return 1 if K <= VECTOR_BYTES else 2 if K <= 2 * VECTOR_BYTES else 4


def _vector_function(builder, name, n_arguments):
    """Declare an LLVM function from vectors to a vector."""
    function_type = ir.FunctionType(_VECTOR, [_VECTOR] * n_arguments)
    return cgutils.get_or_insert_function(builder.module, function_type, f"llvm.{name}")


def _offset(builder, address, index, n_bytes):
    """Return the address `index` times so many bytes further."""
    return builder.add(address, builder.mul(index, ir.Constant(_I64, n_bytes)))


def _load(builder, address, i=0):
    """Load the i-th vector from an address."""
    address = builder.add(address, ir.Constant(_I64, VECTOR_BYTES * i))
    return builder.load(builder.inttoptr(address, _VECTOR.as_pointer()), align=1)


def _repeat(builder, byte):
    """Return a vector that holds one byte everywhere."""
    undefined, first = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    every_lane = ir.Constant(ir.VectorType(ir.IntType(32), VECTOR_BYTES), None)
    return builder.shuffle_vector(builder.insert_element(undefined, byte, first), undefined, every_lane)


def _look_up(builder, table, codes):
    """Look up 64 codes in a table of one, two or four registers."""
    if len(table) == 1:
        return builder.call(_vector_function(builder, "x86.avx512.permvar.qi.512", 2), [*table, codes])
    shuffle_two = _vector_function(builder, "x86.avx512.vpermi2var.qi.512", 3)
    low = builder.call(shuffle_two, [table[0], codes, table[1]])
    if len(table) == 2:
        return low
    high = builder.call(shuffle_two, [table[2], codes, table[3]])
    # a code of 128 or more has its top bit set, so as a signed byte it is negative
    return builder.select(builder.icmp_signed("<", codes, ir.Constant(_VECTOR, None)), high, low)


def _define(n_registers):
    """Return the intrinsic for tables of so many registers."""

    @intrinsic
    def mark_block(typing_context, codes, table_u8, M, max_sum, masks):
        """Set bit i of the masks where the saturating sum of code i's entries is at most `max_sum`.

        `codes`, `table_u8` and `masks` are addresses: of M rows of 256 codes, of M rows of 64 bytes a register, and
        of four 64-bit words. Returns the union of the masks.
        """
        signature = types.uint64(types.uintp, types.uintp, types.intp, types.uint8, types.uintp)

        def codegen(context, builder, signature, arguments):
            codes, table_u8, M, max_sum, masks = arguments
            add = _vector_function(builder, "uadd.sat.v64i8", 2)
            zero = ir.Constant(_VECTOR, None)

            # The sums of 256 codes stay in four registers, whatever M is.
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(BLOCK_CODES // VECTOR_BYTES)]
            with cgutils.for_range(builder, M) as loop:
                row = _offset(builder, table_u8, loop.index, VECTOR_BYTES * n_registers)
                table = [_load(builder, row, i) for i in range(n_registers)]
                row = _offset(builder, codes, loop.index, BLOCK_CODES)
                for i, total in enumerate(sums):
                    entries = _look_up(builder, table, _load(builder, row, i))
                    builder.store(builder.call(add, [builder.load(total), entries]), total)

            # A comparison of two vectors is 64 bits, a word of the masks.
            most = _repeat(builder, max_sum)
            union = ir.Constant(_I64, 0)
            for i, total in enumerate(sums):
                mask = builder.bitcast(builder.icmp_unsigned("<=", builder.load(total), most), _I64)
                address = builder.add(masks, ir.Constant(_I64, 8 * i))
                builder.store(mask, builder.inttoptr(address, _I64.as_pointer()), align=1)
                union = builder.or_(union, mask)
            return union

        return signature, codegen

    return mark_block


if HAS_SIMD:
    _mark_block_1, _mark_block_2, _mark_block_4 = _define(1), _define(2), _define(4)

    @njit(nogil=True, inline="always")
    def mark_block(n_registers, codes, table_u8, M, max_sum, masks):
        """Mark the codes of a block whose sums are at most `max_sum`; see `_define`."""
        if n_registers == 1:
            return _mark_block_1(codes, table_u8, M, max_sum, masks)
        if n_registers == 2:
            return _mark_block_2(codes, table_u8, M, max_sum, masks)
        return _mark_block_4(codes, table_u8, M, max_sum, masks)

else:

    @njit(nogil=True)
    def mark_block(n_registers, codes, table_u8, M, max_sum, masks):
        """Stand where there are no such instructions; `n_registers` is then 0, and nothing calls this."""
        return 0


@intrinsic
def mark_queries(typing_context, codes, table_u8, K, M, sums, new_sums):
    """Add the entries of one code to 64 queries' saturating sums, and mark the queries whose sums are below 255.

    All but K and M are addresses: of the code's entries, one every 256 bytes, for M parts; of these parts' 8-bit
    tables (M, K, 64); and of 64 sums before and after. LLVM lowers this to the vectors of any machine.
    """
    signature = types.uint64(types.uintp, types.uintp, types.intp, types.intp, types.uintp, types.uintp)

    def codegen(context, builder, signature, arguments):
        codes, table_u8, K, M, sums, new_sums = arguments
        add = _vector_function(builder, "uadd.sat.v64i8", 2)
        total = cgutils.alloca_once_value(builder, _load(builder, sums))
        with cgutils.for_range(builder, M) as loop:
            code = _offset(builder, codes, loop.index, BLOCK_CODES)
            code = builder.zext(builder.load(builder.inttoptr(code, ir.IntType(8).as_pointer())), _I64)
            row = _offset(builder, table_u8, builder.add(builder.mul(loop.index, K), code), VECTOR_BYTES)
            builder.store(builder.call(add, [builder.load(total), _load(builder, row)]), total)
        total = builder.load(total)
        builder.store(total, builder.inttoptr(new_sums, _VECTOR.as_pointer()), align=1)
        full = ir.Constant(_VECTOR, [255] * VECTOR_BYTES)
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
    """Return the float32 of bits."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def double_bits(typing_context, x):
    """Return the bits of a float64."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], _I64)

    return types.uint64(types.float64), codegen


@intrinsic
def bits_double(typing_context, bits):
    """Return the float64 of bits."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.uint64), codegen

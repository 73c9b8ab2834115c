"""The compiled inner loops, in Python that Numba translates; `subnetworks.core.kernels` calls them.

Written for the vector units: blocks that stay in the first-level cache, searched once for what
differs, 64 entries at a time (`vectors`); those that moved are gathered from many blocks, and only
they are compared with the tolerances, one plain loop per quantity. Nothing here allocates, raises
or touches a Python object, so that the machine code can be kept and loaded again without Numba.
"""

# The functions below have no annotations: Numba infers types from the signatures in `EXPORTS`.
# mypy: ignore-errors

import numba
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from subnetworks.core.kernels.keys import KEYS
from subnetworks.core.kernels.layout import (
    BIT_EQUAL,
    BLOCK,
    EQUAL,
    EXPONENTS,
    INF_AFTER,
    INF_BEFORE,
    NAN_AFTER,
    NAN_BEFORE,
    NONFINITE,
    NONFINITE_BIT_EQUAL,
    SCRATCH,
    SELECT_ABSOLUTE,
    SELECT_BITS,
    SELECT_CLOSE,
    SELECT_RELATIVE,
    SELECTED,
    STEP_BINS,
    TOLERANCES,
)
from subnetworks.core.kernels.vectors import (
    CAN_TALLY,
    LANES,
    OVERHANG,
    STATE,
    TALLIED,
    above,
    at_most,
    copy,
    equal,
    gather,
    lowest,
    population,
    survey,
    tally,
)

_OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False}
_jit = numba.njit(**_OPTIONS)
# Reassociation is allowed only where sums of ones are taken, never where a difference is.
_jit_sum = numba.njit(**_OPTIONS, fastmath={"reassoc"})

_gather = gather()
_pread = types.ExternalFunction(
    "pread", types.int64(types.int32, types.int64, types.int64, types.int64)
)
# Bytes, and words, of a block's bits.
_PLANE = BLOCK // 8
_WORDS = BLOCK // LANES
# Of 64 entries, how many must have moved for all of them to be copied rather than gathered.
_MANY = 40
# Exponents counted in whole blocks, from the largest down, and how few entries are not worth it.
_NEAR, _FEW = 24, 40
# Columns of a product at a time, so that they stay in the first-level cache.
_COLUMNS = 1024
# Infinity, and the smallest magnitude that is not finite.
_INFINITE = 0x7F80
_HASH_SEED = 0x9E3779B97F4A7C15
# Below this, `relative` is Δ = 0 between finite bfloat16: neighbours differ by 1/256 at least.
_RELATIVE_STEP = np.float32(1 / 257)


@intrinsic
def _float_of(_typing, _bits):
    """The float32 with these bits."""

    def generate(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _bits_of(_typing, _value):
    """The bits of a float32."""

    def generate(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _fma(_typing, _left, _right, _total):
    """left · right + total, rounded once."""

    def generate(_context, builder, _signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@_jit
def _bf16(bits):
    return _float_of(np.uint32(np.uint32(bits) << np.uint32(16)))


@_jit
def _differences(x, y, d):
    for i in range(BLOCK):
        d[i] = abs(_bf16(y[i]) - _bf16(x[i]))


@_jit
def _at_most(d, bound):
    """How many differences are at most `bound`."""
    total = np.uint64(0)
    for i in range(0, BLOCK, LANES):
        total += population(above(d, i, bound))
    return BLOCK - np.int64(total)


@_jit
def _larger(p, q):
    """The larger magnitude of two bfloat16."""
    p = np.uint32(p) & np.uint32(0x7FFF)
    q = np.uint32(q) & np.uint32(0x7FFF)
    return _float_of(np.uint32((p if p > q else q) << np.uint32(16)))


@_jit_sum
def _at_most_relative(x, y, d, ratio):
    total = np.float32(0)
    for i in range(BLOCK):
        total += np.float32(1) if d[i] <= ratio * _larger(x[i], y[i]) else np.float32(0)
    return np.int64(total)


@_jit
def _exponents(x, e):
    """The exponents of some bfloat16."""
    for i in range(BLOCK):
        e[i] = np.uint8((x[i] >> np.uint16(7)) & np.uint16(0xFF))


@_jit
def _count_exponents(e, largest, among, n_by_exponent):
    """Count exponents (at most `largest`); all but `among` of them are 255 and do not count.

    Few occur, so one is counted after the other, from the largest down, and the last few entries
    one by one.
    """
    left = among
    exponent = largest
    while left > _FEW and exponent >= 0 and exponent > largest - _NEAR:
        n = equal(e, np.uint8(exponent))
        n_by_exponent[exponent] += n
        left -= n
        exponent -= 1
    if left > _FEW and exponent > 0:
        # A pruned model has many zeros, far below its weights.
        n_by_exponent[0] += equal(e, np.uint8(0))
        for i in range(BLOCK):
            if e[i] and e[i] <= exponent:
                n_by_exponent[np.int64(e[i])] += 1
    elif left:
        for i in range(_WORDS):
            word = at_most(e, LANES * i, np.uint8(exponent))
            while word:
                n_by_exponent[np.int64(e[LANES * i + np.int64(lowest(word))])] += 1
                word &= word - np.uint64(1)


@_jit
def _largest_magnitude(y):
    """The largest of some bfloat16, without their signs, as bits."""
    result = np.uint16(0)
    for i in range(BLOCK):
        result = max(result, np.uint16(y[i] & np.uint16(0x7FFF)))
    return np.int64(result)


@_jit
def _in_order(bits):
    """A bfloat16's place among all, −0 and +0 being one; uint16."""
    magnitude = np.uint16(bits & np.uint16(0x7FFF))
    middle = np.uint16(0x8000)
    return np.uint16(middle - magnitude) if bits > magnitude else np.uint16(middle + magnitude)


@_jit
def _steps(x, y, s):
    """Representable values between."""
    for i in range(BLOCK):
        p = _in_order(x[i])
        q = _in_order(y[i])
        s[i] = np.uint16(max(p, q) - min(p, q))


@_jit
def _count_steps(s, bound):
    """How many steps are at most `bound`."""
    last = np.uint16(bound)
    total = np.uint16(0)
    for i in range(BLOCK):
        total = np.uint16(total + np.uint16(s[i] <= last))
    return np.int64(total)


@_jit
def _write_mask(sources, exact, turn, mask, start, size):
    """Copy a block's bit map, what changed if `exact`, to the mask's bytes for entry `start` on."""
    change, chosen = sources
    if size == BLOCK:
        if exact:
            copy(change, _WORDS * turn, mask, start >> 3)
        else:
            copy(chosen, _WORDS * turn, mask, start >> 3)
    else:
        for i in range((size + 7) // 8):
            word = change[_WORDS * turn + i // 8] if exact else chosen[_WORDS * turn + i // 8]
            mask[(start >> 3) + i] = np.uint8(word >> np.uint64(8 * (i % 8)))


@_jit
def _count_moved(gathered, filled, moved, bounds, tolerances, results):
    """Count the entries that moved, gathered from many blocks, by tolerance and by ulp steps.

    Args:
        gathered: before and after, `filled` entries of which `moved` moved, and views of the
            working space.
        tolerances: how many of `bounds` are on |Δ|; the rest are on the ratio.
    """
    x, y, d, s, e = gathered
    counts, steps, n_by_exponent = results
    for i in range(filled, BLOCK):
        x[i] = np.uint16(0)
        y[i] = np.uint16(0)
    still = BLOCK - moved
    _differences(x, y, d)
    # From the largest tolerance on, so that those with nothing to forgive cost nothing.
    none_left = np.float32(-1)
    all_there = np.float32(np.inf)
    for k in range(tolerances - 1, -1, -1):
        if bounds[k] <= none_left:
            within = still
        elif bounds[k] >= all_there:
            within = BLOCK
        else:
            within = _at_most(d, bounds[k])
            if within == still:
                none_left = max(none_left, bounds[k])
            if within == BLOCK:
                all_there = min(all_there, bounds[k])
        counts[TOLERANCES + k] += within - still
    for k in range(tolerances, bounds.size):
        if bounds[k] >= _RELATIVE_STEP:
            counts[TOLERANCES + k] += _at_most_relative(x, y, d, bounds[k]) - still
    _steps(x, y, s)
    seen = still
    k = 1
    while seen < BLOCK:
        now = _count_steps(s, min(1 << (k - 1), 0xFFFF))
        steps[k] += now - seen
        seen = now
        k += 1
    largest = _largest_magnitude(x) >> 7
    _exponents(x, e)
    if still:
        for i in range(BLOCK):
            e[i] = e[i] if x[i] != y[i] and d[i] > np.float32(0) else np.uint8(255)
    _count_exponents(e, largest, moved, n_by_exponent[EXPONENTS:])


@_jit
def _select(x, y, at, d, select, bound, chosen, first):
    """Which entries of a block a rule with a tolerance puts into the mask, and how many."""
    x = x[at : at + BLOCK]
    y = y[at : at + BLOCK]
    _differences(x, y, d)
    if select == SELECT_RELATIVE:
        for i in range(BLOCK):
            # Its sign is all that counts, so it may take the difference's place.
            d[i] = d[i] - bound * _larger(x[i], y[i])
        bound = np.float32(0)
    total = np.uint64(0)
    for i in range(_WORDS):
        word = above(d, LANES * i, bound)
        chosen[first + np.uint64(i)] = word
        total += population(word)
    return np.int64(total)


@_jit
def _count_low(e, bound, n_by_exponent):
    """Count those of a block's exponents that are at most `bound`; returns how many."""
    low = np.uint64(0)
    for i in range(_WORDS):
        low += population(at_most(e, LANES * i, np.uint8(bound)))
    if low > np.uint64(_FEW):
        # A pruned model has many zeros, far below its weights.
        n_by_exponent[0] += equal(e, np.uint8(0))
        for i in range(BLOCK):
            if e[i] and e[i] <= bound:
                n_by_exponent[np.int64(e[i])] += 1
    else:
        for i in range(_WORDS):
            word = at_most(e, LANES * i, np.uint8(bound))
            while word:
                n_by_exponent[np.int64(e[LANES * i + np.int64(lowest(word))])] += 1
                word &= word - np.uint64(1)
    return np.int64(low)


@_jit
def _settle(state, top, n_by_exponent):
    """Add what `tally` has counted from the exponent `top` down, and clear its state."""
    for t in range(TALLIED // 8):
        for k in range(8):
            mask = np.uint64(0x0101010101010101) << np.uint64(k)
            total = np.uint64(0)
            for i in range(8):
                for digit in range(5):
                    word = state[8 * (13 * t + digit) + i] & mask
                    total += population(word) << np.uint64(digit)
                total += state[8 * (13 * t + 5 + k) + i] << np.uint64(5)
            if total:
                n_by_exponent[top - 8 * t - k] += np.int64(total)
    for i in range(STATE):
        state[i] = np.uint64(0)


@_jit
def _tally_block(e, largest, top, state, n_by_exponent):
    """Count a block's exponents, at most `largest`; `top` is where `tally` counts from, and will.

    It goes up when it must, and down when many exponents lie below those it counts.
    """
    if largest > top:
        _settle(state, top, n_by_exponent)
        top = largest
    smallest = tally(e, np.uint8(top), state)
    if smallest <= top - TALLIED:
        low = _count_low(e, top - TALLIED, n_by_exponent)
        if low > _FEW and largest < top:
            _settle(state, top, n_by_exponent)
            top = largest
    return top


@_jit
def _count_block(e, largest, top, _state, n_by_exponent):
    """The same for processors that cannot `tally`."""
    _count_exponents(e, largest, BLOCK, n_by_exponent)
    return top


_count_exponents_of_block = _tally_block if CAN_TALLY else _count_block


@_jit
def _nh(words, first, n):
    """The sum over `n` words and keys of the products of their halves' sums (NH of UMAC)."""
    block = words[first : first + n]
    total = np.uint64(0)
    for i in range(n):
        low = (block[i] + KEYS[i]) & np.uint64(0xFFFFFFFF)
        high = ((block[i] >> np.uint64(32)) + (KEYS[i] >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
        total += low * high
    return total


@_jit
def _chain(state, total):
    """A hash's state after one more block's sum."""
    state = (state ^ total) * np.uint64(0xD6E8FEB86659FD93)
    return state ^ (state >> np.uint64(32))


@_jit
def _hash_group(a, words, start, state):
    """A hash's state after the entries from `start` on, as many as there are keys for."""
    n = min(KEYS.size, words.size - start // 4)
    total = _nh(words, start // 4, n)
    rest = min(a.size - start - 4 * n, 3)
    if n < KEYS.size and rest:
        # The last word is filled up with zeros.
        last = np.uint64(0)
        for i in range(rest):
            last |= np.uint64(a[start + 4 * n + i]) << np.uint64(16 * i)
        low = (last + KEYS[n]) & np.uint64(0xFFFFFFFF)
        high = ((last >> np.uint64(32)) + (KEYS[n] >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
        total += low * high
    return _chain(state, total)


@_jit
def _count_bf16(a, b, rule, mask, masked, results, scratch, hashing):
    """Count a piece of bfloat16 entries, and hash it.

    Both in turns, a few blocks at a time: what is counted has just been read to be hashed.

    Args:
        rule: bounds, how many of each kind, and the mask's rule, as in `kernels.Rule`.
        results: counts, steps and exponents, as in `kernels.Counts`.
        hashing: where the hashes of each side's chunks go (none of a side if empty), and how many
            entries a chunk has.
    """
    bounds, close, absolute, relative, select, bound = rule
    counts, steps, n_by_exponent = results
    a_hashes, b_hashes, chunk = hashing
    n = a.size
    # All views are made here: making one costs as much as a pass over a block.
    d = scratch[: 4 * BLOCK].view(np.float32)
    x_short = scratch[4 * BLOCK : 6 * BLOCK].view(np.uint16)
    y_short = scratch[6 * BLOCK : 8 * BLOCK].view(np.uint16)
    s = scratch[8 * BLOCK : 10 * BLOCK].view(np.uint16)
    e = scratch[10 * BLOCK : 11 * BLOCK]
    # Two blocks take turns.
    change = scratch[11 * BLOCK : 11 * BLOCK + 2 * _PLANE].view(np.uint64)
    chosen = scratch[11 * BLOCK + 2 * _PLANE : 11 * BLOCK + 4 * _PLANE]
    chosen_words = chosen.view(np.uint64)
    state = scratch[12 * BLOCK : 12 * BLOCK + 8 * STATE].view(np.uint64)
    x_moved = scratch[13 * BLOCK : 15 * BLOCK + 2 * OVERHANG].view(np.uint16)
    y_moved = scratch[16 * BLOCK : 18 * BLOCK + 2 * OVERHANG].view(np.uint16)
    a_words = a[: n // 4 * 4].view(np.uint64)
    b_words = b[: n // 4 * 4].view(np.uint64)
    gathered = x_moved, y_moved, d, s, e
    masks = change, chosen_words
    on_difference = close + absolute
    exact = select != SELECT_BITS and bound == np.float32(0)
    exact_before = exact
    hashed = a_hashes.size + b_hashes.size > 0
    a_hash = np.uint64(_HASH_SEED)
    b_hash = np.uint64(_HASH_SEED)
    for i in range(STATE):
        state[i] = np.uint64(0)
    top = 0
    alike = 0
    unmoved = 0
    selected = 0
    # Entries gathered, and how many of them moved.
    filled = 0
    waiting = 0
    turn = 0
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        if hashed and start % (4 * KEYS.size) == 0:
            if a_hashes.size:
                a_hash = _hash_group(a, a_words, start, a_hash)
            if b_hashes.size:
                b_hash = _hash_group(b, b_words, start, b_hash)
            done = start + 4 * KEYS.size
            if done % chunk == 0 or done >= n:
                if a_hashes.size:
                    a_hashes[start // chunk] = a_hash
                if b_hashes.size:
                    b_hashes[start // chunk] = b_hash
                a_hash = np.uint64(_HASH_SEED)
                b_hash = np.uint64(_HASH_SEED)
        x = a
        y = b
        at = start
        if size < BLOCK:
            # A short block is padded with unchanged zeros, and these taken off the counts.
            for i in range(BLOCK):
                x_short[i] = a[start + i] if i < size else np.uint16(0)
                y_short[i] = b[start + i] if i < size else np.uint16(0)
            x = x_short
            y = y_short
            at = 0
        first = np.uint64(_WORDS * turn)
        largest, largest_after, differing, moving = survey(
            x, y, at, e, chosen_words, change, _WORDS * turn
        )
        finite = max(largest, largest_after) < _INFINITE
        if finite:
            top = _count_exponents_of_block(e, largest >> 7, top, state, n_by_exponent)
            alike += size - differing
            unmoved += size - moving
            for i in range(_WORDS if moving else 0):
                word = change[first + np.uint64(i)]
                here = np.int64(population(word))
                if filled + LANES > BLOCK:
                    _count_moved(gathered, filled, waiting, bounds, on_difference, results)
                    filled = 0
                    waiting = 0
                if here > _MANY:
                    # Those that stayed do no harm, and all are sooner copied than some.
                    to = np.uint64(filled)
                    from_ = np.uint64(at + LANES * i)
                    for j in range(LANES):
                        x_moved[to + np.uint64(j)] = x[from_ + np.uint64(j)]
                        y_moved[to + np.uint64(j)] = y[from_ + np.uint64(j)]
                    filled += LANES
                elif here:
                    _gather(x, y, at + LANES * i, word, x_moved, y_moved, filled)
                    filled += here
                waiting += here
            if select == SELECT_BITS:
                selected += differing
            elif exact:
                selected += moving
            else:
                selected += _select(x, y, at, d, select, bound, chosen_words, first)
            n_by_exponent[0] -= BLOCK - size
        else:
            # NaN and infinities are rare: entry by entry.
            for i in range(size):
                p = x[at + i]
                q = y[at + i]
                _count_one(
                    p, q, _bf16(p), _bf16(q), _bf16(p), _bf16(q),
                    np.uint64(0x7FFF), bounds, close, absolute, relative, select, bound,
                    chosen, BLOCK * turn + i, True, counts, steps, n_by_exponent, 1,
                )  # fmt: skip
        if masked:
            # The block before: what was just written word by word cannot be read vector by vector
            # without a wait.
            if start:
                _write_mask(masks, exact_before, 1 - turn, mask, start - BLOCK, BLOCK)
            if start + size == n:
                _write_mask(masks, exact and finite, turn, mask, start, size)
        exact_before = exact and finite
        turn = 1 - turn
    if waiting:
        _count_moved(gathered, filled, waiting, bounds, on_difference, results)
    _settle(state, top, n_by_exponent)
    counts[BIT_EQUAL] += alike
    counts[EQUAL] += unmoved
    counts[SELECTED] += selected
    steps[0] += unmoved
    for k in range(bounds.size):
        counts[TOLERANCES + k] += unmoved


@_jit
def _results(tolerances, counts_, steps_, exponents_):
    return (
        carray(counts_, TOLERANCES + tolerances),
        carray(steps_, STEP_BINS),
        carray(exponents_, 2 * EXPONENTS),
    )


def count_bf16(
    a_, b_, n, bounds_, close, absolute, relative, select, bound, mask_, masked,
    counts_, steps_, exponents_, scratch_,
):  # fmt: skip
    """Count a piece of bfloat16 entries."""
    bounds = carray(bounds_, close + absolute + relative)
    unhashed = carray(scratch_, 0).view(np.uint64)
    _count_bf16(
        carray(a_, n), carray(b_, n), (bounds, close, absolute, relative, select, bound),
        carray(mask_, (n + 7) // 8 if masked else 0), masked,
        _results(bounds.size, counts_, steps_, exponents_), carray(scratch_, SCRATCH),
        (unhashed, unhashed, n),
    )  # fmt: skip


@_jit
def _read(descriptor, address, size, offset):
    """Read bytes of a file to an address; False if it ends early or cannot be read."""
    done = 0
    while done < size:
        count = _pread(np.int32(descriptor), address + done, size - done, offset + done)
        if count <= 0:
            return False
        done += count
    return True


def stream_bf16(
    before, before_at, before_, before_address, before_hashes_,
    after, after_at, after_, after_address, after_hashes_, hashed, n, chunk,
    bounds_, close, absolute, relative, select, bound, mask_, masked,
    counts_, steps_, exponents_, scratch_,
):  # fmt: skip
    """Read bfloat16 entries from two files chunk by chunk, hash and count them."""
    bounds = carray(bounds_, close + absolute + relative)
    rule = bounds, close, absolute, relative, select, bound
    mask = carray(mask_, (n + 7) // 8 if masked else 0)
    results = _results(bounds.size, counts_, steps_, exponents_)
    scratch = carray(scratch_, SCRATCH)
    first = carray(before_, chunk)
    second = carray(after_, chunk)
    chunks = (n + chunk - 1) // chunk
    before_hashes = carray(before_hashes_, chunks if hashed & 1 else 0)
    after_hashes = carray(after_hashes_, chunks if hashed & 2 else 0)
    for k in range(chunks):
        start = k * chunk
        size = min(chunk, n - start)
        if not _read(before, before_address, 2 * size, before_at + 2 * start):
            return start
        if not _read(after, after_address, 2 * size, after_at + 2 * start):
            return start
        hashing = before_hashes[k : k + 1], after_hashes[k : k + 1], chunk
        _count_bf16(
            first[:size], second[:size], rule, mask[start // 8 :], masked, results, scratch, hashing
        )
    return n


@_jit
def _count_one(
    p, q, f, g, fh, gh, magnitude, bounds, close, absolute, relative, select, bound,
    bits, i, masked, counts, steps, n_by_exponent, often,
):  # fmt: skip
    """Count an entry `often`: its bits, values, values rounded to bfloat16, before and after."""
    same_bits = p == q
    d = abs(g - f)
    dh = abs(gh - fh)
    larger = max(abs(f), abs(g))
    infinity = np.float32(np.inf)
    finite = abs(f) < infinity and abs(g) < infinity
    equal = finite and d == np.float32(0)
    counts[BIT_EQUAL] += often * np.int64(same_bits)
    counts[EQUAL] += often * np.int64(equal)
    if finite:
        for k in range(close):
            counts[TOLERANCES + k] += often * np.int64(dh <= bounds[k])
        for k in range(close, close + absolute):
            counts[TOLERANCES + k] += often * np.int64(d <= bounds[k])
        for k in range(close + absolute, close + absolute + relative):
            counts[TOLERANCES + k] += often * np.int64(d <= bounds[k] * larger)
        if magnitude:
            s = np.int64(np.uint64(p) & magnitude)
            t = np.int64(np.uint64(q) & magnitude)
            s = -s if np.uint64(p) > magnitude else s
            t = -t if np.uint64(q) > magnitude else t
            step = abs(t - s)
            k = 0
            reach = np.int64(0)
            while step > reach:
                reach = np.int64(1) << k
                k += 1
            steps[k] += often
    else:
        counts[NONFINITE] += often
        counts[NONFINITE_BIT_EQUAL] += often * np.int64(same_bits)
        counts[NAN_BEFORE] += often * np.int64(f != f)
        counts[NAN_AFTER] += often * np.int64(g != g)
        counts[INF_BEFORE] += often * np.int64(abs(f) == infinity)
        counts[INF_AFTER] += often * np.int64(abs(g) == infinity)
    exponent = np.int64((_bits_of(f) >> np.uint32(23)) & np.uint32(0xFF))
    n_by_exponent[exponent] += often
    n_by_exponent[EXPONENTS + exponent] += often * np.int64(not equal)
    if select == SELECT_BITS:
        chosen = not same_bits
    elif not finite:
        chosen = True
    elif select == SELECT_CLOSE:
        chosen = not dh <= bound
    elif select == SELECT_ABSOLUTE:
        chosen = not d <= bound
    else:
        chosen = not d <= bound * larger
    counts[SELECTED] += often * np.int64(chosen)
    if masked:
        if i % 8 == 0:
            bits[i >> 3] = np.uint8(0)
        bits[i >> 3] |= np.uint8(np.int64(chosen) << (i & 7))


def count_any(
    a_, b_, x_, y_, xh_, yh_, n, magnitude, bounds_, close, absolute, relative, select, bound,
    mask_, masked, counts_, steps_, exponents_,
):  # fmt: skip
    """Count a piece of entries of any dtype, one by one."""
    a = carray(a_, n)
    b = carray(b_, n)
    x = carray(x_, n)
    y = carray(y_, n)
    xh = carray(xh_, n)
    yh = carray(yh_, n)
    bounds = carray(bounds_, close + absolute + relative)
    mask = carray(mask_, (n + 7) // 8 if masked else 0)
    counts, steps, n_by_exponent = _results(bounds.size, counts_, steps_, exponents_)
    for i in range(n):
        _count_one(
            a[i], b[i], x[i], y[i], xh[i], yh[i], magnitude, bounds, close, absolute, relative,
            select, bound, mask, i, masked, counts, steps, n_by_exponent, 1,
        )  # fmt: skip


@_jit
def _fingerprint(words):
    state = np.uint64(_HASH_SEED)
    for start in range(0, words.size, KEYS.size):
        n = min(KEYS.size, words.size - start)
        state = _chain(state, _nh(words, start, n))
    return state


def fingerprint(words_, n):
    """A 64-bit hash of n words: blocks by NH (the family behind UMAC), then chained."""
    return _fingerprint(carray(words_, n))


@_jit
def _count_masks(first, second, result):
    n = first.size
    one = np.uint64(0)
    two = np.uint64(0)
    both = np.uint64(0)
    for i in range(n):
        one += population(first[i])
        two += population(second[i])
        both += population(first[i] & second[i])
    result[0] += np.int64(one)
    result[1] += np.int64(two)
    result[2] += np.int64(both)


def count_masks(first_, second_, n, result_):
    """Set bits of the first, the second, and both, in n words; added to `result`."""
    _count_masks(carray(first_, n), carray(second_, n), carray(result_, 3))


def stream_masks(
    first, first_at, second, second_at, n, chunk, first_, first_address, second_, second_address,
    result_,
):  # fmt: skip
    """Read n bytes of two masks from their files piece by piece, and count as `count_masks`."""
    one = carray(first_, chunk)
    two = carray(second_, chunk)
    result = carray(result_, 3)
    for start in range(0, n, chunk):
        size = min(chunk, n - start)
        if not _read(first, first_address, size, first_at + start):
            return start
        if not _read(second, second_address, size, second_at + start):
            return start
        padded = (size + 7) // 8 * 8
        for i in range(size, padded):
            one[i] = np.uint8(0)
            two[i] = np.uint8(0)
        _count_masks(one[:padded].view(np.uint64), two[:padded].view(np.uint64), result)
    return n


def count_masks_by_exponent(first_, second_, values_, n, table_):
    """By the exponent of each float32: entries, set in the first, in the second, in both."""
    first = carray(first_, (n + 7) // 8)
    second = carray(second_, (n + 7) // 8)
    values = carray(values_, n)
    table = carray(table_, 4 * EXPONENTS)
    for i in range(n):
        exponent = np.int64((values[i] >> np.uint32(23)) & np.uint32(0xFF))
        one = np.int64(first[i >> 3] >> (i & 7)) & 1
        two = np.int64(second[i >> 3] >> (i & 7)) & 1
        table[exponent] += 1
        table[EXPONENTS + exponent] += one
        table[2 * EXPONENTS + exponent] += two
        table[3 * EXPONENTS + exponent] += one & two


@_jit
def _add_outer(factors, right, first, start, stop, out):
    """Add to `out` the products of four rows of `right` from `first` on, one after another."""
    a, b, c, d = factors
    for j in range(start, stop):
        total = _fma(a, right[first, j], out[j])
        total = _fma(b, right[first + 1, j], total)
        total = _fma(c, right[first + 2, j], total)
        out[j] = _fma(d, right[first + 3, j], total)


def multiply(left_, right_, rows, inner, columns, out_):
    """`left` (rows, inner) times `right` (inner, columns), each sum from the first to the last."""
    left = carray(left_, (rows, inner))
    right = carray(right_, (inner, columns))
    out = carray(out_, (rows, columns))
    fours = inner // 4 * 4
    for start in range(0, columns, _COLUMNS):
        stop = min(start + _COLUMNS, columns)
        for i in range(rows):
            row = out[i]
            for j in range(start, stop):
                row[j] = np.float32(0)
            for k in range(0, fours, 4):
                factors = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
                _add_outer(factors, right, k, start, stop, row)
            for k in range(fours, inner):
                for j in range(start, stop):
                    row[j] = _fma(left[i, k], right[k, j], row[j])


def _pointers(*names):
    return [types.CPointer(getattr(types, name)) for name in names]


_i = types.int64
_f = types.float32
_u8, _u16, _u32, _u64, _i64, _f32 = _pointers(
    "uint8", "uint16", "uint32", "uint64", "int64", "float32"
)
EXPORTS = {
    count_bf16: types.void(
        _u16, _u16, _i, _f32, _i, _i, _i, _i, _f, _u8, _i, _i64, _i64, _i64, _u8,
    ),
    stream_bf16: _i(
        _i, _i, _u16, _i, _u64, _i, _i, _u16, _i, _u64, _i, _i, _i,
        _f32, _i, _i, _i, _i, _f, _u8, _i, _i64, _i64, _i64, _u8,
    ),
    count_any: types.void(
        _u32, _u32, _f32, _f32, _f32, _f32, _i, types.uint64, _f32, _i, _i, _i, _i, _f, _u8, _i,
        _i64, _i64, _i64,
    ),
    fingerprint: types.uint64(_u64, _i),
    count_masks: types.void(_u64, _u64, _i, _i64),
    stream_masks: _i(_i, _i, _i, _i, _i, _i, _u8, _i, _u8, _i, _i64),
    count_masks_by_exponent: types.void(_u8, _u8, _u32, _i, _i64),
    multiply: types.void(_f32, _f32, _i, _i, _i, _f32),
}  # fmt: skip

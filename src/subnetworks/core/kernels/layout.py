"""Where the kernels put what they count, for those who call and those who compile them."""

# Entries handled at a time; with all their by-products they fit the first-level cache.
BLOCK = 2048
# Bytes of working space that `count_bf16` wants.
SCRATCH = 19 * BLOCK

# Places in `counts` (int64); the tolerances' counts follow, in the order of the rules.
BIT_EQUAL, EQUAL, SELECTED = 0, 1, 2
NAN_BEFORE, INF_BEFORE, NAN_AFTER, INF_AFTER, NONFINITE, NONFINITE_BIT_EQUAL = 3, 4, 5, 6, 7, 8
TOLERANCES = 9

# How the mask is chosen: by bits, or by a bound on |Δ| in bfloat16, on |Δ|, on the relative |Δ|.
SELECT_BITS, SELECT_CLOSE, SELECT_ABSOLUTE, SELECT_RELATIVE = 0, 1, 2, 3

# Bins of ulp steps: 0, 1, 2, 3-4, 5-8, …, up to differences of 32-bit values.
STEP_BINS = 34
# Bins of float32's exponent.
EXPONENTS = 256
# Codes of a format of 8 bits.
CODES = 256
# How a side of `stream_codes` is stored.
BF16, E4M3, E5M2 = 0, 1, 2
# Numbers that say where which scale belongs (`kernels.Scales`).
GRID = 8

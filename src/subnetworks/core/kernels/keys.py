"""The keys of the fingerprints: a part of every digest, so never to be changed."""

import numpy as np

KEYS = np.random.Generator(np.random.PCG64(0x5AB9E7)).integers(0, 1 << 64, 1024, dtype=np.uint64)

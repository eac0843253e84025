"""Numbers the CPU kernels are made with. Needs no numba."""

from __future__ import annotations

import zlib
from pathlib import Path

LANES = 16  # numbers of a vector register
CHUNK = 2 * LANES  # queries taken together
TILE = 256  # keys taken together, a multiple of 32: their logits with a chunk stay in the first-level cache
GROUP = 16  # chunks that stay in the second-level cache while all keys of a block pass, tile after tile
# numba keeps compiled kernels until the file of the outermost function changes; with this among what it knows them by,
# until any of these files does.
SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))

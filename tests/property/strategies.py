"""Every Hypothesis strategy that several tests use."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

MAGNITUDES = st.sampled_from([1e-3, 0.02, 1.0, 30.0, 1e4])


@st.composite
def weights(draw: st.DrawFn, *, group: int = 32, max_groups: int = 4, max_rows: int = 4) -> np.ndarray:
    """Float32 weights [N, K] of ordinary sizes, K a multiple of the group: each row of another magnitude and shift."""
    rows, groups = draw(st.integers(1, max_rows)), draw(st.integers(1, max_groups))
    unit = draw(
        arrays.arrays(np.float32, (rows, groups * group), elements=st.floats(-1, 1, width=32, allow_subnormal=False))
    )
    scale = draw(arrays.arrays(np.float32, (rows, 1), elements=MAGNITUDES))
    shift = draw(arrays.arrays(np.float32, (rows, 1), elements=st.sampled_from([0.0, 0.5, 2.0, -2.0])))
    return ((unit + shift) * scale).astype(np.float32)


@st.composite
def extreme_weights(draw: st.DrawFn, *, columns: int = 32) -> np.ndarray:
    """Any finite float32 weights [N, K]: denormals, zeros and the largest values among them."""
    rows = draw(st.integers(1, 4))
    finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
    return draw(arrays.arrays(np.float32, (rows, columns), elements=finite))

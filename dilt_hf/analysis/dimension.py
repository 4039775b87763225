"""In how many directions a layer's representations vary."""

from __future__ import annotations

import numpy as np

FLAT = 2.0  # an effective dimension below it: nearly all is along one axis, such as the brightness of the image


def effective_dimension(points: np.ndarray) -> float:
    """Compute the participation ratio (Σ λ)² / Σ λ² of the eigenvalues of the covariance: 1 where all variance is along
    one axis, d where it is the same along d axes; NaN for a constant layer.

    Args:
        points: float (n, d).

    Example:
        >>> line = np.outer(np.arange(5.0), [1.0, 2.0, 3.0])
        >>> square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> round(effective_dimension(line), 6), round(effective_dimension(square), 6)
        (1.0, 2.0)
    """
    centred = np.asarray(points, dtype=np.float64) - np.mean(points, axis=0, dtype=np.float64)
    small = centred @ centred.T if centred.shape[0] <= centred.shape[1] else centred.T @ centred
    total = float(np.trace(small))
    return total**2 / float((small**2).sum()) if total > 0 else float("nan")

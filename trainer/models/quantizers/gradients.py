"""How the decoder's gradient gets past a lookup, which has none of its own.

Both give the code vectors ``e``, exactly, with a gradient for the encoder outputs ``z``; the code vectors
themselves get none.
"""

import torch
from torch import Tensor

from trainer.models.quantizers.lookup import on_sphere

SHORTEST = 1e-6


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """``e`` as if it were ``z`` (1711.00937, sec. 3.2): the gradient at ``e`` is that at ``z``.

    Both are float of the same shape, any.
    """
    return e.detach() + (z - z.detach())


def rotated(z: Tensor, e: Tensor) -> Tensor:
    """``e`` as if it were ``z`` turned and rescaled, by factors held constant (2410.06424, sec. 4).

    With unit vectors z' and e', r = (z' + e') / |z' + e'|, the rotation from z' to e' is R = I - 2 r r^T +
    2 e' z'^T (sec. 4.2), and e = |e| / |z| R z. So the gradient keeps its angle: that at ``e`` has with ``e``
    the angle that the one at ``z`` has with ``z``. Both are float ``(n, D)``.
    """
    with torch.no_grad():
        z_unit, e_unit = on_sphere(z), on_sphere(e)
        middle = on_sphere(z_unit + e_unit)
        length = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp(min=SHORTEST)
        scale = torch.linalg.vector_norm(e, dim=1, keepdim=True) / length
    turned = z - 2 * _dot(z, middle) * middle + 2 * _dot(z, z_unit) * e_unit
    # A rotation of z is e but for rounding, and for a z of no length it is nothing: so e is said outright.
    return straight_through(scale * turned, e)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1, keepdim=True)

"""Arithmetic of a traced function: the operations of its convolutions and matrix products, and what they must move."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Arithmetic:
    """What convolutions and matrix products take; all else in a U-Net is under a hundredth of the operations.

    Attributes:
      flops: floating-point operations, a multiplication and an addition for every entry of every window, those in the
        padding included.
      bytes: operands and results, each once: what a program that fused everything else would still move.
    """

    flops: int
    bytes: int

    def __add__(self, other: "Arithmetic") -> "Arithmetic":
        """Return the sum."""
        return Arithmetic(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Arithmetic":
        """Return what so many repetitions take."""
        return Arithmetic(self.flops * times, self.bytes * times)


NOTHING = Arithmetic(0, 0)


def count_arithmetic(function: Callable[..., Any], *arguments: Any) -> Arithmetic:
    """Trace a function with arrays, or their shapes and types, and count; nothing is computed.

    Of branches the one with the most operations counts; a loop of unknown length counts once.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Any) -> Arithmetic:
    """Count what the results depend on: compilers remove the rest, such as the gradient of the image."""
    total, used = NOTHING, set(_variables(jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if used.intersection(equation.outvars):
            total += _of_equation(equation)
            used.update(_variables(equation.invars))
    return total


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not hasattr(atom, "val")]  # no literals


def _of_equation(equation: Any) -> Arithmetic:
    name, parameters = equation.primitive.name, equation.params
    if name in ("conv_general_dilated", "dot_general"):
        arrays = [variable.aval for variable in (*equation.invars, *equation.outvars)]
        moved = sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
        left, right, result = (array.shape for array in arrays)
        if name == "dot_general":
            depth = math.prod(left[axis] for axis in parameters["dimension_numbers"][0][0])
        else:
            features = right[parameters["dimension_numbers"].rhs_spec[0]]
            depth = math.prod(right) // features // parameters["batch_group_count"]
        return Arithmetic(2 * math.prod(result) * depth, moved)
    inner = [_of_jaxpr(jaxpr) for jaxpr in _jaxprs(parameters)]
    if name == "cond":
        return max(inner, key=lambda each: each.flops, default=NOTHING)
    return sum(inner, start=NOTHING) * (parameters["length"] if name == "scan" else 1)


def _jaxprs(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for each in value if isinstance(value, list | tuple) else [value]:
            if hasattr(each, "eqns"):
                yield each
            elif hasattr(each, "jaxpr"):
                yield each.jaxpr

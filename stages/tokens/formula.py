"""A formula in `x`, a number of a document, as recipes give one: `1 + log2(x)`. Numbers, x, + - * / **, and a few functions."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "log": (np.log, 1),
    "log2": (np.log2, 1),
    "log10": (np.log10, 1),
    "sqrt": (np.sqrt, 1),
    "exp": (np.exp, 1),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
}


def evaluate(formula: str, x: np.ndarray) -> np.ndarray:
    """The formula's value for each x (float64); NaN where it has none. Raises ValueError for what is no formula."""
    try:
        tree = ast.parse(formula, mode="eval").body
    except SyntaxError:
        raise ValueError(f"{formula!r} is no formula in x") from None
    with np.errstate(all="ignore"):
        value = np.asarray(_value(tree, np.asarray(x, np.float64), formula), np.float64)
    return np.broadcast_to(value, np.shape(x)).copy()


def _value(node: ast.expr, x: np.ndarray, formula: str) -> Any:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return np.float64(number)
        case ast.Name(id="x"):
            return x
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, x, formula)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, x, formula), _value(right, x, formula))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            function, count = _FUNCTIONS[name]
            if len(arguments) == count:
                return function(*(_value(one, x, formula) for one in arguments))
    raise ValueError(f"{formula!r} is no formula in x: numbers, x, + - * / **, and {', '.join(_FUNCTIONS)} are known")

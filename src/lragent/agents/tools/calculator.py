"""Arithmetic on numbers alone, of bounded size."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

MAX_CHARS = 200
_MAX_BASE = 1_000_000
_MAX_EXPONENT = 64
_MAX_DIGITS = 60


class CalculationError(ValueError):
    """The expression cannot be computed; the message says why."""


def _power(base: float, exponent: float) -> Any:
    if abs(base) > _MAX_BASE or abs(exponent) > _MAX_EXPONENT:
        raise CalculationError("the power is too large")
    return base**exponent


def _round(number: float, digits: int = 0) -> float:
    return round(number, max(-400, min(digits, 400)))  # an int computes 10**-digits


_SIGNS = (
    ("\N{MULTIPLICATION SIGN}", "*"),
    ("\N{DIVISION SIGN}", "/"),
    ("\N{MINUS SIGN}", "-"),
    ("\N{EN DASH}", "-"),
    ("^", "**"),
)
_OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"abs": abs, "min": min, "max": max, "round": _round}
_NO_ARITHMETIC = "not an arithmetic expression: only numbers can be calculated"


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(node.left), _value(node.right))
        case ast.UnaryOp(op=op) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(node.operand))
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*map(_value, node.args))
    raise CalculationError(_NO_ARITHMETIC)


def calculate(expression: str) -> str:
    """Value of an arithmetic expression.

    Allowed are numbers, ``+ - * / // % ** ^``, parentheses, abs, min, max and round. Raises
    CalculationError for anything else, for more than 200 characters and for huge powers.
    """
    if len(expression) > MAX_CHARS:
        raise CalculationError(f"the expression is longer than {MAX_CHARS} characters")
    cleaned = re.sub(r"(?<=\d),(?=\d{3}\b)", "", expression)
    for sign, plain in _SIGNS:
        cleaned = cleaned.replace(sign, plain)
    try:
        return _format(_value(ast.parse(cleaned.strip(), mode="eval").body))
    except CalculationError:
        raise
    except ZeroDivisionError:
        raise CalculationError("division by zero") from None
    except OverflowError:
        raise CalculationError("the result is too large") from None
    except (RecursionError, MemoryError):  # the parser's own limits
        raise CalculationError("the expression is nested too deeply") from None
    except (SyntaxError, TypeError, ValueError):
        raise CalculationError(_NO_ARITHMETIC) from None


def _format(value: object) -> str:
    if not isinstance(value, int | float):
        raise CalculationError("the result is not a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CalculationError("the result is not a finite number")
        value = int(value) if value.is_integer() and abs(value) < 1e15 else round(value, 4)
    if abs(value) >= 10**_MAX_DIGITS:
        raise CalculationError("the result is too long")
    return str(value)

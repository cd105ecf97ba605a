"""Arithmetic by the simpleeval library, with numbers only and bounded size."""

from __future__ import annotations

import ast
import math
import re

from simpleeval import SimpleEval

MAX_CHARS = 200
_MAX_BASE = 1_000_000
_MAX_EXPONENT = 64


class CalculationError(ValueError):
    """The expression cannot be computed; the message says why."""


def _power(base: float, exponent: float) -> float:
    if abs(base) > _MAX_BASE or abs(exponent) > _MAX_EXPONENT:
        raise CalculationError("the power is too large")
    return base**exponent


_SIGNS = (
    ("\N{MULTIPLICATION SIGN}", "*"),
    ("\N{DIVISION SIGN}", "/"),
    ("\N{MINUS SIGN}", "-"),
    ("\N{EN DASH}", "-"),
    ("^", "**"),
)
_OPERATORS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: _power,
    ast.USub: lambda a: -a,
    ast.UAdd: lambda a: +a,
}


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
    if re.search(r"[\"'\[\]{}]", cleaned):
        raise CalculationError("only numbers can be calculated")
    evaluator = SimpleEval(
        operators=_OPERATORS,
        functions={"abs": abs, "min": min, "max": max, "round": round},
        names={},
    )
    (evaluator.nodes or {}).pop(ast.Attribute, None)
    try:
        value = evaluator.eval(cleaned.strip())
    except ZeroDivisionError:
        raise CalculationError("division by zero") from None
    except CalculationError:
        raise
    except RecursionError:
        raise CalculationError("the expression is nested too deeply") from None
    except Exception as error:  # simpleeval raises many kinds, all caused by the expression
        raise CalculationError(f"not an arithmetic expression ({type(error).__name__})") from None
    return _format(value)


def _format(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CalculationError("the result is not a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CalculationError("the result is not a finite number")
        value = int(value) if value.is_integer() and abs(value) < 1e15 else round(value, 4)
    text = str(value)
    if len(text) > 60:
        raise CalculationError("the result is too long")
    return text

"""CloudWatch's metric math, as far as alarms here use it: arithmetic, comparisons, AND and OR, IF and FILL.

A series is one value a period, oldest first, None where there is no data point. What happens to a missing one is the
whole point. Rules and examples: AWS, CloudWatch user guide, "Using math expressions with CloudWatch metrics"
(using-metric-math.html; text of 2023 in github.com/awsdocs/amazon-cloudwatch-user-guide, read 22 November 2026):

- Arithmetic takes a missing value for 0; a data point that would divide by zero is dropped.
- A comparison of two series takes a missing value for 0, and gives 1 or 0.
- IF takes 0 for false. Where the condition is missing, so is the result. A missing value of the true branch is 0, one
  of the false branch is missing.
- FILL puts a number where nothing is. The page does not say what becomes of a metric that has no data point at all;
  here it is filled, too.

Where every series of an operation is missing, so is the result: the page speaks of one that has a value.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence

from nexus_llm.errors import UsageError

Series = Sequence[float | None]
Value = float | Series

_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_LOGIC = {"AND": "and", "&&": " and ", "OR": "or", "||": " or "}


def evaluated(expression: str, series: Mapping[str, Series]) -> Value:
    """The value of an expression over named series of one length; a number where it names none.

    >>> evaluated("100 * FILL(errors, 0) / requests", {"errors": [None, 1, None], "requests": [4, 4, None]})
    [0.0, 25.0, None]

    Raises:
        UsageError: it is no expression, names an unknown series, or uses what is not known here.
    """
    words = re.sub(r"\bAND\b|\bOR\b|&&|\|\|", lambda found: _LOGIC[found[0]], expression)
    try:
        tree = ast.parse(words.strip(), mode="eval").body
    except SyntaxError as error:
        raise _refused(expression, str(error.msg)) from error
    return _value(tree, series, expression)


def _value(node: ast.expr, series: Mapping[str, Series], whole: str) -> Value:  # noqa: PLR0911 - one a construct
    def of(part: ast.expr) -> Value:
        return _value(part, series, whole)

    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name) if name in series:
            return series[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _each(lambda value: -value, of(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _each(_ARITHMETIC[type(op)], of(left), of(right))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            compare = _COMPARISONS[type(op)]
            return _each(lambda one, two: float(compare(one, two)), of(left), of(right))
        case ast.BoolOp(op=op, values=values):
            holds = all if isinstance(op, ast.And) else any
            return _each(lambda *parts: float(holds(parts)), *(of(value) for value in values))
        case ast.Call(func=ast.Name(id="FILL"), args=[filled, by]):
            return _filled(of(filled), of(by), whole)
        case ast.Call(func=ast.Name(id="IF"), args=[condition, *branches]) if 1 <= len(branches) <= 2:
            return _chosen(of(condition), [of(branch) for branch in branches])
    raise _refused(whole, f"{ast.unparse(node)} is not known here")


def _each(function: Callable[..., float], *values: Value) -> Value:
    """The function of each period's values."""
    if all(isinstance(value, float) for value in values):
        return function(*values)
    return [_point(function, parts) for parts in _periods(values)]


def _point(function: Callable[..., float], parts: Sequence[tuple[float | None, bool]]) -> float | None:
    if all(value is None for value, is_scalar in parts if not is_scalar):
        return None
    try:
        return function(*(value or 0.0 for value, _ in parts))
    except ZeroDivisionError:
        return None


def _periods(values: Sequence[Value]) -> list[list[tuple[float | None, bool]]]:
    """For each period, each operand's value and whether it is a number that holds for all periods."""
    (length,) = {len(value) for value in values if not isinstance(value, float)}
    columns = [
        [(value, True)] * length if isinstance(value, float) else [(one, False) for one in value] for value in values
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _filled(value: Value, by: Value, whole: str) -> Value:
    if isinstance(value, float) or not isinstance(by, float):
        raise _refused(whole, "FILL is known here for a series and a number")
    return [by if one is None else one for one in value]


def _chosen(condition: Value, branches: list[Value]) -> Value:
    if isinstance(condition, float):
        condition = [condition] * next(len(one) for one in branches if not isinstance(one, float))

    def at(branch: Value, index: int) -> float | None:
        return branch if isinstance(branch, float) else branch[index]

    chosen: list[float | None] = []
    for index, holds in enumerate(condition):
        if holds is None:
            chosen.append(None)
        elif holds:
            chosen.append(at(branches[0], index) or 0.0)
        else:
            chosen.append(at(branches[1], index) if len(branches) > 1 else None)
    return chosen


def _refused(expression: str, why: str) -> UsageError:
    return UsageError(f"the metric expression {expression!r} cannot be evaluated: {why}", fix="see observe/metric_math")

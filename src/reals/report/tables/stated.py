"""What stands above a table: how what it shows was done, by the metrics files of its rows; what is planned where none is measured."""

from collections import Counter
from collections.abc import Iterable, Mapping

from reals.report.results import Result

SEVERAL = 3  # values of one key that are written out


def stated(results: Iterable[Result], planned: Mapping[str, str]) -> dict[str, str]:
    """What -> how, for all of ``results``; where they differ, each value with the number of results that it holds for.

    ``planned`` is what the scale says, which need not be what was done: a setting asks for more images than there may be.
    """
    protocols = [result["protocol"] for result in results]
    if not protocols:
        return {key: f"{how} (planned)" for key, how in planned.items()}
    keys = dict.fromkeys(key for protocol in protocols for key in protocol if key != "scale")
    return {key: _one(Counter(_text(protocol[key]) for protocol in protocols if key in protocol), len(protocols)) for key in keys}


def _one(found: Counter[str], results: int) -> str:
    """The values of one key in one line; files of before it was recorded do not say it."""
    if len(found) > SEVERAL:
        return f"{len(found)} values, by row"
    unsaid = results - found.total()
    if len(found) == 1 and not unsaid:
        return next(iter(found))
    parts = [f"{value} ({count} of {results})" for value, count in found.items()]
    return "; ".join([*parts, *([f"not recorded ({unsaid} of {results})"] if unsaid else [])])


def _text(value: str | int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)

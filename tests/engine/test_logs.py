"""The operator's log as JSON."""

import json
import logging
import sys

from shoal.engine.logs import JsonLines


def test_a_record_is_one_line_with_its_exception() -> None:
    try:
        raise ValueError("no such pod")
    except ValueError:
        record = logging.LogRecord("shoal.x", logging.WARNING, "x.py", 1, "%s\nand %d", ("first", 2), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["message"], told["level"], told["role"], told["logger"]) == (
        "first\nand 2",
        "warning",
        "operator",
        "shoal.x",
    )
    assert "no such pod" in told["exception"]

"""Structured logs on standard error, configured once per process.

    logs.configure(LogFormat.CONSOLE, "info", node="attic")
    log = structlog.get_logger(__name__)
    with logs.context(job=job, stage=2):
        log.info("stage loaded", weight_bytes=…)

Records of other libraries, which use stdlib's logging, come out in the same form.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


class LogFormat(StrEnum):
    """Lines for a person, or one JSON object a line; `auto` is for people on a terminal alone."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """What is logged: records of this level and above."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Stamp = Callable[[], Mapping[str, object]]
"""The fields of whatever is logged now, on any thread."""


def configure(
    log_format: LogFormat | str,
    level: LogLevel | str,
    *,
    stream: TextIO | None = None,
    stamp: Stamp = dict,
    **bound: object,
) -> None:
    """Send every record from `level` on to `stream` (default: standard error).

    `level` is a name that stdlib's logging knows, in either case; other libraries say nothing below
    `info`, which is for their own authors. `bound` values, such as the node's name, stand in every
    record of this process, and so does what `stamp` gives then.
    """
    target = stream or sys.stderr
    shared = _shared_processors(lambda: {**bound, **stamp()})
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(LogFormat(log_format), target),
            ],
        )
    )
    lowest = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(lowest, logging.INFO), force=True)
    logging.getLogger("edgepipe").setLevel(lowest)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()


def context(**bound: object) -> AbstractContextManager[None]:
    """Values for every record inside the block, in tasks started there too: job, stage, step."""
    return structlog.contextvars.bound_contextvars(**bound)


def _shared_processors(stamp: Stamp) -> list[Processor]:
    def stamped(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**stamp(), **event}

    return [
        structlog.contextvars.merge_contextvars,
        stamped,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _renderers(log_format: LogFormat, target: TextIO) -> list[Processor]:
    if log_format is LogFormat.AUTO:
        log_format = LogFormat.CONSOLE if target.isatty() else LogFormat.JSON
    if log_format is LogFormat.JSON:
        # Local variables hold prompts and weights: they stay out of the logs.
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer()]
    colors = target.isatty() and not os.environ.get("NO_COLOR")
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]

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
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TextIO

import structlog
from structlog.typing import Processor


class LogFormat(StrEnum):
    """Lines for a person, or one JSON object a line; `auto` is for people on a terminal alone."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


def configure(
    log_format: LogFormat | str, level: str, *, stream: TextIO | None = None, **bound: object
) -> None:
    """Send every record from `level` on to `stream` (default: standard error).

    `level` is a name that stdlib's logging knows, in either case. `bound` values, such as the
    node's name, stand in every record of this context and of those that it starts.
    """
    target = stream or sys.stderr
    shared = _shared_processors()
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
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
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
    structlog.contextvars.bind_contextvars(**bound)


def context(**bound: object) -> AbstractContextManager[None]:
    """Values for every record inside the block, in tasks started there too: job, stage, step."""
    return structlog.contextvars.bound_contextvars(**bound)


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
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

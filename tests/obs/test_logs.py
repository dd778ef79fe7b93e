from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest
import structlog

from edgepipe.agent.duty import Duty
from edgepipe.obs import logs
from edgepipe.obs.logs import LogFormat


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("edgepipe")
    handlers, level, our_level = list(root.handlers), root.level, ours.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_carries_what_is_bound_here_and_everywhere() -> None:
    stream = io.StringIO()
    logs.configure(LogFormat.JSON, "info", stream=stream, node="attic")
    log = structlog.get_logger("edgepipe.test")
    with logs.context(job="j1", stage=2):
        log.info("loaded", step=7)
    log.info("after")
    first, second = lines(stream)
    assert first.items() >= {"event": "loaded", "node": "attic", "job": "j1", "stage": 2, "step": 7,
                             "level": "info", "logger": "edgepipe.test"}.items()  # fmt: skip
    assert second["node"] == "attic"
    assert "job" not in second


def test_the_context_reaches_tasks_started_in_it() -> None:
    stream = io.StringIO()
    logs.configure(LogFormat.JSON, "info", stream=stream)

    async def work() -> None:
        structlog.get_logger().info("working")

    async def main() -> None:
        with logs.context(job="j1"):
            task = asyncio.create_task(work())
        await task

    asyncio.run(main())
    assert lines(stream)[0]["job"] == "j1"


def test_other_libraries_come_out_in_the_same_form() -> None:
    stream = io.StringIO()
    logs.configure(LogFormat.JSON, "warning", stream=stream, node="attic")
    logging.getLogger("grpc").warning("port %d closed", 7)
    logging.getLogger("grpc").info("not shown")
    structlog.get_logger().info("not shown either")
    (line,) = lines(stream)
    assert line.items() >= {"event": "port 7 closed", "logger": "grpc", "node": "attic"}.items()


def test_others_debugging_is_left_out() -> None:
    stream = io.StringIO()
    logs.configure(LogFormat.JSON, "debug", stream=stream)
    logging.getLogger("grpc").debug("polled")
    structlog.get_logger("edgepipe.test").debug("a step")
    (line,) = lines(stream)
    assert (line["event"], line["level"]) == ("a step", "debug")


def test_what_is_stamped_stands_in_lines_of_every_thread_and_library() -> None:
    stream, duty = io.StringIO(), Duty()
    logs.configure(LogFormat.JSON, "info", stream=stream, stamp=duty.fields, node="attic")
    log = structlog.get_logger("edgepipe.test")
    log.info("idle")
    duty.begin("j1", 2, (3, 5))
    thread = threading.Thread(target=lambda: logging.getLogger("grpc").warning("of a library"))
    thread.start()
    thread.join()
    duty.step = 7
    log.info("a step")
    log.info("an older step", step=6)
    duty.end()
    log.info("idle again")
    names = ("node", "job", "stage", "step")
    shown = [
        (line["event"], {name: line[name] for name in names if name in line})
        for line in lines(stream)
    ]
    assert shown == [
        ("idle", {"node": "attic"}),
        ("of a library", {"node": "attic", "job": "j1", "stage": 2}),
        ("a step", {"node": "attic", "job": "j1", "stage": 2, "step": 7}),
        ("an older step", {"node": "attic", "job": "j1", "stage": 2, "step": 6}),
        ("idle again", {"node": "attic"}),
    ]


def test_an_exception_is_one_json_line() -> None:
    stream = io.StringIO()
    logs.configure(LogFormat.JSON, "info", stream=stream)
    secret = {"prompt": "confidential"}
    try:
        secret["missing"]
    except KeyError:
        structlog.get_logger().exception("task ended")
    (line,) = lines(stream)
    assert "KeyError" in json.dumps(line["exception"])
    assert "confidential" not in stream.getvalue()


def test_console_has_no_colour_away_from_a_terminal() -> None:
    stream = io.StringIO()
    logs.configure(LogFormat.CONSOLE, "INFO", stream=stream)
    structlog.get_logger("edgepipe.test").info("loaded", stage=2)
    assert "loaded" in stream.getvalue()
    assert "stage=2" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_auto_is_json_away_from_a_terminal() -> None:
    stream = io.StringIO()
    logs.configure("auto", "info", stream=stream)
    structlog.get_logger().info("here")
    assert lines(stream)[0]["event"] == "here"


def test_the_default_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogFormat.JSON, "info")
    structlog.get_logger().info("here")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "here"

"""One machine's daemon: a supervisor, and one worker process per device."""

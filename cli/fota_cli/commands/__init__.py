"""One module per command: its docstring (the help), `configure(parser)` and `run(args) -> exit code`. Loaded lazily."""

"""What a GPU makes of the suite, in one command: `python -m tests.bench.gpu` (see `__main__.py`)."""

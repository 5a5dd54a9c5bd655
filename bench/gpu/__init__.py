"""The learner on a GPU, measured; see `python -m bench.gpu --help`."""

"""The settings of every method and of a run, free of torch, so that the command line answers `--help` at once."""

"""Workers: they claim due tasks, run them and report how each attempt ended."""

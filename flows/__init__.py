"""Prefect lives here and nowhere else, and the command line."""

from flows.environment import be_quiet

be_quiet()

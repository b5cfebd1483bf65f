"""The steps of the benchmark: plain typed functions. Nothing here knows who schedules them."""

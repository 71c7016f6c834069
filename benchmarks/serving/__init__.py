"""How a served model answers under load, through swaps and mistakes: `python -m benchmarks.serving`."""

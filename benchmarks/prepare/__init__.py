"""The log and the arms of `benchmarks.preprocessing`: one file each."""

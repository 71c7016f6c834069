"""The server's memory over many swaps and over a long run."""

from matplotlib.figure import Figure

PLOTTED = {"swaps": "swaps", "soak": "windows"}  # scenario -> what its record lists


def has_plot(record: dict) -> bool:
    """Whether the record holds the memory of a server."""
    return record["scenario"] in PLOTTED and all(one["bytes"] for one in record[PLOTTED[record["scenario"]]])


def memory_plot(record: dict) -> Figure:
    """Memory by swap, or by minute with the latency beside it."""
    soak = record["scenario"] == "soak"
    measured = record[PLOTTED[record["scenario"]]]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    places = [one["seconds"] / 60 for one in measured] if soak else range(1, len(measured) + 1)
    axes.plot(places, [one["bytes"] / 1e6 for one in measured], color="tab:blue", marker=".")
    axes.set(xlabel="minute" if soak else "swap", ylabel="memory of the server, MB")
    axes.set_ylim(bottom=0)
    if soak:
        latency = axes.twinx()
        latency.plot(places, [one["p99"] for one in measured], color="tab:orange")
        latency.set_ylabel("p99, ms (orange)")
        latency.set_ylim(bottom=0)
    return figure

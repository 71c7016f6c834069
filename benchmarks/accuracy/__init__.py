"""The accuracy benchmark: arms x seeds on one data set, and a page that compares them.

    suite.py      a suite file, typed: what is compared with what
    plan.py       arms and seeds as runs, told apart by what they depend on; arms that agree share a run or a pre-training
    task.py       what the process of a run is told, and how it begins
    worker.py     what it does: training, predictions, a row of figures
    cost.py       passes over the data
    measures.py   the figures of predictions: metrics, calibration, slices
    schedule.py   runs several at a time, survives failures and signals, says how long it will take
    statistics.py, report.py, figures.py   rows to means, paired tests, tables, plots
"""

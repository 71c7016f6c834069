"""What is compared, and what to type for it."""

from pathlib import Path

from preprocessing.schema import SCHEMA_FILE

ARMS = {
    "ours": "ours",
    "ours_one": "ours, one worker",
    "ours_processes": "ours, two processes",
    "pandas": "pandas + scikit-learn",
    "tft": "plain TFT, a dict a row",
}
DESCRIPTIONS = {
    "ours": "`python -m preprocessing.task` as a user types it: a worker (thread) for each core",
    "ours_one": "the same with `--direct_num_workers=1`",
    "ours_processes": "the same with `--direct_running_mode=multi_processing --direct_num_workers=2`",
    "pandas": "read_csv, OrdinalEncoder(min_frequency), KBinsDiscretizer, StandardScaler, tf.train.Example and "
              "TFRecordWriter in one process. The same records; but quantiles from 200,000 rows, values in the order of their "
              "texts, rare ones apart from unseen ones, and no vocabularies, statistics or serving graph",
    "tft": "tensorflow_transform as its census example does it, with Beam's runner in memory: ReadFromText, csv and a dict a "
           "row, compute_and_apply_vocabulary for each of 26 fields and bucketize for each of 13. Its records hold a feature "
           "for each field, and no scaled numbers; no statistics",
}
OURS = {
    "ours": [],
    "ours_one": ["--direct_num_workers=1"],
    "ours_processes": ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
}


def command(arm: str, log: Path, output: Path) -> list[str]:
    """What follows `python` to prepare `log` by `arm`."""
    if arm in OURS:
        files = ["--input", str(log), "--schema", str(log / SCHEMA_FILE), "--output", str(output)]
        return ["-m", "preprocessing.task", *files, *OURS[arm]]
    return ["-m", "benchmarks.prepare.peer", "--arm", arm, "--log", str(log), "--output", str(output)]

"""Data folder to batches: TFRecords of packed ids become tf.data batches in an order fixed by (seed, epoch).

A split's rows are decoded in windows of `input.window_rows` and shuffled by window. A split of one window is decoded
once and stays in memory: 4 (F + 1) bytes a row, 8 more with a group, 4 with a weight, for each list field `max_length` ids
of 1, 2 or 4 bytes, and up to three times that while it is decoded. A larger one is read anew every epoch, with up to three
windows in memory: the one that is trained on, the next, and its parts before they are joined.

Rows without label are for pre-training alone, where their label is -1; fine-tuning and evaluation do not get to see them,
and count no row of them.
"""

import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from preprocessing.errors import UserError
from preprocessing.schema import MANIFEST_FILE
from trainer.batch import CHUNK_ROWS, UNLABELLED, Batch, drop_rows, keep_labelled, parse_with, widened
from trainer.damaged_records import (
    RecordFile,
    name_damage,
    naming_damage,
    read_records,
    refuse_changed_sizes,
    salvaged,
    verified,
)
from trainer.data_folder import DataFolder, label_is_used, require_file_for_each

SMALLEST_BATCH = 32
# tf.data's graph rewrites would make the rows in memory constants of a graph: a copy, and an error above 2 GB.
_UNCOPIED = tf.data.Options()
_UNCOPIED.experimental_optimization.apply_default_optimizations = False


class _Split:
    """What reading for training and for evaluation share: sound files, found once, and rows kept in memory."""

    def __init__(self, folder: DataFolder, split: str, window_rows: int, corrupt_records: float, labelled_only: bool):
        some_unlabelled = folder.unlabelled(split) > 0
        self._leaves_out = labelled_only and some_unlabelled
        self._parse = parse_with(folder.schema, some_unlabelled)
        self._label_share = folder.label_share if split == "train" else 1.0
        self._window_rows = window_rows
        files = folder.files(split)
        if corrupt_records:
            files = verified(files, corrupt_records, split)
        else:
            refuse_changed_sizes(files)
        self._files = [file for file in files if self._rows_of(file)]
        if not self._files:
            raise UserError(f"data folder {folder.path}: split {split!r} has no rows{' with a label' * self._leaves_out}; change "
                            f"{'`label` or ' * self._leaves_out}`split` in the schema and preprocess again")

    def _salvage(self) -> None:
        """Replaces damaged files by copies, in a temporary folder that goes with this object."""
        if any(file.damaged for file in self._files):
            self._copies = tempfile.TemporaryDirectory(prefix="salvaged-records-")
            self._files = salvaged(self._files, Path(self._copies.name))

    def _rows_of(self, file: RecordFile) -> int:
        return file.labelled if self._leaves_out else file.rows

    @property
    def rows(self) -> int:
        return sum(map(self._rows_of, self._files))

    @property
    def is_resident(self) -> bool:
        """Whether the rows fit into one window, so that they are decoded once and stay in memory."""
        return self.rows <= self._window_rows

    def _decoded(self, files: Sequence[RecordFile], first_row: int = 0) -> tf.data.Dataset:
        """The rows of files one after another, in chunks, from row `first_row` on.

        Files that end before it are not opened, and records before it not parsed unless it takes their labels to count them.
        """
        ends = np.cumsum([self._rows_of(file) for file in files])
        first = min(int(np.searchsorted(ends, first_row, side="right")), len(files) - 1)
        skipped = first_row - (ends[first] - self._rows_of(files[first]))
        records = read_records(files[first:])
        if not self._leaves_out:
            return self._parsed(records.skip(skipped), files[first:], skipped)
        labelled = self._parsed(records, files[first:], 0).map(keep_labelled, num_parallel_calls=tf.data.AUTOTUNE)
        return labelled.scan(np.int64(skipped), drop_rows)

    def _parsed(self, records: tf.data.Dataset, files: Sequence[RecordFile], first_record: int) -> tf.data.Dataset:
        """Chunks of rows from records of files, the first of them being that of number `first_record`, without unused labels."""
        chunks = records.batch(CHUNK_ROWS)
        if self._label_share == 1:
            return chunks.map(self._parse, num_parallel_calls=tf.data.AUTOTUNE)
        ends = np.cumsum([file.rows for file in files])
        shifts = np.array([file.first_row for file in files]) - (ends - [file.rows for file in files])

        def parse(number: tf.Tensor, chunk: tf.Tensor) -> Batch:
            rows = self._parse(chunk)
            records = first_record + number * CHUNK_ROWS + tf.range(tf.size(chunk, tf.int64))
            places = records + tf.gather(shifts, tf.searchsorted(ends, records, side="right"))
            return rows | {"label": tf.where(label_is_used(places, self._label_share), rows["label"], float(UNLABELLED))}

        return chunks.enumerate().map(parse, num_parallel_calls=tf.data.AUTOTUNE)

    @cached_property
    def _resident(self) -> Batch:
        """All rows in memory, in file order."""
        chunks, end = self._decoded(self._files), 0
        whole = {name: np.empty([self.rows, *spec.shape[1:]], spec.dtype.as_numpy_dtype) for name, spec in chunks.element_spec.items()}
        with naming_damage(self._files):
            for chunk in chunks:
                start, end = end, end + len(chunk["label"])
                if end > self.rows:
                    break
                for name, values in chunk.items():
                    whole[name][start:end] = values
        self._require_all(end)
        with tf.device("CPU"):
            return {name: tf.convert_to_tensor(values) for name, values in whole.items()}

    def _require_all(self, read: int) -> None:
        if read != self.rows:
            name_damage(self._files)
            raise UserError(f"{Path(self._files[0].path).parent}: {read:,} rows{' with a label' * self._leaves_out} were found where "
                            f"{MANIFEST_FILE} says {self.rows:,}; run `python -m preprocessing.task` again")

    def iterate(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields batches of this split; a damaged file on the way is a `UserError` that names file and byte."""
        with naming_damage(self._files):
            iterator = iter(batches)
        while True:
            with naming_damage(self._files):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch


class TrainingSplit(_Split):
    """Shuffled batches of the training split, the same at every call for one (seed, epoch, step).

    An epoch draws an order of the files from (seed, epoch), cuts their rows, one file after another, into windows, and
    shuffles each window by (seed, epoch, window). A split of one window is shuffled as a whole. Rows mix within a
    window only, so a log that is sorted, by time say, is better cut into many files than into few.

    An epoch has `steps` batches, whole ones: the rows left over, fewer than a batch, are others in every epoch. A split
    smaller than one batch is one batch.

    Args:
      folder: the data folder.
      batch_size: rows of a batch (of one worker, where there are several).
      seed: of the order.
      window_rows: rows shuffled at once, rounded up to whole batches; see the module for the memory they take.
      worker, workers: each worker reads files of its own, dealt out so that the rows are as equal as whole files allow;
        all have the `steps` of the worker with the fewest rows.
      corrupt_records: share of the split's records that may be damaged. 0: damage ends the run where it is met. Above
        0, all files are read and checked here, and sound records of damaged files copied to a temporary folder.
      labelled_only: leave out the rows without label, as if the files did not hold them.

    Raises:
      UserError: no rows, fewer files than workers, a file's size is not the manifest's, or too many damaged records.
    """

    def __init__(self, folder: DataFolder, batch_size: int, seed: int, window_rows: int,
                 worker: int = 0, workers: int = 1, corrupt_records: float = 0.0, labelled_only: bool = False):
        super().__init__(folder, "train", window_rows, corrupt_records, labelled_only)
        require_file_for_each(workers, self._files, folder.path, self._leaves_out)
        shares = _deal(self._files, workers, self._rows_of)
        smallest = min(sum(map(self._rows_of, share)) for share in shares)
        self._files = shares[worker]
        self._salvage()
        self._seed = seed
        self.batch_size = min(batch_size, smallest)
        self.steps = smallest // self.batch_size
        self._window_rows = -(-window_rows // self.batch_size) * self.batch_size

    def epoch(self, epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """The batches of a pass over the rows, as `trainer.batch` describes them.

        Args:
          epoch: number of the pass, from 0.
          first_step: the batches before it are left out, at the cost of at most one window, and of a file where rows without
            label are left out.
        """
        in_memory = self.is_resident and tf.executing_eagerly()  # a function may run in another process, which reads for itself
        batches = self._from_memory(epoch, first_step) if in_memory else self._from_files(epoch, first_step)
        left = self.steps - first_step
        return batches.take(left).apply(tf.data.experimental.assert_cardinality(left)).prefetch(tf.data.AUTOTUNE)

    def _from_memory(self, epoch: int, first_step: int) -> tf.data.Dataset:
        with tf.device("CPU"):
            return self._shuffled(self._resident, epoch, 0, first_step).with_options(_UNCOPIED)

    def _from_files(self, epoch: int, first_step: int) -> tf.data.Dataset:
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._files))
        first_window, step_in_window = divmod(first_step, self._window_rows // self.batch_size)
        rows = self._decoded([self._files[i] for i in order], first_window * self._window_rows)
        windows = rows.rebatch(self._window_rows).prefetch(1).enumerate(first_window)

        def shuffled(window: tf.Tensor, rows: Batch) -> tf.data.Dataset:
            return self._shuffled(rows, epoch, window, tf.where(window == first_window, np.int64(step_in_window), 0))

        return windows.flat_map(shuffled)

    def _shuffled(self, rows: Batch, epoch: int, window: tf.Tensor | int, first_step: tf.Tensor | int) -> tf.data.Dataset:
        """The batches of one window from its step `first_step` on."""
        size = tf.shape(rows["label"], tf.int64)[0]
        seed = tf.random.experimental.stateless_fold_in(tf.constant([self._seed, epoch], tf.int64), window)
        order = tf.random.experimental.stateless_shuffle(tf.range(size), seed)

        def batch(step: tf.Tensor) -> Batch:
            chosen = tf.slice(order, [step * self.batch_size], [self.batch_size])
            return widened({name: tf.gather(values, chosen) for name, values in rows.items()})

        return tf.data.Dataset.range(first_step, size // self.batch_size).map(batch, num_parallel_calls=tf.data.AUTOTUNE)


def _deal(files: Sequence[RecordFile], workers: int, rows_of: Callable[[RecordFile], int]) -> list[list[RecordFile]]:
    """Files for each worker, by path; dealt out from the largest, each to the worker with the fewest rows so far."""
    shares: list[list[RecordFile]] = [[] for _ in range(workers)]
    rows_of_workers = [(0, worker) for worker in range(workers)]
    for file in sorted(files, key=rows_of, reverse=True):
        rows, worker = heapq.heappop(rows_of_workers)
        shares[worker].append(file)
        heapq.heappush(rows_of_workers, (rows + rows_of(file), worker))
    return [sorted(share, key=lambda file: file.path) for share in shares]


def fitting_batch_size(rows: int, batch_size: int, min_steps: int) -> int:
    """The batch size with which an epoch of `rows` has at least `min_steps` steps, but not below 32 (or all) rows."""
    return min(batch_size, rows, max(rows // min_steps, SMALLEST_BATCH))


class EvaluationSplit(_Split):
    """The rows of a split that have a label, in file order, each once; kept in memory where they fit into one window.

    Args:
      folder: the data folder.
      split: "train", "valid" or "test".
      window_rows: up to so many rows are decoded once and kept.
      corrupt_records: as for `TrainingSplit`.

    Raises:
      UserError: as for `TrainingSplit`.
    """

    def __init__(self, folder: DataFolder, split: str, window_rows: int, corrupt_records: float = 0.0):
        super().__init__(folder, split, window_rows, corrupt_records, labelled_only=True)
        self._salvage()

    def batches(self, batch_size: int = 8192) -> Iterator[Batch]:
        """Yields batches as `TrainingSplit.epoch` has them, the last one smaller.

        Raises:
          UserError: a file is damaged.
        """
        if self.is_resident:
            rows = tf.data.Dataset.from_tensors(self._resident).with_options(_UNCOPIED)
        else:
            rows = self._decoded(self._files)
        read = 0
        for batch in self.iterate(rows.rebatch(batch_size).map(widened).prefetch(tf.data.AUTOTUNE)):
            read += len(batch["label"])
            yield batch
        self._require_all(read)

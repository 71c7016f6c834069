"""Batching: which calls share a run, what is refused, what fills a batch up, and that everybody gets his own rows."""

import threading
import time

import grpc
import numpy as np
import pytest
import tiny_saved_models as tiny
from running_server import SECONDS, copy_in, refusal, running, served

from preprocessing.errors import UserError
from serving.server.batching import BatchScheduler
from serving.server.config import BatchingParameters
from serving.server.metrics import BatchingMetrics
from serving.server.status import StatusError

Code = grpc.StatusCode
PATIENT = 300_000_000  # microseconds: nothing but a full batch, or a stop, ends the wait


class Recorder:
    """Runs `y = 2 x`, and keeps the inputs of each run; may be held."""

    def __init__(self):
        self.runs = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, inputs):
        self.runs.append({name: array.tolist() for name, array in inputs.items()})
        self.entered.release()
        assert self.may_go.wait(SECONDS)
        return {"y": 2 * inputs["x"]}


class Callers:
    """Calls from threads of their own; `outcomes` has each one's answer or error, in the order of the calls."""

    def __init__(self, call):
        self._call, self._threads, self._outcomes = call, [], {}

    def send(self, **inputs):
        number = len(self._threads)
        thread = threading.Thread(target=self._run, args=(number, inputs))
        self._threads.append(thread)
        thread.start()

    def _run(self, number, inputs):
        try:
            self._outcomes[number] = self._call(inputs)
        except StatusError as error:
            self._outcomes[number] = error

    def outcomes(self):
        for thread in self._threads:
            thread.join(SECONDS)
        return [self._outcomes[number] for number in range(len(self._threads))]


@pytest.fixture
def scheduler():
    """Makes schedulers that end with the test."""
    made = []

    def make(**parameters):
        made.append(BatchScheduler(BatchingParameters(**{"num_batch_threads": 1, **parameters}), BatchingMetrics()))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def column(*values):
    return np.array(values, np.float32)


def waiting(scheduler, calls):
    """Waits until so many calls lie in queues."""
    give_up = time.monotonic() + SECONDS
    while sum(len(batch.calls) for queue in list(scheduler._waiting) for batch in list(queue.batches)) < calls:
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_calls_that_fill_a_batch_are_run_together_and_get_their_own_rows(scheduler):
    run, one = Recorder(), scheduler(max_batch_size=4, batch_timeout_micros=PATIENT)
    callers = Callers(one.batched(run))
    callers.send(x=column(1, 2))
    waiting(one, 1)
    callers.send(x=column(3))
    waiting(one, 2)
    callers.send(x=column(4))
    assert [outcome["y"].tolist() for outcome in callers.outcomes()] == [[2, 4], [6], [8]]
    assert run.runs == [{"x": [1, 2, 3, 4]}]


def test_a_call_that_does_not_fit_closes_the_batch_before_it(scheduler):
    run, one = Recorder(), scheduler(max_batch_size=4, batch_timeout_micros=PATIENT)
    callers = Callers(one.batched(run))
    callers.send(x=column(1, 2))
    waiting(one, 1)
    callers.send(x=column(3, 4, 5))
    waiting_for = threading.Thread(target=run.entered.acquire)
    waiting_for.start()
    waiting_for.join(SECONDS)
    assert run.runs == [{"x": [1, 2]}]
    one.stop()
    assert [outcome["y"].tolist() for outcome in callers.outcomes()] == [[2, 4], [6, 8, 10]]


def test_many_callers_at_once_each_get_their_own_rows(scheduler):
    run = Recorder()
    call = scheduler(max_batch_size=16, batch_timeout_micros=200, max_enqueued_batches=1000, num_batch_threads=3).batched(run)
    wrong = []

    def ask(caller):
        for number in range(50):
            x = column(*range(caller * 1000 + number, caller * 1000 + number + 1 + (caller + number) % 7))
            if call({"x": x})["y"].tolist() != (2 * x).tolist():
                wrong.append((caller, number))

    callers = [threading.Thread(target=ask, args=(caller,)) for caller in range(12)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(SECONDS)
    assert wrong == [] and not any(thread.is_alive() for thread in callers)


def test_a_batch_that_nobody_fills_is_run_after_the_timeout(scheduler):
    run = Recorder()
    assert scheduler(max_batch_size=100, batch_timeout_micros=1000).batched(run)({"x": column(1)})["y"].tolist() == [2]


def test_two_signatures_share_threads_but_no_batch(scheduler):
    first, second, one = Recorder(), Recorder(), scheduler(max_batch_size=2, batch_timeout_micros=PATIENT)
    callers = [Callers(one.batched(run)) for run in (first, second)]
    for caller in callers:
        caller.send(x=column(1))
    waiting(one, 2)
    for caller in callers:
        caller.send(x=column(2))
    assert all(len(caller.outcomes()) == 2 for caller in callers)
    assert [sorted(run.runs[0]["x"]) for run in (first, second)] == [[1, 2]] * 2


def test_batches_are_filled_up_to_an_allowed_size_with_the_last_calls_first_row(scheduler):
    run, one = Recorder(), scheduler(max_batch_size=8, allowed_batch_sizes=(4, 8))
    assert one.batched(run)({"x": column(1, 2, 3)})["y"].tolist() == [2, 4, 6]
    assert one.batched(run)({"x": column(1, 2, 3, 4)})["y"].tolist() == [2, 4, 6, 8]
    assert run.runs == [{"x": [1, 2, 3, 1]}, {"x": [1, 2, 3, 4]}]


def test_no_rows_are_run_alone(scheduler):
    run = Recorder()
    answer = scheduler(batch_timeout_micros=PATIENT).batched(run)({"x": column()})
    assert answer["y"].shape == (0,) and run.runs == [{"x": []}]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": column(*range(5))}, "Task size 5 is larger than maximum input batch size 4"),
        ({"x": np.float32(1)}, "must have at least one dimension"),
        ({"x": column(1), "y": column(1, 2)}, "must have equal 0th-dimension size"),
    ],
)
def test_a_call_that_cannot_be_batched_is_refused(scheduler, inputs, message):
    with pytest.raises(StatusError, match=message) as caught:
        scheduler(max_batch_size=4).batched(Recorder())({name: np.asarray(array) for name, array in inputs.items()})
    assert caught.value.code == Code.INVALID_ARGUMENT


def words(*rows):
    return np.array(rows, object)


def two_lists(scheduler, first, second, **parameters):
    run, one = Recorder(), scheduler(max_batch_size=2, batch_timeout_micros=PATIENT, **parameters)
    callers = Callers(one.batched(run))
    callers.send(x=first)
    waiting(one, 1)
    callers.send(x=second)
    return run, callers.outcomes()


def test_lists_of_different_length_fail_together(scheduler):
    run, outcomes = two_lists(scheduler, words([b"a"]), words([b"b", b"c"]))
    assert [outcome.code for outcome in outcomes] == [Code.FAILED_PRECONDITION] * 2 and run.runs == []
    assert "Tensors with name 'x' from different tasks have different shapes and padding is turned off" in str(outcomes[0])


def test_padding_repeats_a_tensors_own_first_element(scheduler):
    run, _ = two_lists(scheduler, words([b"a", b"b"]), words([b"c", b"d", b"e"]), pad_variable_length_inputs=True)
    assert run.runs == [{"x": [[b"a", b"b", b"a"], [b"c", b"d", b"e"]]}]


def test_a_tensor_without_elements_cannot_be_padded(scheduler):
    _, outcomes = two_lists(scheduler, np.empty((1, 0), object), words([b"c"]), pad_variable_length_inputs=True)
    assert {outcome.code for outcome in outcomes} == {Code.INVALID_ARGUMENT}


@pytest.mark.parametrize(
    ("output", "message"),
    [(np.float32(1), "has 0 dimensions"), (column(1, 2, 3), "0th dimension does not equal the sum")],
)
def test_outputs_without_the_batchs_rows_are_refused(scheduler, output, message):
    with pytest.raises(StatusError, match=message) as caught:
        scheduler().batched(lambda _: {"y": output})({"x": column(1)})
    assert caught.value.code == Code.FAILED_PRECONDITION


def test_a_run_that_fails_fails_for_all_its_callers_and_nobody_else(scheduler):
    one = scheduler(max_batch_size=2, batch_timeout_micros=PATIENT)

    def broken(_):
        raise StatusError(Code.INTERNAL, "broken")

    callers = Callers(one.batched(broken))
    callers.send(x=column(1))
    callers.send(x=column(2))
    assert [str(outcome) for outcome in callers.outcomes()] == ["broken"] * 2
    assert one.batched(Recorder())({"x": column(1, 2)})["y"].tolist() == [2, 4]


def test_a_full_queue_is_unavailable(scheduler):
    run, one = Recorder(), scheduler(max_batch_size=1, max_enqueued_batches=1)
    run.may_go.clear()
    call = one.batched(run)
    callers = Callers(call)
    callers.send(x=column(1))
    assert run.entered.acquire(timeout=SECONDS)  # the only thread is busy
    callers.send(x=column(2))
    waiting(one, 1)
    with pytest.raises(StatusError, match="The batch scheduling queue to which this task was submitted is full") as caught:
        call({"x": column(3)})
    assert caught.value.code == Code.UNAVAILABLE
    run.may_go.set()
    assert [outcome["y"].tolist() for outcome in callers.outcomes()] == [[2], [4]]


def test_a_stop_runs_what_waits_and_takes_no_more(scheduler):
    run, one = Recorder(), scheduler(max_batch_size=100, batch_timeout_micros=PATIENT)
    callers = Callers(one.batched(run))
    callers.send(x=column(1))
    waiting(one, 1)
    one.stop()
    assert callers.outcomes()[0]["y"].tolist() == [2]
    with pytest.raises(StatusError, match="the server is stopping"):
        one.batched(run)({"x": column(1)})


def test_a_server_batches_calls_and_warm_up(tmp_path):
    copy_in(tiny.save(tmp_path / "saved"), tmp_path, 1)
    parameters = BatchingParameters(
        max_batch_size=4, batch_timeout_micros=PATIENT, num_batch_threads=2, allowed_batch_sizes=(2, 4)
    )
    tiny.write_warmup(tmp_path / "1")  # two rows, which would wait until somebody fills their batch
    with running(served(tmp_path), parameters) as asked:
        calls = [asked.prediction.Predict.future(tiny.predict_request((x, x + 10)), timeout=SECONDS) for x in (1.0, 2.0)]
        assert [list(call.result().outputs["score"].float_val) for call in calls] == [[1.0, 11.0], [2.0, 12.0]]
        code, details = refusal(asked.prediction.Predict, tiny.predict_request([1.0] * 5))
        assert code == Code.INVALID_ARGUMENT and "Task size 5 is larger than maximum input batch size 4" in details
        assert not asked.prediction.Predict(tiny.predict_request(()), timeout=SECONDS).outputs["score"].float_val
        text = asked.get("/monitoring/prometheus/metrics")[1]
        assert ':tensorflow:serving:batching_session:processed_batch_size_bucket{le="4"} 1' in text


def test_warm_up_goes_through_the_batcher(tmp_path):
    copy_in(tiny.save(tmp_path / "saved"), tmp_path, 1)
    told = pytest.raises(UserError, match="warm-up request 0: Task size 2 is larger than maximum input batch size 1")
    with told, running(served(tmp_path), BatchingParameters(max_batch_size=1)):
        pass

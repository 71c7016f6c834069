"""Classify, Regress and MultiInference: tf.Examples in, classes, scores and values out, by TensorFlow Serving's conventions.

A signature for Classify has the one input `inputs` and one or both of the outputs `classes` (string) and `scores` (float32),
`[B, classes]` each; one for Regress has `inputs` and the output `outputs`, float32 `[B]` or `[B, 1]`. `inputs` takes
serialized tf.Examples, `[B]`. What a signature's method name says does not matter, as with TensorFlow Serving by default.
"""

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, regression_pb2

from serving.server.servable import Arrays, Servable, Signature
from serving.server.status import StatusError, failed_precondition, invalid
from serving.signatures import CLASSES_OUTPUT, CLASSIFY_INPUT, DEFAULT_SIGNATURE, REGRESS_OUTPUT, SCORES_OUTPUT

INPUTS = CLASSIFY_INPUT  # and REGRESS_INPUT: the same name
CLASSIFY_METHOD = tf.saved_model.CLASSIFY_METHOD_NAME
REGRESS_METHOD = tf.saved_model.REGRESS_METHOD_NAME


def classify(servable: Servable, request: classification_pb2.ClassificationRequest) -> classification_pb2.ClassificationResponse:
    """Raises: StatusError, of an unknown or unfit signature, of no examples, or of the op that failed."""
    name, signature = _signature(servable, request.model_spec.signature_name)
    _require_classify(signature)
    response = classification_pb2.ClassificationResponse(result=_classifications(signature, serialized_examples(request.input)))
    servable.fill_spec(response.model_spec, name)
    return response


def regress(servable: Servable, request: regression_pb2.RegressionRequest) -> regression_pb2.RegressionResponse:
    """Raises: StatusError, of an unknown or unfit signature, of no examples, or of the op that failed."""
    name, signature = _signature(servable, request.model_spec.signature_name)
    _require_regress(signature)
    response = regression_pb2.RegressionResponse(result=_regressions(signature, serialized_examples(request.input)))
    servable.fill_spec(response.model_spec, name)
    return response


def multi_inference(servable: Servable, request: inference_pb2.MultiInferenceRequest) -> inference_pb2.MultiInferenceResponse:
    """Runs several signatures on the same examples; all tasks are checked before the first is run.

    Raises:
      StatusError: tasks of several models, two of one signature, signatures that read different tensors of the graph (those of
        our exports read one), an unknown method, or as `classify` and `regress`.
    """
    methods = {CLASSIFY_METHOD: (_require_classify, _classifications), REGRESS_METHOD: (_require_regress, _regressions)}
    planned, tensors = {}, set()
    for task in request.tasks:
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name, signature = _signature(servable, task.model_spec.signature_name)
        if name in planned:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        if task.method_name not in methods:
            raise StatusError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        require, run = methods[task.method_name]
        require(signature)
        tensors.add(servable.metadata.signature_def[name].inputs[INPUTS].name)
        if len(tensors) > 1:
            raise invalid("Input tensor must be the same for all Signatures.")
        planned[name] = signature, run
    examples = serialized_examples(request.input)
    response = inference_pb2.MultiInferenceResponse()
    for name, (signature, run) in planned.items():
        result = run(signature, examples)
        entry = response.results.add()
        servable.fill_spec(entry.model_spec, name)
        field = "regression_result" if run is _regressions else "classification_result"
        getattr(entry, field).CopyFrom(result)
    return response


def serialized_examples(source: input_pb2.Input) -> np.ndarray:
    """The examples of an Input, `[B]`; a context is put before each, so that an example's own feature wins.

    Raises:
      StatusError: INVALID_ARGUMENT where there are none.
    """
    context, examples = b"", source.example_list.examples
    if source.WhichOneof("kind") == "example_list_with_context":
        context = source.example_list_with_context.context.SerializeToString()
        examples = source.example_list_with_context.examples
    if not examples:
        raise invalid("Input is empty.")
    rows = np.empty(len(examples), object)
    rows[:] = [context + example.SerializeToString() for example in examples]
    return rows


def _signature(servable: Servable, name: str) -> tuple[str, Signature]:
    name = name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    return name, servable.signatures[name]


def _require_input(signature: Signature, kind: str) -> None:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if INPUTS not in signature.inputs:
        raise failed_precondition(
            f"No {kind} inputs found in SignatureDef: its input is {next(iter(signature.inputs))!r}, not {INPUTS!r}"
        )
    if signature.inputs[INPUTS] != types_pb2.DT_STRING:
        raise invalid(f"Expected {kind} inputs Tensor of DT_STRING. Got: {types_pb2.DataType.Name(signature.inputs[INPUTS])}")


def _require_classify(signature: Signature) -> None:
    _require_input(signature, "classification")
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if not signature.outputs.keys() & {CLASSES_OUTPUT, SCORES_OUTPUT}:
        raise failed_precondition(
            f'Expected classification signature outputs to contain at least one of "{CLASSES_OUTPUT}" or "{SCORES_OUTPUT}". '
            f"Signature has {list(signature.outputs)}"
        )
    for output, expected in ((CLASSES_OUTPUT, types_pb2.DT_STRING), (SCORES_OUTPUT, types_pb2.DT_FLOAT)):
        _require_dtype(signature, output, expected)


def _require_regress(signature: Signature) -> None:
    _require_input(signature, "regression")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if REGRESS_OUTPUT not in signature.outputs:
        raise failed_precondition(f"No regression outputs found in SignatureDef: its output is {next(iter(signature.outputs))!r}")
    _require_dtype(signature, REGRESS_OUTPUT, types_pb2.DT_FLOAT)


def _require_dtype(signature: Signature, output: str, expected: int) -> None:
    received = signature.outputs.get(output, expected)
    if received != expected:
        expected, received = map(types_pb2.DataType.Name, (expected, received))
        raise invalid(f"Expected {output} Tensor of {expected}. Got: {received}")


def _classifications(signature: Signature, examples: np.ndarray) -> classification_pb2.ClassificationResult:
    outputs = signature.run({INPUTS: examples})
    found = {key: outputs[key] for key in (CLASSES_OUTPUT, SCORES_OUTPUT) if key in outputs}
    _check_shapes(found, len(examples))
    result = classification_pb2.ClassificationResult()
    for row in range(len(examples)):
        labels = found[CLASSES_OUTPUT][row].tolist() if CLASSES_OUTPUT in found else None
        scores = found[SCORES_OUTPUT][row].tolist() if SCORES_OUTPUT in found else None
        classes = result.classifications.add().classes
        for place in range(len(labels or scores or ())):
            classes.add(label=labels[place] if labels else "", score=scores[place] if scores else 0.0)
    return result


def _check_shapes(outputs: Arrays, examples: int) -> None:
    for key, values in outputs.items():
        if values.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {list(values.shape)}")
        if len(values) != examples:
            raise invalid(f"Expected {key} output batch size of {examples}. Got: {len(values)}")
    widths = {key: values.shape[1] for key, values in outputs.items()}
    if len(set(widths.values())) > 1:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {widths[CLASSES_OUTPUT]} vs. {widths[SCORES_OUTPUT]}"
        )


def _regressions(signature: Signature, examples: np.ndarray) -> regression_pb2.RegressionResult:
    values = signature.run({INPUTS: examples})[REGRESS_OUTPUT]
    if values.ndim not in (1, 2) or values.shape[1:] not in ((), (1,)):
        raise invalid(f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(values.shape)}")
    if len(values) != len(examples):
        raise invalid(f"Input batch size did not match output batch size: {len(examples)} vs. {len(values)}")
    result = regression_pb2.RegressionResult()
    for value in values.ravel().tolist():
        result.regressions.add(value=value)
    return result

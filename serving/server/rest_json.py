"""JSON of TensorFlow Serving's REST interface to request messages, and responses to JSON.

Predict takes rows, {"instances": [{"user": "ann", "price": 2.0}, ...]}, answered by {"predictions": [...]}, or columns,
{"inputs": {"user": ["ann"], "price": [2.0]}}, answered by {"outputs": {...}}. Classify and Regress take
{"examples": [{feature: value or list}, ...]}, with an optional "context", answered by {"results": [...]}. Bytes are
{"b64": "base64"}. NaN and Infinity are read and written as bare words. Each may name its signature by "signature_name".
"""

import base64
import binascii
import json
import math
import reprlib
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from serving.server.status import invalid
from serving.server.tensors import fill_proto

BASE64_KEY = "b64"
BYTES_SUFFIX = "_bytes"
MAX_RANK = 8
_TYPE_NAMES = {type(None): "Null", bool: "Bool", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


def parse(body: bytes) -> dict:
    """Reads a JSON object.

    Raises:
      StatusError: INVALID_ARGUMENT where it is none, or nested too deeply.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_quoted(document)} Is not object")
    return document


def signature_name(document: Mapping) -> str:
    """The signature that a request names, or the default one's."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(f"JSON Value: {_quoted(document)} not formatted correctly. 'signature_name' key must be a string value.")
    return name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


def fill_inputs(
    document: Mapping, types: Mapping[str, int], request: predict_pb2.PredictRequest
) -> Callable[[predict_pb2.PredictResponse], dict]:
    """Fills the inputs of a PredictRequest from rows or columns; returns what turns its response into JSON of the same kind.

    Args:
      types: input -> dtype of the signature.

    Raises:
      StatusError: INVALID_ARGUMENT where names, types or shapes are not the signature's.
    """
    if ("instances" in document) == ("inputs" in document):
        if "instances" in document:
            raise invalid("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
        raise invalid("Missing 'inputs' or 'instances' key")
    by_rows = "instances" in document
    columns = _columns_of_rows(document["instances"], types) if by_rows else _columns(document["inputs"], types)
    for name, values in columns.items():
        fill_proto(request.inputs[name], _array(name, values, types[name]), types[name])
    return _rows_json if by_rows else _columns_json


def fill_examples(document: Mapping, source) -> None:
    """Fills an Input from "examples" and "context".

    Raises:
      StatusError: INVALID_ARGUMENT where there are none, or one is not an object of features.
    """
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise invalid("Expecting 'examples' value to be a list with at least one example")
    target = source.example_list
    if "context" in document:
        target = source.example_list_with_context
        _fill_example(document["context"], target.context)
    for example in examples:
        _fill_example(example, target.examples.add())


def classifications_json(response) -> dict:
    results = response.result.classifications
    return {"results": [[[one.label, _single(one.score)] for one in row.classes] for row in results]}


def regressions_json(response) -> dict:
    return {"results": [_single(one.value) for one in response.result.regressions]}


def _columns_of_rows(rows, types: Mapping[str, int]) -> dict[str, list]:
    if not isinstance(rows, list) or not rows:
        raise invalid("Excepting 'instances' to be an list/array with at least one value")
    if not _is_named(rows[0]):
        if len(types) > 1:
            raise invalid(
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                "tensorinfo_map"
            )
        named = [number for number, row in enumerate(rows) if _is_named(row)]
        if named:
            raise invalid(f"Expecting value/list but got object at item {named[0]} of input list")
        return {next(iter(types)): rows}
    for number, row in enumerate(rows):
        if not _is_named(row):
            raise invalid(f"Expecting object but got list at item {number} of input list")
        if row.keys() != types.keys():
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: {_quoted(row)} keys must be equal to: "
                f"{','.join(types)}"
            )
    return {name: [row[name] for row in rows] for name in types}


def _columns(inputs, types: Mapping[str, int]) -> dict:
    if not _is_named(inputs):
        if len(types) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
            )
        return {next(iter(types)): inputs}
    missing = [name for name in types if name not in inputs]
    if missing:
        raise invalid(f"Missing named input: {missing[0]} in 'inputs' object.")
    unknown = [name for name in inputs if name not in types]
    if unknown:
        raise invalid(f"Unknown named input: {unknown[0]} in 'inputs' object; the signature has {','.join(types)}.")
    return {name: inputs[name] for name in types}


def _is_named(value) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value) -> bool:
    return isinstance(value, dict) and list(value) == [BASE64_KEY] and isinstance(value[BASE64_KEY], str)


def _array(name: str, values, dtype: int) -> np.ndarray:
    """Nested lists as an array; the shape is that of the first elements."""
    shape, inner = [], values
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
        if len(shape) > MAX_RANK:
            raise invalid(f"{name}: expected at most {MAX_RANK} dimensions, received more")
    flat = []
    _flatten(name, values, shape, 0, flat)
    kind = tf.DType(dtype)
    convert = _converter(name, kind)
    array = np.empty(len(flat), object) if kind == tf.string else np.empty(len(flat), kind.as_numpy_dtype)
    array[:] = [convert(value) for value in flat]
    return array.reshape(shape)


def _flatten(name: str, value, shape: list[int], level: int, flat: list) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"{name}: JSON Value: {_quoted(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: "
                f"{len(shape)}"
            )
        flat.append(value)
        return
    if level >= len(shape):
        raise invalid(f"{name}: Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"{name}: Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for element in value:
        _flatten(name, element, shape, level + 1, flat)


def _converter(name: str, kind: tf.DType) -> Callable:
    if kind == tf.string:
        return lambda value: _bytes_of(name, value)
    if kind == tf.bool:
        return lambda value: value if isinstance(value, bool) else _refuse(name, value, kind)
    if kind.is_integer:
        return lambda value: value if type(value) is int and kind.min <= value <= kind.max else _refuse(name, value, kind)
    if kind in (tf.float32, tf.float64):
        return lambda value: _decimal(name, value, kind)
    raise invalid(f"{name}: values of type {kind.name} cannot be given as JSON; use gRPC")


def _refuse(name: str, value, kind: tf.DType):
    raise invalid(f"{name}: JSON Value: {_quoted(value)} Type: {_TYPE_NAMES[type(value)]} is not of expected type: {kind.name}")


def _bytes_of(name: str, value) -> bytes:
    if _is_base64(value):
        try:
            return base64.b64decode(value[BASE64_KEY], validate=True)
        except binascii.Error as error:
            raise invalid(f"{name}: Unable to base64 decode") from error
    return value.encode(errors="surrogatepass") if isinstance(value, str) else _refuse(name, value, tf.string)


def _decimal(name: str, value, kind: tf.DType) -> float:
    if type(value) not in (int, float):
        _refuse(name, value, kind)
    exact = 2 ** (24 if kind == tf.float32 else 53) - 1
    lossy = abs(value) > exact if type(value) is int else math.isfinite(value) and abs(value) > float(kind.max)
    if lossy:
        raise invalid(f"{name}: Cannot convert JSON value: {_quoted(value)} to {kind.name} without loss of precision.")
    return float(value)


def _fill_example(features, example: example_pb2.Example) -> None:
    if not isinstance(features, dict):
        raise invalid(f"Example must be JSON object but got JSON {_TYPE_NAMES[type(features)]}")
    for name, values in features.items():
        feature = example.features.feature[name]
        for value in values if isinstance(values, list) else [values]:
            field, converted = _feature_value(name, value)
            if feature.WhichOneof("kind") not in (None, field):
                expected = feature.WhichOneof("kind").removesuffix("_list")
                raise invalid(f"Unexpected element type in feature: {name} expecting type: {expected}")
            getattr(feature, field).value.append(converted)


def _feature_value(name: str, value) -> tuple[str, bytes | int | float]:
    """A number with a decimal point is a float, one without an int64, as in TensorFlow Serving."""
    if isinstance(value, str) or _is_base64(value):
        return "bytes_list", _bytes_of(name, value)
    if isinstance(value, float):
        return "float_list", _decimal(name, value, tf.float32)
    if isinstance(value, int):  # and bool
        return "int64_list", int(value) if tf.int64.min <= value <= tf.int64.max else _refuse(name, value, tf.int64)
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {_TYPE_NAMES[type(value)]}")


def _rows_json(response: predict_pb2.PredictResponse) -> dict:
    outputs = {name: _values(name, proto) for name, proto in sorted(response.outputs.items())}
    sizes = {name: len(values) if isinstance(values, list) else None for name, values in outputs.items()}
    if None in sizes.values() or len(set(sizes.values())) > 1:
        raise invalid(
            f"The outputs have no common number of rows, received {sizes}: send columns ('inputs') instead of 'instances'"
        )
    if len(outputs) == 1:
        return {"predictions": next(iter(outputs.values()))}
    return {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]}


def _columns_json(response: predict_pb2.PredictResponse) -> dict:
    outputs = {name: _values(name, proto) for name, proto in sorted(response.outputs.items())}
    return {"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs}


def _values(name: str, proto: tensor_pb2.TensorProto):
    array = tf.make_ndarray(proto)
    if array.dtype == object:
        return _each(array.tolist(), lambda value: _text(name, value))
    if array.dtype.kind == "f":  # by way of text: the fewest digits that give the same number in its own precision
        return _each(array.astype(str).tolist(), float)
    return array.tolist()


def _each(values, show: Callable):
    return [_each(value, show) for value in values] if isinstance(values, list) else show(values)


def _text(name: str, value: bytes) -> str | dict:
    if not name.endswith(BYTES_SUFFIX):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass  # no JSON text can hold it
    return {BASE64_KEY: base64.b64encode(value).decode()}


def _single(value: float) -> float:
    return float(str(np.float32(value)))


def _quoted(value) -> str:
    return reprlib.repr(value)

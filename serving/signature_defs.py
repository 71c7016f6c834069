"""The SignatureDefs of a SavedModel: what TensorFlow Serving reads, beyond what `tf.saved_model.save` writes.

TensorFlow 2 saves every signature as one for Predict, with an input tensor of its own. A server that checks method names refuses
Classify and Regress then, and every server refuses MultiInference over signatures that read different tensors.
"""

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from serving.signatures import CLASSIFY_INPUT, CLASSIFY_SIGNATURE, REGRESS_INPUT, REGRESS_SIGNATURE
from serving.versions.folders import SAVED_MODEL_FILE

FINGERPRINT_FILE = "fingerprint.pb"
INIT_OP = "__saved_model_init_op"
TAGS = {tf.saved_model.SERVING}


def read_signature_defs(folder: Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    """The signatures of a SavedModel by name, without loading it.

    Raises:
      OSError: the folder holds none, or it cannot be read.
      DecodeError: its file is damaged.
      LookupError: it has no graph for servers.
    """
    definitions = _served_graph(_read(folder)).signature_def
    return {name: definition for name, definition in definitions.items() if name != INIT_OP}


def specs_of(tensors: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, tf.TensorSpec]:
    """Names and shapes of a SignatureDef's inputs, or outputs, sorted by name."""
    return {
        name: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.DType(info.dtype)) for name, info in sorted(tensors.items())
    }


def finish_signature_defs(folder: Path) -> None:
    """Gives `classify` and `regress` of a SavedModel their method names and one input tensor in common."""
    saved_model = _read(folder)
    graph = _served_graph(saved_model)
    classify, regress = graph.signature_def[CLASSIFY_SIGNATURE], graph.signature_def[REGRESS_SIGNATURE]
    classify.method_name, regress.method_name = tf.saved_model.CLASSIFY_METHOD_NAME, tf.saved_model.REGRESS_METHOD_NAME
    common, own = classify.inputs[CLASSIFY_INPUT].name, regress.inputs[REGRESS_INPUT].name
    _read_instead(graph.graph_def, {_node(own): _node(common)})
    regress.inputs[REGRESS_INPUT].name = common
    (folder / SAVED_MODEL_FILE).write_bytes(saved_model.SerializeToString(deterministic=True))
    (folder / FINGERPRINT_FILE).unlink(missing_ok=True)  # of the file as it was; loading does not need one


def _read(folder: Path) -> saved_model_pb2.SavedModel:
    return saved_model_pb2.SavedModel.FromString((folder / SAVED_MODEL_FILE).read_bytes())


def _served_graph(saved_model: saved_model_pb2.SavedModel) -> meta_graph_pb2.MetaGraphDef:
    for graph in saved_model.meta_graphs:
        if set(graph.meta_info_def.tags) == TAGS:
            return graph
    raise LookupError("no graph with the tag `serve`")


def _node(tensor: str) -> str:
    """The node of its only output `NODE:0`, as the inputs of nodes name it."""
    return tensor.removesuffix(":0")


def _read_instead(graph: tf.compat.v1.GraphDef, renamed: Mapping[str, str]) -> None:
    kept = [node for node in graph.node if node.name not in renamed]
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)

"""What a server serves and how it batches: read from TensorFlow Serving's own configuration files, in protobuf text form."""

from dataclasses import dataclass
from pathlib import Path

from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from preprocessing.errors import UserError
from serving.server.proto_messages import add_field, define

PLATFORM = "tensorflow"
MAX_REQUEST_BYTES = 64 * 2**20
MAX_CONCURRENT_CALLS = 64


@dataclass(frozen=True)
class ModelConfig:
    """One model of a server.

    Attributes:
      name: by which clients ask for it.
      base_path: the folder of its versions.
      latest: serve this many of the highest versions; 0: all.
      specific: serve these instead.
      labels: label -> version.
      by_operator: neither versions nor labels are configured, so that what `python -m serving.versions` has said counts.
    """

    name: str
    base_path: Path
    latest: int = 1
    specific: tuple[int, ...] = ()
    labels: tuple[tuple[str, int], ...] = ()
    by_operator: bool = True


def read_model_config(path: Path) -> list[ModelConfig]:
    """Reads a `--model_config_file`.

    Raises:
      UserError: it is not a ModelServerConfig in text form, or one that this server cannot follow.
    """
    return model_configs(
        _parse(path, model_server_config_pb2.ModelServerConfig(), "a model config file"), f"model config file {path}"
    )


def model_configs(config: model_server_config_pb2.ModelServerConfig, source: str) -> list[ModelConfig]:
    """The models of a ModelServerConfig; `source` says in errors where it comes from.

    Raises:
      UserError: no model, a model without name or base path, two of one name, or a platform other than tensorflow.
    """
    if config.WhichOneof("config") != "model_config_list" or not config.model_config_list.config:
        raise UserError(f"{source} has no model: expected model_config_list {{ config {{ name: ... base_path: ... }} }}")
    models = [_model_config(model, source) for model in config.model_config_list.config]
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise UserError(
            f"{source} has several models of one name, received {names}: give each model one `config` block and a name of its own"
        )
    return models


def _model_config(model: model_server_config_pb2.ModelConfig, source: str) -> ModelConfig:
    if not model.name or not model.base_path:
        raise UserError(
            f"{source}: a `config` block needs `name` and `base_path`, received "
            f"{text_format.MessageToString(model, as_one_line=True)!r}"
        )
    if model.model_platform not in ("", PLATFORM):
        raise UserError(f"{source}: model {model.name}: model_platform must be {PLATFORM!r}, received {model.model_platform!r}")
    policy = model.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "specific" and not policy.specific.versions:
        raise UserError(f"{source}: model {model.name}: the policy `specific` needs at least one version")
    return ModelConfig(
        name=model.name,
        base_path=Path(model.base_path),
        latest={"all": 0, "latest": policy.latest.num_versions or 1}.get(kind, 1),
        specific=tuple(sorted(policy.specific.versions)),
        labels=tuple(sorted(model.version_labels.items())),
        by_operator=kind is None and not model.version_labels,
    )


@dataclass(frozen=True)
class BatchingParameters:
    """TensorFlow Serving's BatchingParameters, with its defaults.

    Attributes:
      max_batch_size: rows of a batch, at most; a call of more is refused.
      batch_timeout_micros: how long the first call of a batch waits for others.
      max_enqueued_batches: batches that wait for a thread, for each signature, at most; calls beyond are UNAVAILABLE.
      num_batch_threads: batches that run at once; 0: one a core.
      allowed_batch_sizes: a batch is filled up to the next of them; the last is max_batch_size.
      pad_variable_length_inputs: fill shorter tensors up, see `serving.server.batching`.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 0
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False


def read_batching_parameters(path: Path) -> BatchingParameters:
    """Reads a `--batching_parameters_file`.

    Raises:
      UserError: it is not a BatchingParameters in text form, or holds impossible values.
    """
    message = _parse(path, _batching_message(), "a batching parameters file")
    numbers = {name: getattr(message, name).value for name in _LOWEST if message.HasField(name)}
    for name, value in numbers.items():
        if value < _LOWEST[name]:
            raise UserError(f"batching parameters file {path}: {name} must be at least {_LOWEST[name]}, received {value}")
    parameters = BatchingParameters(
        **numbers,
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
    )
    sizes = list(parameters.allowed_batch_sizes)
    if sizes and (sizes != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != parameters.max_batch_size):
        raise UserError(
            f"batching parameters file {path}: allowed_batch_sizes must grow, from at least 1, and end with max_batch_size "
            f"({parameters.max_batch_size}), received {sizes}"
        )
    return parameters


_LOWEST = {"max_batch_size": 1, "batch_timeout_micros": 0, "max_enqueued_batches": 1, "num_batch_threads": 1}


def _batching_message() -> Message:
    """An empty BatchingParameters: its protocol file is not among those that tensorflow-serving-api has."""
    file = descriptor_pb2.FileDescriptorProto(name="batching_parameters.proto", package="tensorflow.serving", syntax="proto3")
    for name, kind in (("Int64Value", FieldDescriptorProto.TYPE_INT64), ("StringValue", FieldDescriptorProto.TYPE_STRING)):
        add_field(file.message_type.add(name=name), "value", 1, kind)
    message = file.message_type.add(name="BatchingParameters")
    for number, name in enumerate(_LOWEST, start=1):
        add_field(message, name, number, FieldDescriptorProto.TYPE_MESSAGE, of=".tensorflow.serving.Int64Value")
    add_field(message, "thread_pool_name", 5, FieldDescriptorProto.TYPE_MESSAGE, of=".tensorflow.serving.StringValue")
    add_field(message, "allowed_batch_sizes", 6, FieldDescriptorProto.TYPE_INT64, repeated=True)
    add_field(message, "pad_variable_length_inputs", 7, FieldDescriptorProto.TYPE_BOOL)
    return define(file)["BatchingParameters"]()


def _parse(path: Path, message: Message, kind: str) -> Message:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), message)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: expected {kind}, as TensorFlow Serving takes it; see serving/config for one"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the path of {kind} that this user can read") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not {kind} of TensorFlow Serving (line:column : reason): {error}; correct it, see serving/config for one"
        ) from error

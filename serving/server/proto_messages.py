"""Message classes for protocol files of which no installed package has the generated code."""

from collections.abc import Mapping

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto


def define(file: descriptor_pb2.FileDescriptorProto) -> Mapping[str, type]:
    """The message classes of a file, by name.

    They live in a pool of their own, so that a package which brings the generated code can be imported beside them.
    """
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptors = pool.FindFileByName(file.name).message_types_by_name
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in descriptors.items()}


def add_field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: int, *, of: str = "", repeated: bool = False
) -> None:
    """Adds a field.

    Args:
      kind: a `FieldDescriptorProto.TYPE_*`.
      of: full name of its message or enumeration type, with a dot before it.
    """
    label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    message.field.add(name=name, number=number, type=kind, label=label, type_name=of or None)

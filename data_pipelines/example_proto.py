"""`tf.train.Example`, the message that TFDS keeps in its files, without TFDS and TensorFlow.

The message is declared here with protobuf alone, in a pool of its own, so that it also gets along with TensorFlow's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_KINDS = {"bytes_list": _FIELD.TYPE_BYTES, "float_list": _FIELD.TYPE_FLOAT, "int64_list": _FIELD.TYPE_INT64}


def _declare() -> type[message.Message]:
    """Source: tensorflow/core/example/example.proto and feature.proto, unchanged since 2015."""
    file = descriptor_pb2.FileDescriptorProto(name="crab_jax/example.proto", package="tensorflow", syntax="proto3")

    def field(owner, name, number, kind, *, many=False, of=None):
        label = _FIELD.LABEL_REPEATED if many else _FIELD.LABEL_OPTIONAL
        return owner.field.add(name=name, number=number, type=kind, label=label, type_name=of)

    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(_KINDS.items(), start=1):
        camel = name.title().replace("_", "")
        field(file.message_type.add(name=camel), "value", 1, kind, many=True)
        field(feature, name, number, _FIELD.TYPE_MESSAGE, of=f".tensorflow.{camel}").oneof_index = 0
    file.message_type.append(feature)
    features = file.message_type.add(name="Features")
    pair = features.nested_type.add(name="FeatureEntry")
    pair.options.map_entry = True
    field(pair, "key", 1, _FIELD.TYPE_STRING)
    field(pair, "value", 2, _FIELD.TYPE_MESSAGE, of=".tensorflow.Feature")
    field(features, "feature", 1, _FIELD.TYPE_MESSAGE, many=True, of=".tensorflow.Features.FeatureEntry")
    field(file.message_type.add(name="Example"), "features", 1, _FIELD.TYPE_MESSAGE, of=".tensorflow.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_Example = _declare()


def serialize(features: Mapping[str, Any]) -> bytes:
    """Text, bytes, integers, or lists of bytes, under their names. Equal features give equal bytes."""
    example = _Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            values = value if isinstance(value, list) else [value]
            feature.bytes_list.SetInParent()  # an empty list is there, and empty
            feature.bytes_list.value.extend(v.encode() if isinstance(v, str) else v for v in values)
    return example.SerializeToString(deterministic=True)


def parse(data: bytes, *, many: Collection[str]) -> dict[str, Any]:
    """The inverse of `serialize`; text comes back as bytes.

    Args:
        data: a serialised message.
        many: names of features that are lists.

    Raises:
        ValueError: no such message, or several values where one is expected.
    """
    try:
        example = _Example.FromString(data)
    except message.DecodeError as error:
        raise ValueError(f"{len(data)} bytes that are no tf.train.Example ({error})") from error
    features = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        if name not in many and len(values) != 1:
            raise ValueError(f"expected one value of {name}, found {len(values)}")
        features[name] = values if name in many else values[0]
    return features

"""Where Feast keeps the values of a feature view online, and in what form.

The layout is Feast's: its writers make it, and the names of tables and fields come from its own
functions, once per view. A key is put together here from what they return, since an object per key
would cost more than the read itself; that both agree is checked on some keys whenever a view is
looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import (
    _mmh3,
    _redis_key,
    compute_table_id,
    compute_versioned_name,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from numpy.typing import NDArray

from prerank.core.errors import ConfigError

_SAMPLES = ("", "q:red shoe", "t:\u00e9\u4e2d\U0001f45f", "u" * 1_000)
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class ViewLayout:
    """Where the values of one feature view are.

    Attributes:
        table: of SQLite; a row per entity key and feature, ``value`` is a serialised ``Value``.
        fields: of a Redis hash, by feature; each holds a serialised ``Value``.
        stamp: the hash's field with the time of this view's row.
        project: what an entity key is followed by in the name of a Redis hash.
    """

    table: str
    fields: Mapping[str, bytes]
    stamp: bytes
    project: bytes
    _prefix: bytes

    @classmethod
    def of(cls, config: RepoConfig, view: FeatureView) -> ViewLayout:
        """The layout of a view that has one entity, a string.

        Raises:
            ConfigError: the Feast that is installed makes keys in another way.
        """
        (entity,) = view.entity_columns
        versioned = config.registry.enable_online_feature_view_versioning
        name = compute_versioned_name(view, versioned)
        layout = cls(
            table=compute_table_id(config.project, view, versioned),
            fields={f.name: _mmh3(f"{name}:{f.name}") for f in view.features},
            stamp=f"_ts:{name}".encode(),
            project=config.project.encode(),
            _prefix=entity_key(entity.name, "", config)[: -_LENGTH.size],
        )
        for text in _SAMPLES:
            key, asked = layout.entity_key(text), _entity(entity.name, text)
            version = config.entity_key_serialization_version
            if key != entity_key(entity.name, text, config) or (
                layout.hash_name(text) != _redis_key(config.project, asked, version)
            ):
                raise ConfigError(
                    "the Feast that is installed names online rows in another way than this "
                    "version reads them. Install the one that pyproject.toml asks for."
                )
        return layout

    def entity_key(self, text: str) -> bytes:
        """The serialised entity key of a text: ``entity_key`` in SQLite."""
        encoded = text.encode()
        return b"%b%b%b" % (self._prefix, _LENGTH.pack(len(encoded)), encoded)

    def hash_name(self, text: str) -> bytes:
        """Name of the Redis hash that has the features of a text, of every view of its entity."""
        return self.entity_key(text) + self.project


def packed_row(value: bytes | None) -> bytes:
    """The bytes of a serialised ``Value``; empty where there is none."""
    return Value.FromString(value).bytes_val if value else b""


def numbers(value: bytes | None) -> NDArray[np.int64]:
    """The integers of a serialised ``Value``, int64 [n]; empty where there is none."""
    return np.array(Value.FromString(value).int64_list_val.val if value else (), np.int64)


def _entity(name: str, text: str) -> EntityKey:
    return EntityKey(join_keys=[name], entity_values=[Value(string_val=text)])


def entity_key(name: str, text: str, config: RepoConfig) -> bytes:
    """The serialised key of an entity whose join key is ``name``, as in SQLite.

    In Redis, the name of its hash is this and the project's name.
    """
    version = config.entity_key_serialization_version
    return serialize_entity_key(_entity(name, text), version)

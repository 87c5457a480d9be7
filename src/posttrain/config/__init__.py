"""Configuration and registries; knows no stage."""

from posttrain.config.base import Config, apply_overrides, content_hash, file_hash, parse, path_hash, read_yaml
from posttrain.config.home import kernel_cache, model_cache
from posttrain.config.registry import Registry

__all__ = [
    "Config",
    "Registry",
    "apply_overrides",
    "content_hash",
    "file_hash",
    "kernel_cache",
    "model_cache",
    "parse",
    "path_hash",
    "read_yaml",
]

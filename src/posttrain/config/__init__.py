"""Configuration and registries; knows no stage."""

from posttrain.config.base import Config, apply_overrides, content_hash, file_hash, parse, path_hash, read_yaml
from posttrain.config.home import context_length, kernel_cache, model_cache, model_folder
from posttrain.config.registry import Registry

__all__ = [
    "Config",
    "Registry",
    "apply_overrides",
    "content_hash",
    "context_length",
    "file_hash",
    "kernel_cache",
    "model_cache",
    "model_folder",
    "parse",
    "path_hash",
    "read_yaml",
]

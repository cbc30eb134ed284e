"""Settings: what there is (schema), where they come from (load), and their page in the docs (reference)."""

from fastmq.config.listener import Listener
from fastmq.config.load import Loaded, load
from fastmq.config.schema import Config

__all__ = ["Config", "Listener", "Loaded", "load"]

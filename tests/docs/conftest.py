"""The tiny model and adapters of the command's tests."""

from tests.cli.conftest import adapters_dir, one_thread, tiny_model

__all__ = ["adapters_dir", "one_thread", "tiny_model"]

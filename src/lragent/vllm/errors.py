"""What the plugin raises."""

from __future__ import annotations


class PluginError(ValueError):
    """The plugin cannot work here; the message says what stands in the way and what to do."""

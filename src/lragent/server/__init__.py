"""OpenAI-compatible HTTP for the embedded engine, and its page."""

from lragent.server.app import create_app
from lragent.server.options import ServerOptions

__all__ = ["ServerOptions", "create_app"]

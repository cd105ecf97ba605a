"""The page that shows agents and cache, over `lragent serve` or vLLM with the plugin: files."""

from pathlib import Path

FOLDER = Path(__file__).parent / "files"
"""`index.html` and what it loads."""

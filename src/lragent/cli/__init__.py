"""The `lragent` command."""

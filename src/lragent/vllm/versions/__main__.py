"""``python -m lragent.vllm.versions``: what of the installed vLLM is not as the plugin knows it."""

from __future__ import annotations

from lragent.vllm.versions.guard import changes


def main() -> int:
    """Print one line for each change; returns 1 when there are some."""
    from vllm.version import __version__  # pyright: ignore[reportMissingImports]

    changed = changes()
    print(f"vLLM {__version__}: {len(changed)} changes", *changed, sep="\n  ")
    return 1 if changed else 0


if __name__ == "__main__":
    raise SystemExit(main())

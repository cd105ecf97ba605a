"""Print the lower bound of each requirement as a pin, for `make test-oldest`.

torch is left out: its older builds for CPUs are on an index of their own, and the others bring
gigabytes of CUDA.
"""

from __future__ import annotations

import tomllib
from pathlib import Path


def pins() -> list[str]:
    """`name==oldest` for the dependencies and those of the extras, without torch and vLLM."""
    from packaging.requirements import Requirement

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    found = {}
    for text in (*project["dependencies"], *(text for extra in extras for text in extra)):
        requirement = Requirement(text)
        for bound in requirement.specifier:
            if bound.operator == ">=" and requirement.name not in ("torch", "vllm"):
                found[requirement.name] = bound.version
    return [f"{name}=={version}" for name, version in found.items()]


if __name__ == "__main__":
    print("\n".join(pins()))

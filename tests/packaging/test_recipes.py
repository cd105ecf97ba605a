"""What CI and the images name is there: they run elsewhere, and would only fail there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.packaging.test_requirements import EXTRAS, PROJECT, ROOT

CI = [ROOT / ".github/workflows/ci.yml", ROOT / ".ci/run"]
IMAGES = sorted(ROOT.glob("docker/*.Dockerfile"))
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("path", CI, ids=lambda path: path.name)
def test_ci_calls_what_there_is(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    called = set(re.findall(r"\bmake ([a-z-]+)", re.sub(r"(?m)#.*", "", text)))
    assert called
    assert called <= targets
    for script in re.findall(r"run: (\S+/\S+)", text):
        assert (ROOT / script).stat().st_mode & 0o100, f"{script} cannot be run"


def test_ci_runs_every_version_of_python() -> None:
    named = set(re.findall(r"python(?:-version)?: \"(3\.\d+)\"", CI[0].read_text()))
    promised = (each.rpartition(" :: ")[2] for each in PROJECT["classifiers"])
    assert named == {each for each in promised if re.fullmatch(r"3\.\d+", each)}


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_images_copy_and_install_what_there_is(path: Path) -> None:
    text = path.read_text()
    copied = {
        name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()
    }
    assert copied >= {"pyproject.toml", "src", PROJECT["readme"], *PROJECT["license-files"]}
    assert all((ROOT / name).exists() for name in copied)
    assert re.search(r"pip install .*/src\b", text)
    for extra in re.findall(r"/src\[(.+?)\]", text):
        assert extra in EXTRAS


def test_the_image_of_vllm_has_the_newest_that_is_tested() -> None:
    newest = re.search(r"^VLLM_RELEASE \?= (.+)$", MAKEFILE, re.MULTILINE)
    image = re.search(r"^ARG VLLM=v(.+)$", (ROOT / "docker/vllm.Dockerfile").read_text(), re.M)
    assert newest
    assert image
    assert newest[1] == image[1]

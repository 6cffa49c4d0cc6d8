"""Versions of transformers beside the installed one, each in a folder of its own that `PYTHONPATH` names."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

CACHE = Path(__file__).resolve().parents[2] / ".compat"


class NoIndex(Exception):
    """pip found no package index, or not the version there; the message is pip's."""


def newest(requirement: str) -> str:
    """Return the newest version on the package index that meets a requirement, such as `transformers<6`."""
    report = _pip("--dry-run", "--ignore-installed", "--report", "-", requirement)
    return json.loads(report)["install"][0]["metadata"]["version"]


def install(version: str) -> Path:
    """Install a version of transformers with those of its requirements that this environment does not meet."""
    folder = CACHE / version
    complete = folder / "complete"
    if not complete.exists():
        wanted = [f"transformers=={version}"]
        while wanted:
            _pip("--target", folder, "--upgrade", *wanted)
            wanted = _unmet(folder)
        complete.touch()
    return folder


def _unmet(folder: Path) -> list[str]:
    """Return what the packages in a folder require, and neither the folder nor this environment has."""
    inside = {
        dist.name.lower().replace("_", "-"): dist for dist in importlib.metadata.distributions(path=[str(folder)])
    }
    unmet = []
    for line in {line for dist in inside.values() for line in dist.requires or ()}:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                found = inside.get(requirement.name.lower()) or importlib.metadata.distribution(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                found = None
            if found is None or not requirement.specifier.contains(found.version, prereleases=True):
                unmet.append(f"{requirement.name}{requirement.specifier}")
    return unmet


def _pip(*arguments: object) -> str:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "1", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NoIndex(done.stderr.strip().splitlines()[-1])
    return done.stdout

"""Training samples for the roles, built from HotpotQA questions with the real tools."""

from lragent.agents.trajectories.build import BuildReport, build_samples, play_trajectories
from lragent.agents.trajectories.records import RecordError

__all__ = ["BuildReport", "RecordError", "build_samples", "play_trajectories"]

"""The tool loop: model, calls, results, answer."""

from posttrain.episodes.conversation import ToolConversation, call_text
from posttrain.episodes.progress import Progress, turn_seed
from posttrain.episodes.runner import EpisodeRunner, run_episodes
from posttrain.episodes.settings import EpisodeSettings, EpisodeTask
from posttrain.episodes.toolbox import ToolboxEnvironment
from posttrain.episodes.trajectory import episode_to_demonstration, episode_to_generation, episode_to_sequence

__all__ = [
    "EpisodeRunner",
    "EpisodeSettings",
    "EpisodeTask",
    "Progress",
    "ToolConversation",
    "ToolboxEnvironment",
    "call_text",
    "episode_to_demonstration",
    "episode_to_generation",
    "episode_to_sequence",
    "run_episodes",
    "turn_seed",
]

"""Cases with tools: which run as episodes, what their answers depend on, and how they are run."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from posttrain.episodes import EpisodeTask, episode_to_generation, run_episodes
from posttrain.errors import ConfigError
from posttrain.evaluation.cases import Case
from posttrain.evaluation.suite import Suite
from posttrain.records import Episode, Generation, GenerationRequest

if TYPE_CHECKING:
    from posttrain.generation import Generator


def is_episode(suite: Suite, case: Case) -> bool:
    """Whether a case is answered in the tool loop."""
    return suite.config.episode is not None and bool(case.tools)


def world_of(case: Case) -> Mapping[str, Any] | None:
    """What opens the state a case starts from: its ``metadata.world``. Raises ConfigError where that is none."""
    world = case.metadata.get("world")
    if world is None:
        return None
    if not isinstance(world, Mapping) or not isinstance(world.get("name"), str):
        raise ConfigError(
            f"case '{case.id}': metadata.world is {world!r:.80}",
            hint='it opens a state: {"name": "finops", ...}; leave it out for calls alone',
        )
    return world


def world_versions(suite: Suite) -> dict[str, str]:
    """Version by name of every world that the suite's episodes run in. An unknown world raises ConfigError."""
    found = (world_of(case) for case in suite.cases if is_episode(suite, case))
    names = sorted({str(world["name"]) for world in found if world is not None})
    if not names:
        return {}
    from posttrain.worlds import worlds

    return {name: worlds.get(name).version for name in names}


def depends_on(suite: Suite, case: Case, versions: Mapping[str, str]) -> dict[str, Any] | None:
    """What an answer of a case depends on besides request and generator; None where it is no episode."""
    if suite.config.episode is None or not case.tools:
        return None
    world = world_of(case)
    return {
        "settings": suite.config.episode.dump(),
        "world": dict(world) if world is not None else None,
        "version": versions[world["name"]] if world is not None else None,
    }


def answer_with_tools(
    suite: Suite,
    asked: Sequence[tuple[Case, GenerationRequest]],
    generator: "Generator",
    on_answer: Callable[[int, Generation], None],
    concurrency: int,
) -> None:
    """Run an episode a request; ``on_answer(index, generation)`` is called as each is over."""
    assert suite.config.episode is not None

    def on_done(index: int, episode: Episode) -> None:
        on_answer(index, episode_to_generation(episode, len(asked[index][0].messages)))

    run_episodes(
        generator,
        (_task(case, request) for case, request in asked),
        settings=suite.config.episode,
        sampling=suite.config.sampling.settings(),
        on_done=on_done,
        concurrency=concurrency,
    )


def _task(case: Case, request: GenerationRequest) -> EpisodeTask:
    from posttrain.worlds import open_world

    world = world_of(case)
    environment = partial(open_world, world) if world is not None else None
    return EpisodeTask(request.id, case.messages, case.tools, environment, request.sampling.seed)

"""Cases with tools: which run as episodes, what their answers depend on, and how they are run."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from posttrain.config import content_hash
from posttrain.episodes import EpisodeTask, episode_to_generation, run_episodes
from posttrain.errors import ConfigError
from posttrain.evaluation.cases import Case
from posttrain.evaluation.suite import Suite
from posttrain.records import Episode, Generation, GenerationRequest

if TYPE_CHECKING:
    from posttrain.generation import Generator
    from posttrain.tools import Toolbox

Versions = dict[str, dict[str, Any]]
"""By world: its ``version``, and of its ``tools`` the version by name."""


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


def world_versions(suite: Suite) -> Versions:
    """Versions of every world that the suite's episodes run in, and of the tools there. An unknown world raises ConfigError."""
    from posttrain.worlds import open_world, worlds

    versions: Versions = {}
    seen: set[str] = set()
    for case in suite.cases:
        world = world_of(case) if is_episode(suite, case) else None
        if world is None:
            continue
        name = str(world["name"])
        found = versions.setdefault(name, {"version": worlds.get(name).version, "tools": {}})
        offered = content_hash([name, list(case.tools)])
        if offered not in seen:
            seen.add(offered)
            # A world that cannot be opened says so in the result of its case.
            with suppress(Exception), closing(open_world(world)) as environment:
                toolbox: Toolbox | None = getattr(environment, "toolbox", None)
                found["tools"] |= {tool.name: tool.version for tool in toolbox.tools.values()} if toolbox else {}
    return versions


def changed_versions(before: Versions, now: Versions) -> str:
    """Names of the worlds and tools whose versions differ; empty where none does."""
    changed = []
    for name in sorted({*before, *now}):
        old, new = before.get(name, {}), now.get(name, {})
        tools, others = old.get("tools", {}), new.get("tools", {})
        differing = sorted(tool for tool in {*tools, *others} if tools.get(tool) != others.get(tool))
        if differing or old.get("version") != new.get("version"):
            changed.append(f"{name} ({', '.join(differing)})" if differing else name)
    return ", ".join(changed)


def depends_on(suite: Suite, case: Case, versions: Versions) -> dict[str, Any] | None:
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

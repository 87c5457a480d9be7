"""What a sweep leaves in the lineage: every point's model with its settings, and what was measured of it against which reference."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.data import load_card
from posttrain.errors import ConfigError
from posttrain.lineage import LineageStore, code_record, environment_record
from posttrain.recipes.sweep.source import SweepSource
from posttrain.stages.preference import PreferenceConfig
from posttrain.stages.setup import stage_settings
from posttrain.training.reference import HEADER_FILE

if TYPE_CHECKING:
    from posttrain.chat import ChatContract


class SweepRecord:
    """Writes the points of one sweep into a store. ``test``: the held-out pairs; ``cache``: the folder of the reference passes."""

    def __init__(self, store: LineageStore, source: SweepSource, test: Path, cache: Path, contract: "ChatContract") -> None:
        self._store, self._name, self._test, self._cache, self._contract = store, source.name, test, cache, contract
        before = [node for node in source.parents if _is_known(store, node)]
        card = load_card(source.data).dump()
        self._sources = [
            store.put("model", {"name": source.model.name}, parents=before, files=[source.model]),
            store.put("data", {**card, "name": source.data.name}, parents=before, files=[source.data]),
            store.put("code", code_record()),
            store.put("environment", environment_record()),
        ]

    def put(self, name: str, config: PreferenceConfig, folder: Path, kept: Path | None, figures: Mapping[str, Any]) -> str:
        """Record a point that was trained in ``folder`` and measured; returns the id of the evaluation, whose parent is the model.

        ``kept``: where its weights stay; None when they were let go, and the record of the run (``result.json``) stands for them.
        """
        settings = stage_settings(self._store, "preference", config, self._contract, seed=config.training.seed)
        kind = "adapter" if config.lora is not None or config.adapter is not None else "model"
        content = {"name": name, "stage": "preference", "sweep": self._name, "metrics": figures["training"], "kept": kept is not None}
        files = [kept or folder / "result.json"]
        model = self._store.put(kind, content, parents=[*self._sources, *settings], files=files)
        headers = sorted(self._cache.glob(f"*/{HEADER_FILE}"))
        reference = {header.parent.name: json.loads(header.read_text(encoding="utf-8")) for header in headers}
        measured = {"name": f"sweep {self._name}, {name}", "measured": figures["measured"], "reference": reference}
        return self._store.put("evaluation", measured, parents=[model], files=[self._test])


def _is_known(store: LineageStore, node: str) -> bool:
    try:
        store.get(node)
    except ConfigError:
        return False
    return True

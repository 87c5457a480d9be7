"""A model folder under another chat template: the same weights, another contract."""

import json
import os
import shutil
from pathlib import Path

from posttrain.chat import CONTRACT_FILE, ChatContract
from posttrain.config.files import atomic_directory, check_replaceable, write_json
from posttrain.errors import ConfigError
from posttrain.models.loading import TOKENIZER_FILES, find_model
from posttrain.models.sources import PROVENANCE_FILE

_WRITTEN_ANEW = {*TOKENIZER_FILES, CONTRACT_FILE, PROVENANCE_FILE}


def with_chat_template(model: str | Path, template: str, out: str | Path) -> Path:
    """Write ``out``: the weights and configuration of ``model`` (linked where the file system can) under the Jinja text ``template``.

    Raises ContractError when the template does not fit the tokenizer, ConfigError when ``out`` holds anything but an earlier model: nothing
    is written then.
    """
    source, target = find_model(model), Path(out)
    check_replaceable(target, "config.json")
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target} is the model's own folder", hint="name a new folder")
    contract = ChatContract.load(source, template=template)
    with atomic_directory(target) as folder:
        for file in source.iterdir():
            if file.is_file() and file.name not in _WRITTEN_ANEW:
                _link(file, folder / file.name)
        contract.save(folder)
        if (source / PROVENANCE_FILE).is_file():
            record = json.loads((source / PROVENANCE_FILE).read_text(encoding="utf-8"))
            del record["files"]  # hashes of the folder it came from
            write_json(folder / PROVENANCE_FILE, {**record, "contract": contract.hash})
    return target


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)

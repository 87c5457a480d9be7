"""A model folder under another chat template: the same weights, another contract."""

import json
import os
import shutil
from pathlib import Path

from posttrain.chat import CONTRACT_FILE, ChatContract
from posttrain.config.files import command_directory, write_json
from posttrain.models.loading import TOKENIZER_FILES, find_model
from posttrain.models.sources import PROVENANCE_FILE

_WRITTEN_ANEW = {*TOKENIZER_FILES, CONTRACT_FILE, PROVENANCE_FILE}


def with_chat_template(model: str | Path, template: str, out: str | Path) -> Path:
    """Write ``out``: the weights and configuration of ``model`` (linked where the file system can) under the Jinja text ``template``.

    Raises ContractError when the template does not fit the tokenizer, ConfigError when ``out`` holds anything this function did
    not write: nothing is written then.
    """
    source, target = find_model(model), Path(out)
    contract = ChatContract.load(source, template=template)
    with command_directory(target, "with_chat_template") as folder:
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

import errno
import os

import pytest

from posttrain.config.files import atomic_directory, write_json, write_text
from posttrain.errors import ConfigError, InfrastructureError


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InfrastructureError, match=r"no space left while writing .*a\.txt") as caught:
        write_text(path, "new")
    assert caught.value.exit_code == 3
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=rf"^{tmp_path} is a folder, a file is needed"):
        write_text(tmp_path, "x")


def test_nan_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"rate": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"

    def fail_halfway() -> None:
        with atomic_directory(target) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert os.listdir(tmp_path) == []
    with atomic_directory(target) as folder:
        (folder / "whole").write_text("1")
    with atomic_directory(target) as folder:
        (folder / "whole").write_text("2")
    assert (target / "whole").read_text() == "2"
    assert os.listdir(tmp_path) == ["model"]

import importlib.metadata
import subprocess
import sys

from posttrain.lineage import code_record, environment_record, source_hash


def test_environment_names_installed_versions_without_importing_them():
    script = (
        "import sys; from posttrain.lineage import environment_record as e; r = e()['libraries'];"
        "print(r['torch'], 'torch' in sys.modules or 'transformers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.split() == [importlib.metadata.version("torch"), "False"]
    assert environment_record() == environment_record()


def test_code_record_gives_the_commit_and_whether_tracked_files_changed(tmp_path):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert code_record(tmp_path)["commit"] is None
    git("init", "-q")
    (tmp_path / "f").write_text("1")
    git("add", "f")
    git("commit", "-q", "-m", "one")
    record = code_record(tmp_path)
    assert record == {"name": "code", "posttrain_sha256": source_hash(), "commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "f").write_text("2")
    assert code_record(tmp_path)["changed"] is True

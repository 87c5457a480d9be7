"""Building, opening, searching and verifying an index.

An index is a folder: ``manifest.json``, ``passages.db`` and what its backend adds. It is built aside and renamed, never changed afterwards,
and pinned by :attr:`Index.version`: a hash of all passages, the settings and the version of the library that built it.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from posttrain.config.files import atomic_directory
from posttrain.errors import CheckFailed, ConfigError, DataError
from posttrain.tools.retrieval.backend import Backend, Embed, OnProgress
from posttrain.tools.retrieval.backends import backend_class
from posttrain.tools.retrieval.manifest import MANIFEST, STORE, Manifest, changed_files, check_files, read_manifest, write_manifest
from posttrain.tools.retrieval.passages import Document, Hit, check_document
from posttrain.tools.retrieval.store import Filling, PassageStore

MAX_CHARS = 800
MAX_K = 1000
EVERY = 1000


def build_index(
    documents: Iterable[Document],
    path: str | Path | None,
    backend: str = "fts5",
    embed: Embed | None = None,
    *,
    max_chars: int = MAX_CHARS,
    on_progress: OnProgress = lambda phase, done: None,
) -> "Index":
    """Cut documents into passages and index them; documents are streamed, one in memory at a time.

    ``path``: the index's folder, replaced as a whole when it is an index already and left alone when the build fails or is killed;
    None keeps the index in memory. ``backend``: "fts5", "tantivy", "dense" or "hybrid" (fts5 and dense by reciprocal rank); the last two
    need ``embed``. ``max_chars``: the longest passage.
    Raises DataError for a document that cannot be indexed, naming it, and ConfigError for settings.
    """
    kind = backend_class(backend, embed)
    if path is None:
        store = PassageStore(None)
        manifest, opened = _fill(store, None, documents, (backend, kind), embed, max_chars, on_progress)
        return Index(None, manifest, store, opened)
    target = Path(path)
    if target.exists() and not (target / MANIFEST).is_file():
        raise ConfigError(f"{target} exists and is no index", hint="choose a new folder: building replaces the whole of it")
    with ExitStack() as held, atomic_directory(target) as folder:
        held.enter_context(_claimed(folder, target))  # until the folder has its name
        store = PassageStore(folder / STORE, create=True)
        try:
            manifest, _ = _fill(store, folder, documents, (backend, kind), embed, max_chars, on_progress)
        finally:
            store.close()
        write_manifest(folder, manifest)
    return open_index(target, embed=embed)


def _fill(
    store: PassageStore,
    folder: Path | None,
    documents: Iterable[Document],
    backend: tuple[str, type[Backend]],
    embed: Embed | None,
    max_chars: int,
    on_progress: OnProgress,
) -> tuple[Manifest, Backend]:
    filling = Filling(store, max_chars)
    store.execute("BEGIN")
    for document in documents:
        filling.add(document)
        if filling.num_documents % EVERY == 0:
            on_progress("read", filling.num_passages)
    store.execute("COMMIT")
    if not filling.num_passages:
        raise DataError(f"nothing to index: {filling.num_documents} documents, no text in them", hint="give documents with text")
    on_progress("read", filling.num_passages)
    name, kind = backend
    opened = kind.build(store, folder, embed, on_progress)
    manifest = Manifest(
        backend=name,
        backend_version=kind.version,
        settings={"max_chars": max_chars} | kind.settings() | opened.made(),
        content=store.content_hash(),
        num_documents=filling.num_documents,
        tenants=tuple(filling.tenants.items()),
    )
    return manifest, opened


@contextmanager
def _claimed(folder: Path, target: Path) -> Iterator[None]:
    """Mark a folder as being built, and remove what killed builds of the same index left beside it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        left = re.compile(re.escape(f".{target.name}.") + r"\w{8}")
        for other in target.parent.iterdir():
            if other != folder and left.fullmatch(other.name) and other.is_dir() and _is_abandoned(other):
                shutil.rmtree(other, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


def _is_abandoned(folder: Path) -> bool:
    """A running build holds a lock on its folder, from the moment after it made its store."""
    if not (folder / STORE).exists():
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def open_index(path: str | Path, expected_version: str | None = None, *, embed: Embed | None = None) -> "Index":
    """Open an index for searching. ``embed``: for "dense" and "hybrid", the callable it was built with.

    Raises DataError when it is no index, damaged, or changed since it was built (as far as sizes and file headers show; see
    :meth:`Index.verify`), CheckFailed when it is not ``expected_version``.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if expected_version is not None and manifest.version != expected_version:
        raise CheckFailed(
            f"{folder}: the index is {manifest.version}, expected {expected_version}",
            hint="open the index that was pinned, or evaluate anew with this one and pin it",
        )
    check_files(folder)
    kind = backend_class(manifest.backend, embed)
    store = PassageStore(folder / STORE)
    try:
        return Index(folder, manifest, store, kind.open(store, folder, embed))
    except BaseException:
        store.close()
        raise


def verify_index(
    path: str | Path, expected_version: str | None = None, documents: Iterable[Document] | None = None
) -> tuple[str, list[str]]:
    """As :meth:`Index.verify`, also for an index too damaged to be opened: (its version, problems)."""
    folder = Path(path)
    manifest = read_manifest(folder)
    problems = [] if expected_version in (None, manifest.version) else [f"the version is {manifest.version}, expected {expected_version}"]
    if not (folder / STORE).is_file():
        return manifest.version, [*problems, *changed_files(folder)]
    store = PassageStore(folder / STORE)
    try:
        return manifest.version, problems + _problems(folder, manifest, store, documents)
    finally:
        store.close()


class Index:
    """An opened index; safe to share between threads, never changes. Close it, or use it in a ``with`` block."""

    def __init__(self, path: Path | None, manifest: Manifest, store: PassageStore, backend: Backend) -> None:
        """Use :func:`build_index` or :func:`open_index`."""
        self.path = path
        self.manifest = manifest
        self._store = store
        self._backend = backend
        self._tenants = [name for name, _ in manifest.tenants]
        self._scopes = {name: scope for scope, (name, count) in enumerate(manifest.tenants) if count}

    @property
    def version(self) -> str:
        """``sha256:...`` of passages, settings and library version."""
        return self.manifest.version

    def search(self, query: str, k: int = 5, *, tenant: str | None = None) -> list[Hit]:
        """The best ``k`` passages (1 to 1,000), best first: of those for all, and of ``tenant``'s own when named; never another tenant's.

        Any text is a query: its words are searched for, nothing in it is syntax. A query without words finds nothing.
        """
        if not 1 <= k <= MAX_K:
            raise ConfigError(f"a search for {k} passages", hint=f"ask for 1 or more, at most {MAX_K:,}")
        scopes = sorted({self._scopes[name] for name in (None, tenant) if name in self._scopes})
        found = self._backend.search(query, k, scopes)
        passages = self._store.passages([number for number, _ in found], self._tenants)
        return [Hit(passage, score) for passage, (_, score) in zip(passages, found, strict=True)]

    def verify(self, documents: Iterable[Document] | None = None) -> list[str]:
        """Read everything and compute the version anew; one sentence for each thing that is not as it was built.

        ``documents``: also compare with these, the sources as they are now: changed, new and missing ones are named.
        """
        return _problems(self.path, self.manifest, self._store, documents)

    def close(self) -> None:
        """Let the files go."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _problems(path: Path | None, manifest: Manifest, store: PassageStore, documents: Iterable[Document] | None) -> list[str]:
    problems = changed_files(path) if path else []
    try:
        content = store.content_hash()
        known = {row[0]: row[1] for batch in store.rows("SELECT id, sha256 FROM documents") for row in batch}
    except DataError as error:
        return [*problems, error.message]
    if content != manifest.content:
        problems.append(f"the passages hash to {content[:12]}, built with {manifest.content[:12]}")
    for number, document in enumerate(documents if documents is not None else (), start=1):
        check_document(document, f"document {number}")
        built_from = known.pop(document.id, None)
        if built_from is None:
            problems.append(f"document '{document.id}' is not in the index")
        elif built_from != document.sha256:
            problems.append(f"document '{document.id}' has changed since the index was built")
    gone = sorted(known) if documents is not None else []
    return problems + [f"document '{name}' of the index is not among the sources" for name in gone]

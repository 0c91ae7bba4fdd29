"""Tars in a store: fsspec's memory stands for one."""

import json
import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from tests.data.pictures import SPEC, encoded, letters, picture, tar
from tests.image_runs import config, finetune
from tracerft.api import make_ready
from tracerft.data import remote
from tracerft.data.manifest import read_manifest
from tracerft.data.pairs import ImagePairs
from tracerft.data.remote import tar_urls
from tracerft.errors import DataError, MissingExtraError

PATTERN = "memory://bucket/s-{0..2}.tar"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A bucket with three tars, and the same as files."""
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for number in range(3):
        members = []
        for i in range(4):
            place = f"{number}{i}"
            image = encoded(picture(300, 200, seed=10 * number + i))  # large enough that a block does not hold a tar
            members += [(f"{place}.png", image), (f"{place}.json", json.dumps({"label": f"kind {i % 2}"}).encode())]
        path = tar(tmp_path / f"s-{number}.tar", members)
        memory.pipe_file(f"/bucket/s-{number}.tar", path.read_bytes())
    yield memory
    memory.store.clear()


def counted(monkeypatch, change=lambda data: data):
    """Every range that is asked for."""
    asked = []
    plain = fsspec.get_filesystem_class("memory").cat_file

    def cat_file(self, path, start=None, end=None, **rest):
        asked.append((path, start, end))
        return change(plain(self, path, start=start, end=end, **rest))

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", cat_file)
    return asked


def test_what_is_read_is_what_the_files_hold(store, tmp_path):
    """Names, labels, images and the hash, by threads too."""
    found, files = read_manifest(PATTERN), read_manifest(tmp_path)
    assert found.sha256 == files.sha256
    assert [s.name for s in found.samples][:2] == ["s-0.tar/00.png", "s-0.tar/01.png"]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(found.read, list(range(12)) * 4))
    assert read == [files.read(i) for i in range(12)] * 4


def test_images_are_read_by_their_ranges_and_headers_by_blocks(store, monkeypatch):
    """An image is one request of its bytes; an index asks for no byte twice and for whole blocks."""
    asked = counted(monkeypatch)
    monkeypatch.setattr(remote, "_BLOCK", 64 << 10)
    manifest = read_manifest(PATTERN)
    sizes = {f"/bucket/s-{n}.tar": store.size(f"/bucket/s-{n}.tar") for n in range(3)}
    assert max(sizes.values()) > 5 * (64 << 10)
    for name, size in sizes.items():
        of = [(start, end) for path, start, end in asked if path == name]
        assert sum(end - start for start, end in of) <= size + (64 << 10)
        assert all(end - start == 64 << 10 or end == size for start, end in of)
    del asked[:]
    data = manifest.read(5)
    offset = store.cat_file("/bucket/s-1.tar").find(data)
    assert asked[0] == ("/bucket/s-1.tar", offset, offset + len(data))


def test_a_run_trains_on_a_store(store, tmp_path):
    """As on the files, to the bit; a store that tells no version has none in the hash."""
    far, near = (finetune(data, tmp_path / name) for data, name in ((PATTERN, "far"), (tmp_path, "near")))
    assert far.results == near.results
    assert read_manifest(PATTERN).tags == ()


def test_the_version_of_an_object_is_part_of_the_hash(store, monkeypatch):
    """Content of the same size under another ETag is another data set, and so a run on it does not go on."""
    plain = fsspec.get_filesystem_class("memory").info
    tag = {"ETag": "one"}
    monkeypatch.setattr(
        fsspec.get_filesystem_class("memory"), "info", lambda self, path, **rest: plain(self, path, **rest) | tag
    )
    first = read_manifest(PATTERN)
    assert first.tags == ("one",) * 3
    before = make_ready(config(PATTERN)).plan.fingerprint["data_sha256"]
    assert read_manifest(PATTERN).sha256 == first.sha256
    tag["ETag"] = "two"
    assert read_manifest(PATTERN).sha256 != first.sha256
    assert make_ready(config(PATTERN)).plan.fingerprint["data_sha256"] != before


def test_what_may_pass_is_asked_for_again(store, monkeypatch):
    """Two failures are waited out, a third is one line; a file that is gone is not asked for twice."""
    manifest = read_manifest(PATTERN)
    left = [TimeoutError("slow"), OSError("reset")]

    def fail(data):
        if left:
            raise left.pop()
        return data

    asked = counted(monkeypatch, fail)
    assert manifest.read(0)
    assert len(asked) == 3
    left.extend([OSError("reset")] * 3)
    with pytest.raises(DataError, match=r"^s-0\.tar/00\.png: cannot be read from the store \(OSError: reset\)"):
        manifest.read(0)
    store.rm_file("/bucket/s-0.tar")
    del asked[:]
    with pytest.raises(DataError, match=r"^s-0\.tar/00\.png: no such object in the store"):
        manifest.read(0)
    assert len(asked) == 1


def test_an_object_that_shrank_is_named(store):
    """Instead of half an image."""
    manifest = read_manifest(PATTERN)
    store.pipe_file("/bucket/s-1.tar", store.cat_file("/bucket/s-1.tar")[:2000])
    with pytest.raises(DataError, match=r"^s-1\.tar/10\.png: \d+ bytes expected, \d+ came"):
        manifest.read(4)


def _in_child(manifest, queue):
    queue.put(len(manifest.read(3)))


def test_a_forked_process_reads(store):
    """Data loaders fork."""
    manifest = read_manifest(PATTERN)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(manifest, queue))
    child.start()
    assert queue.get(timeout=60) == len(manifest.read(3))
    child.join(60)


def test_braces_count_as_wide_as_they_are_written():
    """One after the other, the last the fastest; without braces a URL is itself."""
    assert tar_urls("memory://b/{08..11}.tar") == [f"memory://b/{n}.tar" for n in ("08", "09", "10", "11")]
    assert tar_urls("memory://b/{0..1}/x-{7..8}.tar") == [f"memory://b/{a}/x-{b}.tar" for a in "01" for b in "78"]
    assert tar_urls("memory://b/x.tar") == ["memory://b/x.tar"]


def test_names_start_where_the_urls_part(store, tmp_path):
    """Folders in braces stay in the name, or two samples would have one."""
    data = (tmp_path / "s-0.tar").read_bytes()
    for number in (10, 11):
        store.pipe_file(f"/bucket/{number}/x.tar", data)
    manifest = read_manifest("memory://bucket/{10..11}/x.tar")
    assert [s.name for s in manifest.samples][::4] == ["10/x.tar/00.png", "11/x.tar/00.png"]


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("file:///etc/x.tar", r"expected a tar in a store \(s3, .*\), such as s3://bucket"),
        ("local://x.tar", r"expected a tar in a store"),
        ("pipe://cat x.tar", r"expected a tar in a store"),
        ("https://host/x.tar", r"expected a tar in a store"),
        ("hff://b/x.tar", r"did you mean 'hf'"),
        ("simplecache::memory://bucket/s-0.tar", r"expected a tar in a store"),
        ("memory://x::file:///etc/x.tar", r"expected a tar in a store"),
        ("memory://bucket/s-0.tar.gz", r"must end in \.tar"),
        ("memory://bucket/", r"must end in \.tar"),
        ("memory://bucket/s-{3..1}.tar", r"\{3\.\.1\} must go up and name at most 100,000"),
        ("memory://bucket/s-{0..999999999999}.tar", r"must go up and name at most 100,000"),
        ("memory://bucket/{0..999}/s-{0..999}.tar", r"names 1,000,000 tars, the limit is 100,000"),
        ("memory://bucket/s-{0..3}.tar", r"s-3\.tar: no such object in the store"),
    ],
)
def test_each_bad_url_is_one_line(url, line, store):
    """And none leads to a file here or starts a program."""
    with pytest.raises(DataError, match=line) as caught:
        read_manifest(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError("Forbidden"), r"the store refuses it \(PermissionError: Forbidden\); give it credentials"),
        (RuntimeError("Unable to locate credentials"), r"the store refuses it \(RuntimeError: Unable to locate"),
        (ValueError("odd\nanswer"), r"cannot be read from the store \(ValueError: odd\\nanswer\)"),
    ],
)
def test_what_a_store_says_is_one_line(error, line, store, monkeypatch):
    """Refused, without credentials, or of a type of its own."""

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "info", refuse)
    with pytest.raises(DataError, match=r"^memory://bucket/s-0\.tar: " + line) as caught:
        read_manifest(PATTERN)
    assert "\n" not in str(caught.value)


def test_a_store_without_its_package_says_which(monkeypatch):
    """Before anything is asked for."""
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(MissingExtraError, match=r"^abfs://c/x\.tar: needs the package adlfs; run `pip install adlfs`"):
        read_manifest("abfs://c/x.tar")


def test_a_damaged_object_is_named(store):
    """As a damaged file is."""
    store.pipe_file("/bucket/s-1.tar", store.cat_file("/bucket/s-1.tar")[:3000])
    with pytest.raises(DataError, match=r"^memory://bucket/s-1\.tar: truncated inside 10\.png"):
        read_manifest(PATTERN)
    store.pipe_file("/bucket/s-1.tar", b"\x1f\x8b" + b"x" * 600)
    with pytest.raises(DataError, match=r"it is compressed"):
        read_manifest(PATTERN)


def test_batches_are_those_of_the_files(store, tmp_path):
    """To the bit."""
    far, near = (
        ImagePairs(read_manifest(data), SPEC, letters, templates=("a {}",)).batch([3, 9, 0], 1)
        for data in (PATTERN, tmp_path)
    )
    assert far.images.equal(near.images)
    assert far.tokens.equal(near.tokens)

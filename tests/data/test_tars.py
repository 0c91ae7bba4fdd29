"""Many tars: indexed at once, shared out over ranks, in one order with one error."""

import json
import tarfile
import threading
import time
import tracemalloc

import pytest

from tests.data.pictures import encoded, picture, tar
from tests.training.ranks import run_ranks
from tracerft.data import tars
from tracerft.data.manifest import read_manifest
from tracerft.data.pairs import caption_table
from tracerft.data.tar_index import index_tar
from tracerft.errors import DataError, TracerftError


def shards(folder, count=7, each=3):
    """``count`` tars of ``each`` captioned images, and one sample without an image in the last."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        members = []
        for i in range(each):
            place = f"{number:02}-{i}"
            note = json.dumps({"text": [f"picture {place}", "ä\ud800"], "label": i}).encode()
            members += [(f"{place}.png", encoded(picture(seed=10 * number + i))), (f"{place}.json", note)]
        tar(folder / f"s-{number}.tar", [*members, *([("lone.txt", b"x")] if number == count - 1 else [])])
    return folder


def facts(manifest):
    """All that a manifest says, and the images."""
    images = [manifest.read(i) for i in range(len(manifest))]
    return [(s.name, s.size, s.captions, s.label) for s in manifest.samples], manifest.warnings, images


def one_by_one(folder, count=7, each=3):
    """The same by another hand: tarfile's own reading of each tar in turn."""
    found = []
    for number in range(count):
        with tarfile.open(folder / f"s-{number}.tar") as of:
            for member in of.getmembers():
                if member.name.endswith(".png"):
                    note = json.loads(of.extractfile(member.name.replace("png", "json")).read())
                    data = of.extractfile(member).read()
                    found.append((f"s-{number}.tar/{member.name}", note["text"][0], note["label"], data))
    return found


def test_many_tars_are_indexed_at_once_and_come_out_in_order(tmp_path, monkeypatch):
    """Four at a time, the first ones slowest; names, captions, labels and bytes are those tarfile finds one by one."""
    shards(tmp_path)
    busy, most, lock = [], [], threading.Lock()

    def slow(place):
        with lock:
            busy.append(place)
            most.append(len(busy))
        time.sleep(0.02 * (7 - int(place[-5])))
        try:
            return index_tar(place)
        finally:
            with lock:
                busy.remove(place)

    monkeypatch.setattr(tars, "index_tar", slow)
    monkeypatch.setattr(tars, "default_threads", lambda: 4)
    manifest = read_manifest(tmp_path)
    assert max(most) == 4
    found = [(s.name, s.captions[0], s.label, manifest.read(i)) for i, s in enumerate(manifest.samples)]
    assert found == one_by_one(tmp_path)
    assert manifest.warnings[0] == "1 samples without an image ignored"
    monkeypatch.setattr(tars, "default_threads", lambda: 1)
    assert facts(read_manifest(tmp_path)) == facts(manifest)
    assert max(most[-7:]) == 1
    assert read_manifest(tmp_path).sha256 == manifest.sha256


def test_of_several_bad_tars_the_first_is_named(tmp_path, monkeypatch):
    """Whichever is noticed first."""
    shards(tmp_path)
    for number in (2, 5):
        (tmp_path / f"s-{number}.tar").write_bytes(b"x" * 2000)

    def slow(place):
        time.sleep(0.2 * ("s-2" in place))
        return index_tar(place)

    monkeypatch.setattr(tars, "index_tar", slow)
    monkeypatch.setattr(tars, "default_threads", lambda: 7)
    with pytest.raises(DataError, match=r"s-2\.tar: not a whole tar"):
        read_manifest(tmp_path)


def test_a_sample_takes_less_than_650_bytes(tmp_path):
    """With its own caption of 60 letters and the table of captions, counted; where its image lies takes 24 of them."""
    members = [(f"{i:09}.{end}", f"{i:060}".encode()) for i in range(1000) for end in ("png", "txt")]
    tar(tmp_path / "s.tar", members)
    read_manifest(tmp_path)  # what is imported and cached on the way is not counted
    tracemalloc.start()
    try:
        manifest = read_manifest(tmp_path)
        table = caption_table(manifest, None)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(table[0]) == 1000
    assert kept < 650 * 1000
    assert manifest.reader.places.nbytes == 24 * 1000


def shared(world, folder):
    """A rank's part: what it indexes itself, what it has in the end, what it says of bad tars and of others."""
    asked, index = [], tars.index_tar
    tars.index_tar = lambda place: asked.append(place[-7:]) or index(place)
    manifest = read_manifest(folder / "good", world=world)
    said = {"asked": sorted(asked), "sha256": manifest.sha256, "warnings": manifest.warnings}
    said["last"] = manifest.read(len(manifest) - 1).hex()
    for name, data in (("bad", folder / "bad"), ("other", folder / ("good" if world.rank else "bad"))):
        try:
            read_manifest(data, world=world)
        except TracerftError as error:
            said[name] = str(error)
    (folder / f"said-{world.rank}.json").write_text(json.dumps(said))


def test_ranks_share_the_tars_and_end_with_one_index(tmp_path):
    """Each reads every second one; a bad tar of one rank is one line on both; ranks that find different tars stop."""
    shards(tmp_path / "good")
    shards(tmp_path / "bad", 4)
    (tmp_path / "bad/s-1.tar").write_bytes(b"x" * 2000)
    run_ranks(shared, 2, tmp_path, limit=120)
    first, second = (json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in range(2))
    assert first.pop("asked") == [f"s-{number}.tar" for number in (0, 2, 4, 6)]
    assert second.pop("asked")[2] == "s-5.tar"
    assert first == second
    alone = read_manifest(tmp_path / "good")
    assert first["sha256"] == alone.sha256
    assert first["last"] == alone.read(20).hex()
    assert first["warnings"] == list(alone.warnings)
    assert "s-1.tar: not a whole tar" in first["bad"]
    assert first["other"].startswith("rank 1 finds other tars than rank 0 (7 there, 4 on rank 0)")

"""iWildCam and FMoW on tiny tables written here."""

import pytest

from tracerft.data.benchmarks import build_benchmark
from tracerft.errors import ArgumentError, DataError


@pytest.fixture
def camera(tmp_path):
    """Three classes, names out of order, a category without a label."""
    (tmp_path / "metadata.csv").write_text(
        "split,image_id,filename,y\ntrain,a,a.jpg,0\ntest,b,b.jpg,2\nid_test,c,c.jpg,1\ntest,d,d.jpg,0\n"
    )
    (tmp_path / "labels.csv").write_text(
        "y,category_id,name,english\n1,5,canis lupus,Gray Wolf\n0,0,empty,empty\n99999,9,x,none\n2,7,puma,Puma\n"
    )
    return tmp_path


def test_iwildcam_reads_split_labels_and_names(camera):
    """New cameras by default, lower-case English names in label order, macro-F1."""
    split = build_benchmark("iwildcam", camera)
    assert [p.relative_to(camera).as_posix() for p in split.paths] == ["train/b.jpg", "train/d.jpg"]
    assert split.labels.tolist() == [2, 0]
    assert split.class_names == split.head_classes == ("empty", "gray wolf", "puma")
    assert split.metric == "macro_f1"
    assert build_benchmark("iwildcam", camera, "id_test").labels.tolist() == [1]


def test_iwildcam_mistakes(camera):
    """Unknown split, empty split, label without name, no names."""
    with pytest.raises(ArgumentError, match="did you mean 'id_test'"):
        build_benchmark("iwildcam", camera, "idtest")
    with pytest.raises(DataError, match="no image of the split 'val'"):
        build_benchmark("iwildcam", camera, "val")
    (camera / "labels.csv").write_text("y,english\n0,empty\n")
    with pytest.raises(DataError, match="label 2 has no name"):
        build_benchmark("iwildcam", camera)
    (camera / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"cannot read .*categories.csv"):
        build_benchmark("iwildcam", camera)


@pytest.fixture
def satellite(tmp_path):
    """Every kind of row: years in and out of distribution, a sequestered one, an unknown country."""
    rows = [
        ("train", "zoo", "2010-05-01T00:00:00Z", "DEU"),  # 0 train
        ("seq", "zoo", "2016-05-01T00:00:00Z", "DEU"),  # 1 nowhere
        ("test", "airport", "2016-01-01T00:00:00Z", "CHN"),  # 2 test
        ("test", "zoo", "2012-12-31T23:59:59Z", "DEU"),  # 3 id_test
        ("test", "zoo", "2014-01-01T00:00:00Z", "DEU"),  # 4 nowhere: neither time's
        ("val", "dam", "2013-01-01T00:00:00Z", "DEU"),  # 5 val
        ("test", "dam", "2017-03-01T00:00:00Z", "XXX"),  # 6 test, region Other
        ("train", "dam", "2016-03-01T00:00:00Z", "DEU"),  # 7 nowhere
    ]
    lines = ["split,category,timestamp,country_code", *[",".join(row) for row in rows]]
    (tmp_path / "rgb_metadata.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "country_code_mapping.csv").write_text("name,alpha-3,region\nGermany,DEU,Europe\nChina,CHN,Asia\n")
    return tmp_path


def test_fmow_splits_by_year_and_numbers_by_row(satellite):
    """Files are numbered in the whole table; regions come from country codes."""
    split = build_benchmark("fmow", satellite)
    assert [p.name for p in split.paths] == ["rgb_img_2.png", "rgb_img_6.png"]
    assert split.class_names == ("airport", "dam", "zoo")
    assert split.labels.tolist() == [0, 1]
    assert split.groups == ("Asia", "Other")
    assert split.ignored_groups == ("Other",)
    assert split.metric == "worst_group"
    inside = {name: build_benchmark("fmow", satellite, name) for name in ("train", "id_test", "val")}
    assert {k: [p.name for p in s.paths] for k, s in inside.items()} == {
        "train": ["rgb_img_0.png"],
        "id_test": ["rgb_img_3.png"],
        "val": ["rgb_img_5.png"],
    }
    assert inside["id_test"].metric == "top1"


def test_fmow_mistakes(satellite):
    """A column that is not there, and a timestamp that is none."""
    (satellite / "country_code_mapping.csv").write_text("name,code\n")
    with pytest.raises(DataError, match="no column alpha-3, region"):
        build_benchmark("fmow", satellite)
    (satellite / "country_code_mapping.csv").write_text("alpha-3,region\n")
    (satellite / "rgb_metadata.csv").write_text("split,category,timestamp,country_code\ntest,zoo,soon,DEU\n")
    with pytest.raises(DataError, match="timestamps must begin with a year; got 'soon'"):
        build_benchmark("fmow", satellite)

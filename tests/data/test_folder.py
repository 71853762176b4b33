"""Which files of a folder are images, and how they are split; a folder that is no data set gets one line."""

from pathlib import Path

import pytest
from photos import config, folder, photo

from reals import files
from reals.data.folder import SPLITS, list_folder
from reals.data.prepare import check_source, prepare
from reals.experiment.reading import ConfigError


def test_the_split_is_fixed_and_a_folder_may_bring_its_own(tmp_path):
    a = list_folder(config(folder(tmp_path / "in")), 0)
    assert a.paths == list_folder(config(tmp_path / "in"), 0).paths
    assert a.paths != list_folder(config(tmp_path / "in"), 1).paths
    folder(tmp_path / "own" / "train", 4)
    folder(tmp_path / "own" / "val", 2)
    own = list_folder(config(tmp_path / "own", held_out=None), 0)
    assert {s: len(p) for s, p in own.paths.items()} == {"train": 8, "held_out": 4}


def test_few_images_per_class(tmp_path):
    assert len(list_folder(config(folder(tmp_path), images_per_class=4), 0).paths["train"]) == 4


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda r: None, "is not a folder"),
        (lambda r: r.mkdir(), "is empty"),
        (lambda r: photo(r / "a.png"), "holds images but no class folders"),
        (lambda r: folder(r, classes=("ant",)), "has one class"),
        (lambda r: (folder(r), (r / "cow").mkdir()), "holds no image"),
        (lambda r: (folder(r / "train"), folder(r / "val", classes=("ant", "dog"))), "class 'dog', which"),
        (lambda r: (folder(r), (r / "cow").symlink_to("/nowhere/cow")), "in/cow is a link that leads nowhere; mount or mend"),
        (lambda r: (folder(r / "train"), (r / "val").symlink_to("val")), "in/val is a link that leads nowhere"),
        (lambda r: (folder(r), (r / "cow").symlink_to("ant")), "in/ant and .*in/cow are one folder"),
        (lambda r: (folder(r / "train"), (r / "val").symlink_to("train")), "train/ant and .*val/ant are one folder"),
        (
            lambda r: (folder(r / "train"), photo(r / "val/ant/0.png").rename(r / "val/ant/0.heic")),
            r"leaves 0 images for the held_out split, .*\(left out: 1 file of no image format \(\.heic\)\)",
        ),
        (
            lambda r: (photo(r / "train/cat.0.png"), photo(r / "test1/1.png")),
            "train holds images but no .*'test1' beside it is no class",
        ),
        (lambda r: (folder(r / "train"), (r / "val").mkdir()), "val is empty; put its images in folders"),
        (
            lambda r: (folder(r / "train"), photo(r / "val/0.png").rename(r / "val/0.heic")),
            r"val holds no class folders; .*\(\.heic\)",
        ),
    ],
)
def test_a_folder_that_is_no_data_set_gets_one_line(tmp_path, make, says):
    make(tmp_path / "in")
    with pytest.raises(ConfigError, match=says) as caught:
        check_source(config(tmp_path / "in"), 0)
    assert "\n" not in str(caught.value)


def test_counts_that_differ_from_the_expected(tmp_path):
    with pytest.raises(ConfigError, match="has 2 classes, 1000 expected"):
        check_source(config(folder(tmp_path), expected_classes=1000), 0)
    with pytest.raises(ConfigError, match="has 6 images, 7 expected"):
        check_source(config(tmp_path, expected_images=7), 0)


def listed(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_listed_classes_are_taken_and_no_others(tmp_path):
    root = tmp_path / "in"
    folder(root / "train", 4, ("ant", "bee", "cow", "caf\u00e9"))
    folder(root / "val", 2, ("ant", "bee", "cow", "dog", "cafe\u0301"))
    wanted = listed(tmp_path / "list.txt", "# three", "cow", "", "ant", "cafe\u0301")
    listing = list_folder(config(root, held_out=None, class_list=wanted, expected_classes=3, expected_images=12), 0)
    assert listing.classes == ["ant", "caf\u00e9", "cow"]
    assert {Path(p).parts[1] for p in listing.paths["held_out"]} == {"ant", "cafe\u0301", "cow"}
    assert listing.labels["train"].tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["n01558993", "n0169233"], r"list.txt line 2: .*train has no class 'n0169233'; did you mean 'n01692333'\?"),
        (["n01558993", "n01692333", "n99", "n98"], r"line 3: .*no class 'n99' \(2 of the 4 listed are missing\); add its folder"),
        (["n01558993", "n02000000"], r"line 2: .*val has no class 'n02000000'; add its folder, or take it off the list"),
        (["n01558993", "n01692333", "n01558993"], r"list.txt line 3: 'n01558993' stands in line 1 already"),
        (["# nothing"], "list.txt: no name in it"),
    ],
)
def test_a_class_that_is_missing_is_named(tmp_path, lines, says):
    root = tmp_path / "in"
    folder(root / "train", 4, ("n01558993", "n01692333", "n02000000"))
    folder(root / "val", 4, ("n01558993", "n01692333"))
    with pytest.raises(ConfigError, match=says) as caught:
        list_folder(config(root, held_out=None, class_list=listed(tmp_path / "list.txt", *lines)), 0)
    assert "\n" not in str(caught.value)


def test_images_of_one_s_own_are_taken_whole_where_no_class_is_listed(tmp_path):
    """What `data=` means at a scale with a list: of a folder that has its classes these, of any other one all."""
    root, wanted = folder(tmp_path / "in", classes=("ant", "bee", "cow")), tmp_path / "list.txt"
    own = lambda *names: list_folder(config(root, class_list=listed(wanted, *names), unlisted="all"), 0).classes  # noqa: E731
    assert own("n01558993", "n01692333") == ["ant", "bee", "cow"] and own("ant", "cow") == ["ant", "cow"]
    with pytest.raises(ConfigError, match="has no class 'n01692333'"):
        own("ant", "n01692333")
    with pytest.raises(ConfigError, match="has no class 'n01558993'"):
        list_folder(config(root, class_list=listed(wanted, "n01558993")), 0)


def test_a_folder_as_people_have_them(tmp_path):
    """Odd names, depths, links and litter: what is an image is found once, and nothing else."""
    root = folder(tmp_path / "in", per_class=3)
    wanted = {f"{name}/{i}.png" for name in ("ant", "bee") for i in range(3)}
    wanted |= {
        "ant/UPPER.JPG",
        "ant/a b\u00e9 \u732b.jpeg",
        "ant/deep/er/x.png",
        "bee/png-in-truth.jpg",
        "ant/link.png",
        "ant/linked/y.png",
    }
    photo(root / "ant/UPPER.JPG")
    photo(root / "ant/a b\u00e9 \u732b.jpeg")
    photo(root / "ant/deep/er/x.png")
    photo(tmp_path / "z.png").rename(root / "bee/png-in-truth.jpg")
    (root / "ant/link.png").symlink_to(photo(tmp_path / "elsewhere/1.png"))
    photo(tmp_path / "outside/y.png")
    (root / "ant/linked").symlink_to(tmp_path / "outside")
    (root / "ant/deep/again").symlink_to(root / "ant")  # a circle
    for litter in (".DS_Store", "ant/.DS_Store", "ant/Thumbs.db", "ant/._0.png", "ant/notes.txt"):
        (root / litter).write_bytes(b"x")
    photo(root / "__MACOSX/ant/._0.png")
    photo(root / "__MACOSX/ant/0.png")
    photo(root / "ant/__MACOSX/0.png")
    photo(root / "ant/.ipynb_checkpoints/0.png")
    listing = list_folder(config(root), 0)
    assert listing.classes == ["ant", "bee"]
    assert sorted(p for s in SPLITS for p in listing.paths[s]) == sorted(wanted)
    prepare(config(root), 0, tmp_path / "out")
    assert sum(files.opened(tmp_path / "out")["images"].values()) == len(wanted)
    assert listing.left_out is not None and "5 images hidden" in listing.left_out and ".txt" in listing.left_out


def test_a_flat_held_out_folder_is_told_from_an_empty_one(tmp_path):
    root = tmp_path / "in"
    folder(root / "train")
    photo(root / "val/0.png")
    with pytest.raises(
        ConfigError, match=r"val holds images but no class folders; put them in folders of the names that .*train has"
    ):
        list_folder(config(root, held_out=None), 0)


def test_class_names_in_two_unicode_forms_are_one_class(tmp_path):
    root, composed, decomposed = tmp_path / "in", "caf\u00e9", "cafe\u0301"
    for path in (f"train/{composed}", "train/tea", f"val/{decomposed}", "val/tea"):
        for i in range(4):
            photo(root / path / f"{i}.png")
    listing = list_folder(config(root, held_out=None), 0)
    assert listing.classes == [composed, "tea"]
    assert [Path(p).parts[:2] for p in listing.paths["held_out"][:4]] == [("val", decomposed)] * 4
    assert listing.labels["held_out"].tolist() == [0] * 4 + [1] * 4
    photo(root / "train" / decomposed / "0.png")
    with pytest.raises(ConfigError, match="twice, in two Unicode forms"):
        list_folder(config(root, held_out=None), 0)


def test_chunks_of_numbered_images_are_refused_as_classes(tmp_path):
    for i in range(0, 4000, 500):
        photo(tmp_path / f"in/{i // 1000:05d}/img{i:08d}.png")
    with pytest.raises(ConfigError, match="chunks of numbered images"):
        list_folder(config(tmp_path / "in"), 0)


def test_what_lies_beside_class_folders_is_counted(tmp_path):
    root = tmp_path / "in"
    folder(root / "train", classes=("ant", "bus", "train"))
    folder(root / "val", classes=("ant", "bus", "train"))
    for path in ("0.png", "train/1.png", "val/2.png", ".thumbnails/3.png", "train/@eaDir/ant/4.png", "train/._5.png"):
        photo(root / path)
    listing = list_folder(config(root, held_out=None), 0)
    assert listing.classes == ["ant", "bus", "train"] and len(listing.paths["train"]) == 18
    assert listing.left_out is not None and "3 images in no class folder" in listing.left_out
    assert "3 images hidden or left by a file manager (" in listing.left_out

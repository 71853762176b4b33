"""Image sources: every layout gives the same bytes in the same order; every broken one a line that says what to do."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reals.data import image_files
from reals.measure.sources.by_path import open_source


def images(n: int = 11, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size + 2, 3), dtype=np.uint8)


def read_all(source, batch: int = 4) -> np.ndarray:
    found = torch.cat(list(source.batches(0, len(source), batch)))
    assert found.dtype == torch.uint8 and found.shape[1] == 3
    return found.permute(0, 2, 3, 1).numpy()


def write(folder: Path, x: np.ndarray, classes: int = 0, suffix: str = ".png") -> Path:
    for i, image in enumerate(x):
        path = folder / (f"class{i % classes}" if classes else ".") / f"{i:03d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


def tarred(path: Path, files: dict[str, bytes]) -> Path:
    """A tar archive of these files, last first: an archive's own order is no order of images."""
    with tarfile.open(path, "w") as archive:
        for name, data in reversed(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def pngs(x: np.ndarray) -> list[bytes]:
    found = []
    for image in x:
        Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
        found.append(buffer.getvalue())
    return found


def layouts(tmp_path: Path, x: np.ndarray) -> dict[str, Path]:
    np.savez(tmp_path / "adm.npz", x, np.arange(len(x)))
    np.savez_compressed(tmp_path / "packed.npz", arr_0=x)
    np.savez(tmp_path / "list.npz", *x)
    np.savez(tmp_path / "batches.npz", x[:5], x[5:])
    np.save(tmp_path / "nhwc.npy", x)
    np.save(tmp_path / "nchw.npy", x.transpose(0, 3, 1, 2))
    (tmp_path / "shards").mkdir()
    for k, part in enumerate((x[:4], x[4:9], x[9:])):
        np.save(tmp_path / f"shards/shard_{k:03d}.npy", part.transpose(0, 3, 1, 2))
    write(tmp_path / "folder", x)
    (tmp_path / "folder/notes.txt").write_text("not an image")
    zipped(tmp_path / "folder", tmp_path / "zip.zip")
    named = {f"./{i}.png": data for i, data in enumerate(pngs(x))}
    tarred(tmp_path / "tar.tar", named)
    (tmp_path / "tars").mkdir()
    for k, part in enumerate((range(2), range(2, 9), range(9, 11))):  # 2 before 10, as of images
        tarred(tmp_path / f"tars/{(2, 9, 10)[k]}.tar", {f"{i - part[0]}.png": named[f"./{i}.png"] for i in part})
    names = [
        "adm.npz",
        "packed.npz",
        "list.npz",
        "batches.npz",
        "nhwc.npy",
        "nchw.npy",
        "shards",
        "folder",
        "zip.zip",
        "tar.tar",
        "tars",
    ]
    return {name: tmp_path / name for name in names}


def test_every_layout_gives_the_same_bytes_in_any_batches(tmp_path):
    x = images()
    for name, path in layouts(tmp_path, x).items():
        source = open_source(path)
        assert (len(source), source.size) == (11, (8, 10)), name
        for batch in (1, 4, 100):
            assert np.array_equal(read_all(source, batch), x), name
        assert np.array_equal(torch.cat(list(source.batches(3, 10, 4))).permute(0, 2, 3, 1), x[3:10]), name


def test_a_stored_npz_is_mapped_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", images(400, 62))
    source = open_source(tmp_path / "a.npz")
    import tracemalloc

    tracemalloc.start()
    assert len(list(source.batches(0, 8, 4))) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 62 * 64 * 3 / 10


def test_labels_come_from_arr_1_and_from_class_folders(tmp_path):
    x = images(6)
    np.savez(tmp_path / "a.npz", x, np.array([3, 1, 4, 1, 5, 9]))
    assert open_source(tmp_path / "a.npz").labels.tolist() == [3, 1, 4, 1, 5, 9]
    source = open_source(write(tmp_path / "by_class", x, classes=2))
    assert source.classes == ("class0", "class1") and source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(read_all(source), x[[0, 2, 4, 1, 3, 5]])
    assert open_source(write(tmp_path / "flat", x)).labels is None
    np.savez(tmp_path / "b.npz", x, np.arange(5))
    with pytest.raises(ValueError, match=r"arr_1 is int64 \(5,\), expected 6 integer"):
        open_source(tmp_path / "b.npz")


def test_declared_floats_become_the_bytes_of_their_convention(tmp_path):
    x = images()
    np.save(tmp_path / "unit.npy", (x / 255).astype(np.float32))
    assert np.array_equal(read_all(open_source(tmp_path / "unit.npy", "unit")), x)
    signed = np.linspace(-1, 1, 6 * 6 * 3, dtype=np.float32).reshape(1, 6, 6, 3)
    np.savez(tmp_path / "signed.npz", signed)
    expected = np.clip(127.5 * signed + 128, 0, 255).astype(np.uint8)
    assert np.array_equal(read_all(open_source(tmp_path / "signed.npz", "signed")), expected)
    with pytest.raises(ValueError, match=r"values from -1 to 1, expected \[0, 1\] with --range unit"):
        read_all(open_source(tmp_path / "signed.npz", "unit"))
    signed[0, 0, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", signed)
    with pytest.raises(ValueError, match="values from nan"):
        read_all(open_source(tmp_path / "nan.npz", "signed"))


@pytest.mark.parametrize(
    ("array", "value_range", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "bytes", "float32, expected uint8 .* say so with --range unit or --range signed"),
        (np.zeros((2, 8, 8, 3), np.int64), "bytes", "int64, expected uint8"),
        (np.zeros((2, 8, 8, 3), np.int32), "unit", "save the images as uint8"),
        (np.zeros((2, 3, 8, 8), np.uint8), "bytes", "channels first"),
        (np.zeros((2, 8, 8, 4), np.uint8), "bytes", r"shape \(2, 8, 8, 4\), expected \[N, H, W, 3\]"),
        (np.zeros((2, 8, 8), np.uint8), "bytes", "expected"),
        (np.zeros((0, 8, 8, 3), np.uint8), "bytes", "holds no image"),
        (np.array([{}], object), "bytes", "Python objects"),
        (np.zeros((2, 8, 8, 3), np.uint8), "0-255", "expected one of bytes, unit, signed"),
        (np.asfortranarray(images(2)), "bytes", "Fortran"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(tmp_path, array, value_range, message):
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(ValueError, match=message) as error:
        open_source(tmp_path / "a.npz", value_range)
    assert "\n" not in str(error.value)


def test_an_npy_whose_order_is_in_doubt_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"expected \[N, H, W, 3\] or \[N, 3, H, W\]"):
        open_source(tmp_path / "a.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_npz_is_refused(tmp_path, save, keep):
    save(tmp_path / "a.npz", images(20))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match="truncated"):
        open_source(tmp_path / "a.npz")


def test_damage_inside_a_compressed_npz_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images(50))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    (tmp_path / "a.npz").write_bytes(bytes(data))
    with pytest.raises(ValueError, match="damaged"):
        read_all(open_source(tmp_path / "a.npz"))


def test_a_truncated_npy_and_a_missing_shard_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", images(20))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        open_source(tmp_path / "a.npy")
    for k in (0, 2):
        np.save(tmp_path / f"shard_{k:03d}.npy", images(2).transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"no shard_001\.npy"):
        open_source(tmp_path)


def test_statistics_are_not_samples(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match="no arr_0; these are statistics, not images"):
        open_source(tmp_path / "a.npz")


def test_bad_folders_and_files_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("empty", "no image in this folder"),
        ("nowhere", "no such file or folder$"),
        ("{0..9}.tar", "give the folder of the archives"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(tmp_path / name)
    write(tmp_path / "mixed", images(2))
    Image.fromarray(images(1, 12)[0]).save(tmp_path / "mixed/zz.png")
    with pytest.raises(ValueError, match=r"zz\.png is 14x12, 000\.png is 10x8; all images must have one size"):
        open_source(tmp_path / "mixed")
    zipped(tmp_path / "mixed", tmp_path / "mixed.zip")
    with pytest.raises(ValueError, match=r"mixed\.zip: zz\.png is 14x12"):
        open_source(tmp_path / "mixed.zip")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"expected an \.npz"):
        open_source(tmp_path / "a.txt")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("readme.md", "x")
    with pytest.raises(ValueError, match="no image in this zip"):
        open_source(tmp_path / "none.zip")


def test_a_webdataset_s_labels_are_read_and_what_else_it_holds_is_counted(tmp_path):
    x = images(3)
    files = {f"{i:06d}.png": data for i, data in enumerate(pngs(x))}
    labelled = files | {f"{i:06d}.cls": f"{7 - i}\n".encode() for i in range(3)}
    source = open_source(
        tarred(
            tmp_path / "a.tar",
            labelled | {"000002.cls": b"\xef\xbb\xbf5\r\n", "000001.json": b"{}", "._000001.png": b"x", "at/.hidden.png": b"x"},
        )
    )
    assert source.labels.tolist() == [7, 6, 5] and source.classes is None and source.kind == "tar"
    (note,) = source.notes
    assert (
        note
        == "left out: 2 images hidden or left by a file manager (._000001.png, .hidden.png) and 1 file of no image format (.json)"
    )
    for other in ({"000001.cls": b"ant"}, {"000001.cls": b""}):
        assert open_source(tarred(tmp_path / "b.tar", labelled | other)).labels is None
    del labelled["000002.cls"]
    assert open_source(tarred(tmp_path / "b.tar", labelled)).labels is None
    by_folder = open_source(tarred(tmp_path / "c.tar", {f"class{i % 2}/{i}.png": data for i, data in enumerate(pngs(x))}))
    assert by_folder.classes == ("class0", "class1") and by_folder.labels.tolist() == [0, 0, 1]


def test_a_webdataset_s_keys_end_at_the_first_dot_in_either_case(tmp_path):
    """0.image.png and 0.cls are one sample; writers differ in the case of suffixes."""
    first, second = pngs(images(2))
    (tmp_path / "shards").mkdir()
    tarred(tmp_path / "shards/a.tar", {"0.image.png": first, "0.cls": b"7"})
    tarred(tmp_path / "shards/b.TAR", {"v1.0.PNG": second, "v1.0.CLS": b"3"})
    source = open_source(tmp_path / "shards")
    assert source.labels.tolist() == [7, 3] and source.notes == () and np.array_equal(read_all(source), images(2))


def test_shards_are_no_classes(tmp_path):
    """The folders inside of them are."""
    x = images(4)
    (tmp_path / "shards").mkdir()
    for k in range(2):
        tarred(tmp_path / f"shards/{k}.tar", {f"{k}{i}.png": data for i, data in enumerate(pngs(x[2 * k : 2 * k + 2]))})
    assert open_source(tmp_path / "shards").labels is None
    for k in range(2):
        tarred(tmp_path / f"shards/{k}.tar", {f"{'ab'[i]}/{k}.png": data for i, data in enumerate(pngs(x[2 * k : 2 * k + 2]))})
    source = open_source(tmp_path / "shards")
    assert source.classes == ("a", "b") and source.labels.tolist() == [0, 1, 0, 1]


def test_labels_that_no_array_holds_are_none(tmp_path):
    (data,) = pngs(images(1))
    assert open_source(tarred(tmp_path / "a.tar", {"0.png": data, "0.cls": b"9" * 30})).labels is None
    root = write(tmp_path / "in", images(1))
    (root / "dataset.json").write_text(json.dumps({"labels": [["000.png", 10**30]]}))
    assert open_source(root).labels is None


def packed(path: Path, files: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_is_read_as_it_unpacks(tmp_path):
    """A name that is there twice is one file, the last; ./ is no hidden folder; a .npy among images makes no .npz of them."""
    x = images(3)
    old, first, second = pngs(x)
    path = packed(tmp_path / "a.zip", [("./a/0.png", old), ("./a/0.png", first), ("./b//1.png", second), ("labels.npy", b"x")])
    source = open_source(path)
    assert np.array_equal(read_all(source), x[1:]) and source.classes == ("a", "b")
    assert source.notes == ("left out: 1 file of no image format (.npy)",)


def test_an_archive_of_a_folder_is_read_as_the_folder(tmp_path):
    """The one folder that holds all is no class; a dataset.json in it names images inside of it."""
    first, second = pngs(images(2))
    by_class = {"set/a/0.png": first, "set/b/0.png": second}
    numbered = {"set/00000/img00000999.png": first, "set/00001/img00001000.png": second}
    stated = {"set/dataset.json": json.dumps({"labels": [["00001/img00001000.png", 3], ["00000/img00000999.png", 7]]}).encode()}
    for make in (lambda files: packed(tmp_path / "a.zip", list(files.items())), lambda files: tarred(tmp_path / "a.tar", files)):
        source = open_source(make(by_class))
        assert source.classes == ("a", "b") and source.labels.tolist() == [0, 1]
        assert open_source(make(numbered)).labels is None
        source = open_source(make(numbered | stated))
        assert source.labels.tolist() == [7, 3] and source.notes == ()
    source = open_source(
        tarred(tmp_path / "b.tar", {name.removeprefix("set/"): data for name, data in (numbered | stated).items()})
    )
    assert source.labels.tolist() == [7, 3] and source.notes == ()


def test_names_of_windows_and_of_two_unicode_forms_are_class_folders(tmp_path):
    first, second = pngs(images(2))
    path = packed(tmp_path / "a.zip", [("b\\", b""), ("b\\1.png", second), ("a\\0.png", first), ("__MACOSX\\a\\0.png", first)])
    source = open_source(path)
    assert source.classes == ("a", "b") and np.array_equal(read_all(source), images(2))
    assert source.notes == ("left out: 1 image hidden or left by a file manager (__MACOSX)",)
    source = open_source(
        packed(tmp_path / "b.zip", [("caf\u00e9/0.png", first), ("cafe\u0301/1.png", second), ("tea/2.png", first)])
    )
    assert source.classes == ("caf\u00e9", "tea") and source.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_one_line_however_it_is_packed(tmp_path, method):
    data = bytearray(packed(tmp_path / "a.zip", [("0.png", pngs(images(1, 40))[0])], method).read_bytes())
    data[60:90] = bytes(30)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zip: 0\.png is damaged \(.*\); copy or make the archive again"):
        open_source(tmp_path / "a.zip")


def test_links_in_a_tar_are_the_files_they_lead_to(tmp_path):
    (data,) = pngs(images(1))
    for name, kind, to in (("b/1.png", tarfile.SYMTYPE, "../a/0.png"), ("c.png", tarfile.LNKTYPE, "a/0.png")):
        path = tarred(tmp_path / "a.tar", {"a/0.png": data})
        with tarfile.open(path, "a") as archive:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, to
            archive.addfile(link)
        assert np.array_equal(read_all(open_source(path)), images(1)[[0, 0]])
        link.linkname = "elsewhere.png"
        with tarfile.open(path, "a") as archive:
            archive.addfile(link)
        with pytest.raises(
            ValueError, match=rf"{name} is a link to elsewhere\.png, which is not in the archive; pack it with tar -h"
        ):
            open_source(path)


def test_a_tar_that_is_none_or_not_whole_gets_one_line(tmp_path):
    whole = tarred(tmp_path / "whole.tar", {f"{i}.png": data for i, data in enumerate(pngs(images(3)))}).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for data, says in (
        (b"", "not a whole tar archive"),
        (b"x" * 2000, "not a whole tar archive"),
        (whole[:700], "not a whole tar archive"),
        (whole[: end - 200], "not a whole tar archive"),
        (whole[:end], "cut short"),
        (whole[:end] + b"x" * 512 + whole, f"damaged at byte {end}"),
        (whole + whole, "more follows the archive's end.*tar --ignore-zeros"),
        (gzip.compress(whole), "compressed by gzip; unpack it"),
    ):
        (tmp_path / "a.tar").write_bytes(data)
        with pytest.raises(ValueError, match=rf"a\.tar: {says}") as caught:
            open_source(tmp_path / "a.tar")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"no image in this tar; left out: 1 file of no image format \(\.txt\)"):
        open_source(tarred(tmp_path / "none.tar", {"a.txt": b"x"}))
    with pytest.raises(ValueError, match=r"no image in this tar$"):
        open_source(tarred(tmp_path / "empty.tar", {}))
    with pytest.raises(ValueError, match=r"b\.png: cannot be read as an image \(of no known format\)"):
        open_source(tarred(tmp_path / "text.tar", {"a.png": pngs(images(1))[0], "b.png": b"text"}))
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"or a folder; unpack it and give the \.tar"):
        open_source(tmp_path / "a.tar.gz")


def png_of_16_bits(image: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel in RGB, which Pillow reads but does not write."""
    height, width, _ = image.shape
    rows = (image.astype(">u2") * 257).reshape(height, -1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff_of_16_bits(image: np.ndarray) -> bytes:
    """A TIFF of 16 bits a channel in RGB, uncompressed: likewise."""
    height, width, _ = image.shape
    data, short, long, end = (image.astype("<u2") * 257).tobytes(), 3, 4, 8 + 2 + 12 * 9 + 4
    entries = [(256, short, 1, width), (257, short, 1, height), (258, short, 3, end), (259, short, 1, 1), (262, short, 1, 2),
               (273, long, 1, end + 6), (277, short, 1, 3), (278, short, 1, height), (279, long, 1, len(data))]  # fmt: skip
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<IHHH", 0, 16, 16, 16) + data


def ppm_of_16_bits(image: np.ndarray) -> bytes:
    return f"P6 {image.shape[1]} {image.shape[0]} 65535\n".encode() + (image.astype(">u2") * 257).tobytes()


def sgi_of_16_bits(image: np.ndarray) -> bytes:
    height, width, _ = image.shape
    head = struct.pack(">hBBHHHH", 474, 0, 2, 3, width, height, 3).ljust(512, b"\0")
    return head + (image[::-1].transpose(2, 0, 1).astype(">u2") * 257).tobytes()


def test_a_list_of_batches_is_read_as_needed_and_damage_in_it_is_one_line(tmp_path):
    x = images(9)
    np.savez(tmp_path / "list.npz", x[:5], x[5:])
    assert np.array_equal(read_all(open_source(tmp_path / "list.npz")), x)
    np.savez_compressed(tmp_path / "single.npz", *x)
    data = bytearray((tmp_path / "single.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "single.npz") as archive:
        info = archive.getinfo("arr_4.npy")
    at = info.header_offset + 30 + len("arr_4.npy") + 20 + info.compress_size // 2
    data[at : at + 8] = bytes(8)
    (tmp_path / "single.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"single\.npz.*(damaged|cannot be read)"):
        read_all(open_source(tmp_path / "single.npz"))
    labels = np.array(["a", None], object)
    np.savez(tmp_path / "objects.npz", x[:2], labels)
    with pytest.raises(ValueError, match=r"objects\.npz"):
        open_source(tmp_path / "objects.npz")


def test_image_files_that_would_lose_something_are_refused(tmp_path):
    x = images(3)
    for name, image in (
        ("alpha", Image.fromarray(np.dstack([x[0], x[0][..., :1]]))),
        ("deep", Image.fromarray(x[0][..., 0].astype(np.uint16) * 257)),
    ):
        write(tmp_path / name, x)
        image.save(tmp_path / name / "001.png")
        with pytest.raises(ValueError, match=r"001\.png: mode .*, expected 8-bit RGB or grey"):
            read_all(open_source(tmp_path / name))
    for suffix, deep in (("png", png_of_16_bits), ("tif", tiff_of_16_bits), ("ppm", ppm_of_16_bits), ("sgi", sgi_of_16_bits)):
        (tmp_path / suffix).mkdir()
        (tmp_path / f"{suffix}/a.{suffix}").write_bytes(deep(x[0]))
        with Image.open(tmp_path / f"{suffix}/a.{suffix}") as image:
            assert np.array_equal(np.asarray(image), x[0])  # what Pillow makes of it, with nothing said
        with pytest.raises(ValueError, match=rf"a\.{suffix}: mode RGB of 16 bits, expected 8-bit RGB or grey"):
            read_all(open_source(tmp_path / suffix))
    write(tmp_path / "cut", images(3, 40))
    data = (tmp_path / "cut/002.png").read_bytes()
    (tmp_path / "cut/002.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"002\.png: cannot be read as an image"):
        read_all(open_source(tmp_path / "cut"))
    for name, damaged in (
        ("qoi", b"qoif\0\0\0\x04\0\0\0\x04\x03\0"),
        ("ppm", b"P6 x 8 255\n"),
        ("im", b"Image type: RGB\r\nScale (x,y): x\r\n"),
    ):
        (tmp_path / f"{name}s").mkdir()
        (tmp_path / f"{name}s/a.{name}").write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"a\.{name}: cannot be read as an image \(.+\); make it again"):
            read_all(open_source(tmp_path / f"{name}s"))


def test_grey_images_are_read_and_lossy_ones_noted(tmp_path):
    (tmp_path / "grey").mkdir()
    Image.fromarray(images(1)[0][..., 0]).save(tmp_path / "grey/a.png")
    assert np.array_equal(read_all(open_source(tmp_path / "grey"))[0], np.repeat(images(1)[0][..., :1], 3, axis=2))
    assert open_source(write(tmp_path / "png", images(2))).notes == ()
    assert "lossy" in open_source(write(tmp_path / "jpg", images(2), suffix=".jpg")).notes[0]


def test_cmyk_is_read_as_pillow_converts_it_and_counted(tmp_path):
    """As ADM's and torch-fidelity's readers do, and the data job."""
    write(tmp_path / "in", images(2))
    Image.fromarray(images(1)[0]).convert("CMYK").save(tmp_path / "in/000.tif")
    (tmp_path / "in/000.png").unlink()
    with Image.open(tmp_path / "in/000.tif") as image:
        expected = np.asarray(image.convert("RGB"))
    source = open_source(tmp_path / "in")
    assert np.array_equal(read_all(source)[0], expected) and np.array_equal(read_all(source)[1], images(2)[1])
    assert source.notes == ("1 of 2 images are CMYK, converted to RGB as Pillow does",)


def test_no_array_of_an_npz_is_passed_over_without_a_word(tmp_path):
    x = images(6)
    np.savez(tmp_path / "gap.npz", arr_0=x[:3], arr_2=x[3:])
    with pytest.raises(ValueError, match=r"gap\.npz: 2 arrays of images up to arr_2, but no arr_1"):
        open_source(tmp_path / "gap.npz")
    np.savez(tmp_path / "more.npz", x, samples=x)
    assert open_source(tmp_path / "more.npz").notes == ("samples beside arr_0: left unread",)
    np.savez(tmp_path / "adm.npz", x, np.arange(6), mu=x[0], sigma=x[0], mu_s=x[0], sigma_s=x[0])
    assert open_source(tmp_path / "adm.npz").notes == ()


def test_the_checksum_is_of_names_and_bytes(tmp_path):
    a, b = write(tmp_path / "a", images(3)), write(tmp_path / "b", images(3))
    assert open_source(a).sha256 == open_source(b).sha256
    (b / "002.png").rename(b / "003.png")
    assert open_source(a).sha256 != open_source(b).sha256
    buffer = io.BytesIO()
    np.savez(buffer, images(3))
    (tmp_path / "c.npz").write_bytes(buffer.getvalue())
    import hashlib

    assert open_source(tmp_path / "c.npz").sha256 == hashlib.sha256(buffer.getvalue()).hexdigest()


def test_hidden_and_thumbnail_folders_are_left_out_and_counted(tmp_path):
    x = images(6)
    root = write(tmp_path / "in", x, classes=2)
    for litter in (".thumbnails", "@eaDir", "class0/.ipynb_checkpoints", "class1/__MACOSX"):
        write(root / litter, images(2, seed=1))
    write(root / ".thumbnails/large", images(1))
    (root / "class1/notes.txt").write_text("x")
    (root / ".DS_Store").write_bytes(b"x")
    for source in (open_source(root), open_source(zipped(root, tmp_path / "in.zip"))):
        assert np.array_equal(read_all(source), x[[0, 2, 4, 1, 3, 5]]) and source.classes == ("class0", "class1")
        (note,) = source.notes
        assert (
            note.startswith("left out: 9 images hidden or left by a file manager (")
            and "1 file of no image format (.txt)" in note
        )
        assert "(.thumbnails, .ipynb_checkpoints, @eaDir, ...)" in note


def test_linked_class_folders_are_followed_each_once(tmp_path):
    x = images(6)
    write(tmp_path / "elsewhere", x[3:])
    root = tmp_path / "in"
    write(root / "a", x[:3])
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "b_again").symlink_to(tmp_path / "elsewhere")
    (root / "a/up").symlink_to(root)
    source = open_source(root)
    assert np.array_equal(read_all(source), x) and source.classes == ("a", "b")
    assert source.notes == ("left out: 1 link to folders that are read already (b_again)",)


def test_a_hidden_link_does_not_stand_in_the_place_of_what_it_leads_to(tmp_path):
    x = images(4)
    root = write(tmp_path / "in", x, classes=2)
    (root / ".latest").symlink_to("class0")
    (root / "class2").symlink_to("/nowhere/to/be/found")
    source = open_source(root)
    assert len(source) == 4 and source.classes == ("class0", "class1")
    assert source.notes == ("left out: 1 link that leads nowhere (class2)",)


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    root, scandir = write(tmp_path / "in", images(2), classes=2), image_files.os.scandir
    (root / "lost+found").mkdir()

    def denied(path):
        if Path(path).name in ("class1", "lost+found"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(image_files.os, "scandir", denied)
    with pytest.raises(ValueError, match=r"in/class1: cannot be listed \(Permission denied\); allow it"):
        open_source(root)


def test_numbered_files_are_in_the_order_of_their_numbers(tmp_path):
    x = images(12)
    for i, image in enumerate(x):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    assert np.array_equal(read_all(open_source(tmp_path)), x)


@pytest.mark.parametrize("name", ["{n:05d}/img{i:08d}.png", "{k:06d}/{i:06d}.png", "{k:05d}/{i:05d}.png"])
def test_chunks_of_numbered_images_are_no_classes_and_dataset_json_is_read(tmp_path, name):
    """As EDM's dataset_tool.py writes them, and EDM2's generate_images.py --subdirs; and FFHQ's folders."""
    x, numbers = images(4), [0, 999, 1000, 2001]
    names = [name.format(n=i // 1000, k=i // 1000 * 1000, i=i) for i in numbers]
    root = tmp_path / "in"
    for image, file in zip(x, names, strict=True):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / file)
    for source in (open_source(root), open_source(zipped(root, tmp_path / "in.zip"))):
        assert source.labels is None and source.classes is None and source.notes == ()
    (root / "dataset.json").write_text(json.dumps({"labels": [[n, k] for n, k in zip(names, [7, 3, 7, 1], strict=True)]}))
    for source in (open_source(root), open_source(zipped(root, tmp_path / "in.zip"))):
        assert source.labels.tolist() == [7, 3, 7, 1] and source.notes == () and np.array_equal(read_all(source), x)
    (root / "dataset.json").write_text(json.dumps({"labels": None}))
    (root / "more.json").write_text("{}")
    assert open_source(root).labels is None and open_source(root).notes == ("left out: 1 file of no image format (.json)",)
    (root / "more.json").unlink()
    (root / "dataset.json").write_text(json.dumps({"labels": [[f"./{n}", 1] for n in [*names, "a.png", "b.png"]]}))
    assert open_source(root).labels.tolist() == [1] * 4
    assert open_source(root).notes == ("dataset.json lists 2 images that are not there (a.png, ...)",)
    for odd in (1.0, [0, 1]):
        (root / "dataset.json").write_text(json.dumps({"labels": [[n, odd] for n in names]}))
        assert open_source(root).labels is None
        assert open_source(root).notes == (f"dataset.json has labels that are no whole numbers ({odd}): left unread",)
    (root / "dataset.json").write_text(json.dumps({"labels": [[names[0], 1]]}))
    with pytest.raises(ValueError, match=rf"dataset\.json has no label of {names[1]} \(3 such\)"):
        open_source(root)
    (root / "dataset.json").write_text("[]")
    with pytest.raises(ValueError, match=r"dataset\.json does not list labels"):
        open_source(root)


def test_everything_that_pillow_opens_is_read(tmp_path):
    x = images(1)[0]
    for suffix in (".png", ".jfif", ".avif", ".webp", ".tga", ".jp2", ".bmp"):
        Image.fromarray(x).save(tmp_path / f"a{suffix}")
    source = open_source(tmp_path)
    assert len(source) == 7 and read_all(source).shape == (7, *x.shape)
    assert source.notes == (
        "3 of 7 images are stored with lossy compression, which changes every metric",
    )  # .jp2 is as saved here


@pytest.mark.parametrize("more", [{}, {"exif": b"Exif\0\0a"}, {"save_all": True, "append_images": [Image.new("RGB", (10, 8))]}])
@pytest.mark.parametrize("lossless", [True, False])
def test_lossless_webp_is_not_called_lossy(tmp_path, lossless, more):
    Image.fromarray(images(1)[0]).save(tmp_path / "a.webp", lossless=lossless, **more)
    assert any("lossy" in note for note in open_source(tmp_path).notes) is not lossless


@pytest.mark.parametrize(
    ("suffix", "how", "lossy"),
    [
        ("jp2", {"irreversible": True}, True),
        ("jp2", {"irreversible": False}, False),
        ("tif", {"compression": "jpeg"}, True),
        ("tif", {"compression": "tiff_lzw"}, False),
    ],
)
def test_a_format_that_may_lose_something_is_asked_whether_it_did(tmp_path, suffix, how, lossy):
    x = images(1, 64)
    Image.fromarray(x[0]).save(tmp_path / f"a.{suffix}", **how)
    source = open_source(tmp_path)
    assert bool(source.notes) is lossy and np.array_equal(read_all(source), x) is not lossy


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "avif"])
def test_files_of_several_pictures_are_counted(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(tmp_path / "b.png")
    for source in (open_source(tmp_path), open_source(zipped(tmp_path, tmp_path / "in.zip"))):
        assert "1 of 2 images hold several pictures (animations, pages), of which the first is read" in source.notes
        assert read_all(source)[0, 4, 4, 0] > 200


def test_an_opaque_alpha_channel_is_no_transparency(tmp_path):
    x = images(1)
    Image.fromarray(np.dstack([x[0], np.full(x.shape[1:3], 255, np.uint8)])).save(tmp_path / "a.png")
    assert np.array_equal(read_all(open_source(tmp_path)), x)


def test_archives_that_python_cannot_unpack_are_one_line(tmp_path):
    path = zipped(write(tmp_path / "in", images(2)), tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")  # of the directory: flags at 8, method at 10
    encrypted, deflate64, zstandard = bytearray(data), bytearray(data), bytearray(data)
    encrypted[entry + 8] |= 1
    deflate64[entry + 10] = 9
    zstandard[entry + 10] = 93
    for broken, says in (
        (encrypted, "is encrypted; unpack it"),
        (deflate64, r"is packed by Deflate64, which Python does not read \(Windows"),
        (zstandard, r"is packed by Zstandard \(method 93\), which Python does not read; unpack it"),
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"a\.zip: .*{says}"):
            open_source(path)


@pytest.mark.slow
def test_labels_nobody_asked_for_are_no_reason_to_refuse_images(tmp_path):
    x = images(3)
    for labels, expected in (
        (np.eye(5)[[4, 0, 2]], [4, 0, 2]),
        (np.array([[4], [0], [2]]), [4, 0, 2]),
        (np.eye(5, dtype=np.float32)[[4, 0, 2]], [4, 0, 2]),
        (np.eye(5, dtype=bool)[[4, 0, 2]], [4, 0, 2]),
        (np.array([2**63, 1, 2], np.uint64), None),
        (np.array(["a", "b", "c"]), None),
        (np.full((3, 5), 0.2), None),
        (np.array([0.5, 1.5, 2.5]), None),
    ):
        np.savez(tmp_path / "a.npz", x, labels)
        source = open_source(tmp_path / "a.npz")
        assert (source.labels is None) if expected is None else source.labels.tolist() == expected
        assert bool(source.notes) == (expected is None) and np.array_equal(read_all(source), x)

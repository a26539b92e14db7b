"""Bundles: what is in one, and what is not written."""

import json
import tarfile

import pytest

from fleetcore.cli.bundling import write_bundle
from fleetcore.errors import Conflict, Refused
from fleetcore.testing.signers import IMAGE, Signers, digest

SIGNERS = Signers()
MANIFEST, ROOTS = SIGNERS.manifest(), [SIGNERS.trust(number) for number in range(1, 12)]


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "image.bin"
    file.write_bytes(IMAGE)
    return file


def write(file, image):
    content = image.read_bytes()
    write_bundle(file, MANIFEST, ROOTS, image, digest(content), len(content))
    return file.read_bytes()


def test_a_device_reads_it_from_beginning_to_end(tmp_path, image):
    write(tmp_path / "made", image)

    with tarfile.open(tmp_path / "made", "r:") as archive:
        found = [(member.name, archive.extractfile(member).read()) for member in archive]
    assert [name for name, _ in found] == ["manifest.json", *(f"trust/{n}.json" for n in range(1, 12)), "image.bin"]
    assert [json.loads(content) for _, content in found[:-1]] == [MANIFEST, *ROOTS]
    assert found[-1][1] == IMAGE


def test_the_same_content_gives_the_same_bytes(tmp_path, image):
    assert write(tmp_path / "one", image) == write(tmp_path / "two", image)


@pytest.mark.parametrize(("content", "code"), [(IMAGE[:-1], "size_mismatch"), (IMAGE[:-1] + b"!", "hash_mismatch")])
def test_another_image_than_the_signed_one_is_refused(tmp_path, image, content, code):
    image.write_bytes(content)
    with pytest.raises(Refused) as refused:
        write(tmp_path / "made", image)

    assert refused.value.code == code
    assert [file.name for file in tmp_path.iterdir()] == ["image.bin"]


def test_a_file_that_is_there_is_not_overwritten(tmp_path, image):
    write(tmp_path / "made", image)
    with pytest.raises(Conflict):
        write(tmp_path / "made", image)

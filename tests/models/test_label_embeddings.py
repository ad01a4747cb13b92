"""Label embeddings on disk: the right rows, and no others."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ram_backend.errors import BundleDamaged
from ram_backend.models.label_embeddings import FILE, LabelEmbeddings

ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)


def write(folder: Path, rows: np.ndarray, counts: list[int]) -> Path:
    save_file({"rows": rows, "counts": np.array(counts, dtype=np.int32)}, folder / FILE)
    return folder


def test_rows_of_tags_with_different_counts(tmp_path: Path) -> None:
    labels = LabelEmbeddings.open(write(tmp_path, ROWS, [2, 1, 3]))
    assert len(labels) == 3
    assert labels.width == 4
    np.testing.assert_array_equal(labels.of(0), ROWS[:2])
    np.testing.assert_array_equal(labels.of(1), ROWS[2:3])
    np.testing.assert_array_equal(labels.of(2), ROWS[3:])
    labels.of(0)[:] = -1  # a copy
    np.testing.assert_array_equal(labels.of(0), ROWS[:2])


def test_means_are_the_one_row_of_a_tag_or_the_direction_of_several(tmp_path: Path) -> None:
    labels = LabelEmbeddings.open(write(tmp_path, ROWS, [1, 1, 1, 3]))
    mean = ROWS[3:].mean(axis=0)
    wanted = [ROWS[1], mean / np.linalg.norm(mean), ROWS[1], ROWS[5]]
    np.testing.assert_allclose(labels.means([1, 3, 1, ROWS[5:]]), wanted, rtol=1e-6)
    assert labels.means([]).shape == (0, 4)


@pytest.mark.parametrize("counts", [[2, 1], [2, 1, 4], [3, 0, 3]])
def test_counts_that_do_not_fit_are_damage(tmp_path: Path, counts: list[int]) -> None:
    with pytest.raises(BundleDamaged, match="counts"):
        LabelEmbeddings.open(write(tmp_path, ROWS, counts))


def test_a_missing_cut_or_foreign_file_is_damage(tmp_path: Path) -> None:
    with pytest.raises(BundleDamaged, match=FILE):
        LabelEmbeddings.open(tmp_path)
    path = write(tmp_path, ROWS, [2, 1, 3]) / FILE
    content = path.read_bytes()
    for broken in (content[:-5], content[:40], b"", b"rubbish", b"\xff" * 50):
        path.write_bytes(broken)
        with pytest.raises(BundleDamaged, match=FILE):
            LabelEmbeddings.open(tmp_path)
    save_file({"rows": ROWS}, path)
    with pytest.raises(BundleDamaged, match="counts"):
        LabelEmbeddings.open(tmp_path)

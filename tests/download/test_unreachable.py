"""A host that never answers is given up soon, once, for all files."""

import pytest

from unshard.download import PresignedTemplate, RetryPolicy, download
from unshard.download.response import UnreachableError
from unshard.testing import FakeObjectStore


def test_nothing_listens(tmp_path, recorder):
    with FakeObjectStore(tmp_path) as store:
        url = store.presigned_url()
    progress = recorder()
    names = [f"{number}.bin" for number in range(20)]
    with pytest.raises(UnreachableError, match="cannot connect") as e:
        download(
            PresignedTemplate.parse(url),
            names,
            tmp_path / "target",
            progress=progress,
            retry=RetryPolicy(first_delay_s=0.001),
        )
    assert e.value.hint
    assert progress.notes == []

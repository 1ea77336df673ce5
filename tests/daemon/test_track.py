"""The number that VRRP tracks."""

from pathlib import Path

from kernlb.daemon.track import MOST, Track, number
from kernlb.pool import Pool


def pools(*quorate: bool) -> dict[str, Pool]:
    return {str(place): Pool((), quorum=has) for place, has in enumerate(quorate)}


def test_each_service_without_quorum_counts_and_no_number_fails_the_whole_director() -> None:
    assert number({}) == number(pools(True, True)) == 0
    assert number(pools(True, False, False)) == -2
    assert number(pools(*[False] * 100)) == -MOST
    assert 20 * -MOST >= -253


def test_the_file_follows_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "default" / "track"
    track = Track(file)
    track.tell(pools(False))
    file.parent.mkdir()
    track.tell(pools(False))
    assert file.read_text() == "-1\n"
    track.tell(pools(True))
    assert file.read_text() == "0\n"
    assert [each.name for each in file.parent.iterdir()] == ["track"]

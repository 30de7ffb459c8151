"""Damage to a file journal: a torn end is cut, and said; anything else is an error, and untouched.

Exhaustive where that is possible: every cut, every bit.
"""

import logging
import os
import shutil
from itertools import combinations, permutations
from zlib import crc32

import pytest

from omniq.core.events import Commit
from omniq.errors import CorruptJournal, StorageError, UnsupportedFormat
from omniq.host import boot_id
from omniq.storage.base import GENESIS
from omniq.storage.encoding import encode_commit
from omniq.storage.file import FileStorage
from omniq.storage.framing import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    pack_frame,
    pack_segment_header,
    seed_of,
)
from omniq.storage.segments import segment_name
from omniq.tools.commands import COMMANDS
from tests.storage.language import (
    QuickDisk,
    append,
    append_synced,
    contents,
    flip,
    frame_ends,
    names_in,
    names_of,
    opened,
    read_all,
    reboot,
    segments,
    tasks,
    write_journal,
)

FRAMES = 60


def storage(path, **options):
    return FileStorage(path, disk=QuickDisk(), **options)


def numbers(count):
    return [str(number) for number in range(count)]


async def is_refused(path, *errors):
    """Assert that opening or reading a journal fails, each time, and changes nothing."""
    before = contents(path)
    for read_only in (False, True):
        with pytest.raises(errors or CorruptJournal) as raised:
            await names_in(storage(path, read_only=read_only))
        assert contents(path) == before
    return raised.value


@pytest.mark.parametrize("has_hint", [False, True])
@pytest.mark.parametrize("synced", [False, True])
async def test_cut_leaves_the_commits_before_it(tmp_path, caplog, has_hint, synced):
    """At bytes of all kinds; test_every_damage.py cuts at each of them."""
    path = tmp_path / "journal"
    await write_journal(path, FRAMES, synced=synced)
    hint = (path / "journal.lock").read_bytes()
    (segment,) = segments(path)
    whole = segment.read_bytes()
    ends = frame_ends(whole)
    assert len(ends) == FRAMES + 1
    for size in range(SEGMENT_HEADER_BYTES, len(whole), 13):  # no frame's length divides by 13
        kept = max(end for end in ends if end <= size)
        segment.write_bytes(whole[:size])
        reboot(path)
        if has_hint:
            (path / "journal.lock").write_bytes(hint)
        caplog.clear()
        async with opened(storage(path)) as journal:
            assert (await journal.head()).seq == ends.index(kept)
            await append(journal, "next")
        aside = [name for name in os.listdir(path) if name.endswith(".torn")]  # noqa: PTH208 - fast
        if kept == size:
            assert aside == []
        else:
            assert [(path / name).read_bytes() for name in aside] == [whole[kept:size]]
            (path / aside[0]).unlink()
        said = ["torn_end_cut"] * len(aside) + ["end_missing"] * has_hint
        assert [record.action for record in caplog.records] == said
        if size % 4 == 0:
            reboot(path)
            assert await names_in(storage(path)) == [*numbers(ends.index(kept)), "next"]


@pytest.mark.parametrize("size", range(SEGMENT_HEADER_BYTES))
async def test_cut_inside_the_segment_header_is_damage(tmp_path, size):
    """The header was durable before the segment had its name, so no power cut does this."""
    path = tmp_path / "journal"
    path.mkdir()
    header = pack_segment_header(SegmentHeader(b"j" * 16, 1, 1, 0, GENESIS))
    (path / "00000000000000000001.seg").write_bytes(header[:size])
    await is_refused(path)


@pytest.mark.parametrize("has_hint", [False, True])
async def test_flip_of_any_bit_of_the_first_frames_is_damage(tmp_path, has_hint):
    path = tmp_path / "journal"
    await write_journal(path, 6)
    (segment,) = segments(path)
    whole = segment.read_bytes()
    for position in range(frame_ends(whole)[3]):
        errors = (CorruptJournal,)
        if position < len(b"OmniQ\r\n\x1a"):
            errors = (CorruptJournal, UnsupportedFormat)
        for bit in [position % 8] if has_hint else range(8):
            flip(segment, position, bit)
            if not has_hint:
                reboot(path)
            before = segment.read_bytes()
            with pytest.raises(errors):
                await names_in(storage(path, read_only=bit != position % 8))
            assert segment.read_bytes() == before
            flip(segment, position, bit)
    assert segments(path) == [segment]
    assert await names_in(storage(path)) == numbers(6)


async def test_flip_in_any_byte_of_the_last_frame_never_gives_a_wrong_event(tmp_path):
    """No later frame says that it was durable, so it may be a torn end."""
    path = tmp_path / "journal"
    await write_journal(path, 3)
    (segment,) = segments(path)
    whole = segment.read_bytes()
    for position in range(frame_ends(whole)[2], len(whole)):
        segment.write_bytes(whole)
        flip(segment, position, bit=position % 8)
        reboot(path)
        assert await names_in(storage(path)) == numbers(2)
        (aside,) = path.glob("*.torn")
        aside.unlink()


async def test_damage_names_place_sequence_and_the_next_step(tmp_path):
    path = tmp_path / "journal"
    await write_journal(path, 5)
    (segment,) = segments(path)
    offset = frame_ends(segment.read_bytes())[2]
    flip(segment, offset + FRAME_HEADER_BYTES + 3)
    error = await is_refused(path)
    assert (error.journal, error.segment) == (str(path), segment.name)
    assert (error.offset, error.sequence, error.last_sequence) == (offset, 3, 3)
    assert "payload checksum" in error.expected
    for said in (segment.name, f"offset {offset}", "from sequence 3 to 3", error.expected):
        assert said in str(error)
    assert f"found {error.found}" in str(error)
    assert "Nothing was changed" in str(error)
    for command in (f"verify {path}", f"recover {path} TARGET"):
        assert f"python -m omniq.tools.replay {command}" in str(error)
        assert command.partition(" ")[0] in COMMANDS


@pytest.mark.parametrize("length", [0, 1, 2**26 + 1, 2**32 - 1])
async def test_changed_length_is_damage_even_in_the_last_frame_but_one(tmp_path, length):
    path = tmp_path / "journal"
    await write_journal(path, 3)
    (segment,) = segments(path)
    whole = bytearray(segment.read_bytes())
    offset = frame_ends(whole)[1]
    whole[offset + 4 : offset + 8] = length.to_bytes(4, "little")
    segment.write_bytes(whole)
    reboot(path)
    await is_refused(path)


@pytest.mark.parametrize("zeros", [1, 67, 68, 4096, 70_000])
async def test_zero_filled_end_is_room_for_what_is_written_next(tmp_path, zeros):
    path = tmp_path / "journal"
    await write_journal(path, 3)
    (segment,) = segments(path)
    whole = segment.read_bytes()
    segment.write_bytes(whole + bytes(zeros))
    reboot(path)
    async with opened(storage(path)) as journal:
        assert names_of(await read_all(journal)) == numbers(3)
        await append_synced(journal, "more")
    assert segment.read_bytes().startswith(whole)
    assert not list(path.glob("*.torn"))
    reboot(path)
    assert await names_in(storage(path)) == [*numbers(3), "more"]


@pytest.mark.parametrize("kept", [1 << 20, (1 << 20) + 1, 2_500_000])
async def test_frame_that_is_larger_than_what_is_read_at_once_may_be_torn_anywhere(tmp_path, kept):
    path = tmp_path / "journal"
    async with opened(storage(path)) as journal:
        await append_synced(journal, "a")
        await append(journal, *["x" * 1000] * 3000)
    (segment,) = segments(path)
    end = frame_ends(segment.read_bytes())[1]
    os.truncate(segment, end + kept)
    reboot(path)
    assert await names_in(storage(path)) == ["a"]
    assert segment.stat().st_size == end


async def test_zero_filled_segment_header_is_damage(tmp_path):
    path = tmp_path / "journal"
    await write_journal(path, 2)
    (segment,) = segments(path)
    segment.write_bytes(bytes(len(segment.read_bytes())))
    await is_refused(path)


async def test_hole_before_frames_that_were_never_durable_is_torn(tmp_path):
    """Blocks of a file reach the disk in any order until it is synced."""
    path = tmp_path / "journal"
    async with opened(storage(path)) as journal:
        for name in "abc":
            await append_synced(journal, name)
        for name in "defg":
            await append(journal, name)
    (segment,) = segments(path)
    whole = bytearray(segment.read_bytes())
    ends = frame_ends(whole)
    whole[ends[4] : ends[5]] = bytes(ends[5] - ends[4])
    segment.write_bytes(whole)
    reboot(path)
    assert await names_in(storage(path)) == ["a", "b", "c", "d"]
    (aside,) = path.glob("*.torn")
    assert aside.read_bytes() == whole[ends[4] :]


async def test_hole_before_a_frame_that_says_it_was_durable_is_damage(tmp_path):
    path = tmp_path / "journal"
    async with opened(storage(path)) as journal:
        for name in "abc":
            await append(journal, name)
        await append_synced(journal, "d")
        await append(journal, "e")
    (segment,) = segments(path)
    whole = bytearray(segment.read_bytes())
    ends = frame_ends(whole)
    whole[ends[1] : ends[2]] = bytes(ends[2] - ends[1])
    segment.write_bytes(whole)
    reboot(path)
    assert (await is_refused(path)).sequence == 2


async def test_frame_of_another_place_in_the_journal_is_damage(tmp_path):
    path = tmp_path / "journal"
    await write_journal(path, 6)
    (segment,) = segments(path)
    whole = segment.read_bytes()
    ends = frame_ends(whole)
    first, second, third = (whole[ends[n] : ends[n + 1]] for n in range(3))
    for swapped in ([second, first, third], [first, third], [first, first, second, third]):
        segment.write_bytes(whole[: ends[0]] + b"".join(swapped) + whole[ends[3] :])
        reboot(path)
        await is_refused(path)


async def test_frame_of_a_copy_that_went_its_own_way_is_damage(tmp_path):
    """It has the right sequence number, and another past."""
    path, copy = tmp_path / "journal", tmp_path / "copy"
    await write_journal(path, 2)
    shutil.copytree(path, copy)
    data = []
    for place, name in ((path, "x"), (copy, "y")):
        async with opened(storage(place)) as journal:
            for _ in range(3):
                await append_synced(journal, name)
        data.append(segments(place)[0].read_bytes())
    ends = frame_ends(data[0])
    segments(path)[0].write_bytes(data[0][: ends[3]] + data[1][ends[3] :])
    reboot(path)
    assert "chained" in (await is_refused(path)).expected


async def test_commit_whose_frame_says_otherwise_is_damage(tmp_path):
    """Only a faulty writer gets there: every checksum is right."""
    path = tmp_path / "journal"
    path.mkdir()
    payload = encode_commit(Commit(7, 1, "a", tasks("x")))
    frame = pack_frame(
        seed_of(b"j" * 16), payload, count=1, first_seq=1, durable=0, previous=GENESIS
    )
    header = pack_segment_header(SegmentHeader(b"j" * 16, 1, 1, 0, GENESIS))
    (path / "00000000000000000001.seg").write_bytes(header + frame)
    assert (await is_refused(path)).sequence == 1


# Several segments.


@pytest.fixture
async def four_segments(tmp_path):
    path = tmp_path / "journal"
    await write_journal(path, 17, segment_bytes=540)
    assert len(segments(path)) == 4
    reboot(path)
    return path


@pytest.fixture(params=[False, True], ids=["after a reboot", "with the hint"])
async def any_four_segments(tmp_path, request):
    path = tmp_path / "journal"
    await write_journal(path, 17, segment_bytes=540)
    if not request.param:
        reboot(path)
    return path


async def is_refused_or_read_as_written(path):
    """Assert that a journal is read from its beginning to its end, or not to the end."""
    before = contents(path)
    for read_only in (True, False):
        try:
            names = await names_in(storage(path, read_only=read_only))
        except CorruptJournal:
            continue
        assert names == numbers(17)
    assert contents(path) == before


async def test_segment_copied_over_another_is_damage(any_four_segments):
    for source, target in permutations(segments(any_four_segments), 2):
        saved = target.read_bytes()
        shutil.copyfile(source, target)
        await is_refused(any_four_segments)
        target.write_bytes(saved)
    assert await names_in(storage(any_four_segments)) == numbers(17)


async def test_two_segments_in_each_others_place_are_damage(any_four_segments):
    for one, other in combinations(segments(any_four_segments), 2):
        saved = one.read_bytes(), other.read_bytes()
        one.write_bytes(saved[1])
        other.write_bytes(saved[0])
        await is_refused(any_four_segments)
        one.write_bytes(saved[0])
        other.write_bytes(saved[1])


async def test_segment_under_another_name_gives_no_wrong_event(any_four_segments):
    """Whether it is met depends on where reading begins; it is never taken for what it is not."""
    names = [segment_name(first) for first in (0, 2, 3, 8, 15, 18, 99, 10**19)]
    for segment in segments(any_four_segments):
        for name in names:
            copy = any_four_segments / name
            shutil.copyfile(segment, copy)
            await is_refused_or_read_as_written(any_four_segments)
            if int(copy.stem) > 17:
                await is_refused(any_four_segments)
            copy.unlink()


async def test_segment_of_another_journal_is_damage(any_four_segments, tmp_path):
    await write_journal(tmp_path / "other", 17, segment_bytes=540)
    for number, file in enumerate(segments(any_four_segments)):
        saved = file.read_bytes()
        shutil.copyfile(segments(tmp_path / "other")[number], file)
        await is_refused(any_four_segments)
        file.write_bytes(saved)


async def test_missing_middle_segment_is_damage(any_four_segments):
    """One before the last is missed at once, one before that by whoever reads up to it."""
    first, second, third, last = segments(any_four_segments)
    saved = second.read_bytes()
    second.unlink()
    error = await is_refused(any_four_segments)
    assert (error.segment, error.found) == (first.name, "the end of the segment")
    assert (error.sequence, error.last_sequence) == (int(second.stem), int(third.stem) - 1)
    second.write_bytes(saved)
    third.unlink()
    error = await is_refused(any_four_segments)
    assert (error.segment, error.sequence) == (last.name, int(last.stem))
    assert error.expected.startswith("segment 3 of")


async def test_missing_beginning_is_no_empty_journal(any_four_segments):
    """Nothing says that it was dropped on purpose: there is no snapshot of what was in it."""
    segments(any_four_segments)[0].unlink()
    async with opened(storage(any_four_segments)) as journal:
        with pytest.raises(StorageError, match="begins with sequence number"):
            await journal.read(0)
        with pytest.raises(CorruptJournal):
            await journal.load_snapshot()


async def test_missing_end_is_the_one_loss_that_nothing_in_the_journal_tells(
    any_four_segments, caplog
):
    """It takes a digest that was kept elsewhere, or that the machine has run since."""
    *_, before, last = segments(any_four_segments)
    has_hint = (any_four_segments / "journal.lock").exists()
    last.unlink()
    assert await names_in(storage(any_four_segments)) == numbers(int(last.stem) - 1)
    assert before.exists()
    assert [record.action for record in caplog.records] == ["end_missing"] * has_hint
    if has_hint:
        assert (caplog.records[0].seq, caplog.records[0].known) == (int(last.stem) - 1, 17)


async def test_journal_whose_segments_are_all_gone_is_not_begun_anew(tmp_path):
    path = tmp_path / "journal"
    await write_journal(path, 17, segment_bytes=540)
    for segment in segments(path):
        segment.unlink()
    with pytest.raises(CorruptJournal, match="remove the directory"):
        await storage(path).open()
    assert segments(path) == []


async def test_damage_ends_where_the_next_frame_or_segment_begins(four_segments):
    first, second, *_ = segments(four_segments)
    whole = first.read_bytes()
    ends = frame_ends(whole)
    first_of_second = int(second.stem)
    for offset, until in (
        (0, first_of_second - 1),  # nothing in a segment without a header can be read
        (ends[1] + 3, 2),  # a frame's header: up to the next one
        (ends[1] + FRAME_HEADER_BYTES + 3, 2),  # its payload: the header says what it held
        (ends[-2] + 3, first_of_second - 1),  # the last frame: up to the next segment
    ):
        flip(first, offset, bit=4)
        error = await is_refused(four_segments, CorruptJournal, UnsupportedFormat)
        if isinstance(error, CorruptJournal):
            assert error.last_sequence == until, offset
            assert f"from sequence {error.sequence} to {until}" in str(error)
        first.write_bytes(whole)


async def test_end_of_a_middle_segment_that_is_cut_is_damage(four_segments):
    """At the end of a frame and inside of one: a segment was synced before the next one began."""
    middle = segments(four_segments)[1]
    whole = middle.read_bytes()
    for size in range(SEGMENT_HEADER_BYTES, len(whole)):
        middle.write_bytes(whole[:size])
        await is_refused(four_segments)


async def test_handle_that_was_open_does_not_cut_a_segment_that_is_not_the_last(tmp_path):
    path = tmp_path / "journal"
    async with opened(storage(path, segment_bytes=540)) as idle:
        await append(idle, "first")
        await write_journal(path, 12, segment_bytes=540)
        first = segments(path)[0]
        first.write_bytes(first.read_bytes()[:-1])
        (path / "journal.lock").write_bytes(b"")
        before = contents(path)
        with pytest.raises(CorruptJournal) as raised:
            await append(idle, "second")
        assert (raised.value.segment, contents(path)) == (first.name, before)


async def test_file_that_shrank_under_an_open_handle_is_damage(tmp_path):
    path = tmp_path / "journal"
    async with opened(storage(path)) as journal:
        await append(journal, "a")
        (segment,) = segments(path)
        segment.write_bytes(segment.read_bytes()[:-1])
        before = contents(path)
        with pytest.raises(CorruptJournal):
            await append(journal, "b")
        assert contents(path) == before


# Formats.


async def test_journal_of_a_newer_version_is_refused_and_kept(tmp_path):
    path = tmp_path / "journal"
    await write_journal(path, 2)
    (segment,) = segments(path)
    whole = bytearray(segment.read_bytes())
    whole[8:10] = (2).to_bytes(2, "little")
    whole[SEGMENT_HEADER_BYTES - 4 : SEGMENT_HEADER_BYTES] = crc32(
        whole[: SEGMENT_HEADER_BYTES - 4]
    ).to_bytes(4, "little")
    segment.write_bytes(whole)
    error = await is_refused(path, UnsupportedFormat)
    assert "format version 2" in str(error)


async def test_intact_commit_with_an_unknown_event_is_of_a_newer_version(tmp_path):
    path = tmp_path / "journal"
    path.mkdir()
    payload = b"\x94\x01\x01\xa1a\x91\x92\xabtask.dreamed\xa1x".replace(b"\xab", b"\xac")
    frame = pack_frame(
        seed_of(b"j" * 16), payload, count=1, first_seq=1, durable=0, previous=GENESIS
    )
    header = pack_segment_header(SegmentHeader(b"j" * 16, 1, 1, 0, GENESIS))
    (path / "00000000000000000001.seg").write_bytes(header + frame)
    assert "task.dreamed" in str(await is_refused(path, UnsupportedFormat))


async def test_read_only_handle_reports_a_torn_end_and_leaves_it(tmp_path, caplog):
    path = tmp_path / "journal"
    await write_journal(path, 3)
    (segment,) = segments(path)
    segment.write_bytes(segment.read_bytes()[:-5])
    reboot(path)
    before = contents(path)
    caplog.set_level(logging.WARNING)
    reader = storage(path, read_only=True)
    assert await names_in(reader) == numbers(2)
    assert reader.torn is not None
    assert (contents(path), caplog.records) == (before, [])
    assert not (path / "journal.lock").exists()


async def test_hint_of_an_earlier_boot_is_not_trusted_where_boots_cannot_be_told_apart(
    tmp_path, monkeypatch, caplog
):
    """Else a power cut could leave a hole before a last frame that fits the hint."""
    monkeypatch.setattr("omniq.host._kernels_boot_id", lambda: "")
    boot_id.cache_clear()
    try:
        path = tmp_path / "journal"
        await write_journal(path, 4, synced=False)
        (segment,) = segments(path)
        flip(segment, frame_ends(segment.read_bytes())[2] + 5)
        assert await names_in(storage(path)) == numbers(2)
        assert [record.action for record in caplog.records] == ["torn_end_cut"]
    finally:
        boot_id.cache_clear()


async def test_damage_that_a_power_cut_could_have_done_is_damage_before_there_was_one(tmp_path):
    """Nothing was synced, so after a restart it is a torn end. Until then, nothing can be torn."""
    path = tmp_path / "journal"
    await write_journal(path, 6, synced=False)
    (segment,) = segments(path)
    offset = frame_ends(segment.read_bytes())[2]
    for place in (offset + 5, offset + FRAME_HEADER_BYTES + 5):
        flip(segment, place)
        before = contents(path)
        with pytest.raises(CorruptJournal):
            await names_in(storage(path))
        assert contents(path) == before
        flip(segment, place)
    flip(segment, offset + 5)
    reboot(path)
    assert await names_in(storage(path)) == numbers(2)

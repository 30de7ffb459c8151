"""Damage to a file journal: a torn end is cut, and said; anything else is an error, and untouched.

Exhaustive where that is possible: every cut, every bit.
"""

import logging
import os
import shutil
from zlib import crc32

import pytest

from omniq.core.events import Commit
from omniq.errors import CorruptJournal, UnsupportedFormat
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
from tests.storage.language import (
    QuickDisk,
    append,
    append_synced,
    contents,
    flip,
    frame_ends,
    names_in,
    opened,
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


async def test_cut_at_any_byte_leaves_the_commits_before_it(tmp_path, caplog):
    path = tmp_path / "journal"
    await write_journal(path, FRAMES)
    (segment,) = segments(path)
    whole = segment.read_bytes()
    ends = frame_ends(whole)
    assert len(ends) == FRAMES + 1
    for size in range(SEGMENT_HEADER_BYTES, len(whole)):
        kept = max(end for end in ends if end <= size)
        segment.write_bytes(whole[:size])
        reboot(path)
        caplog.clear()
        async with opened(storage(path)) as journal:
            assert (await journal.head()).seq == ends.index(kept)
            await append(journal, "next")
        aside = [name for name in os.listdir(path) if name.endswith(".torn")]  # noqa: PTH208 - fast
        if kept == size:
            assert (aside, caplog.records) == ([], [])
        else:
            assert [(path / name).read_bytes() for name in aside] == [whole[kept:size]]
            assert [record.action for record in caplog.records] == ["torn_end_cut"]
            (path / aside[0]).unlink()
        if size % 7 == 0:  # every frame has a length that seven does not divide
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
    assert (error.offset, error.sequence) == (offset, 3)
    assert "payload checksum" in error.expected
    assert error.found in str(error)
    assert f"python -m omniq.tools.replay verify {path}" in str(error)


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
async def test_zero_filled_end_is_torn(tmp_path, zeros):
    path = tmp_path / "journal"
    await write_journal(path, 3)
    (segment,) = segments(path)
    whole = segment.read_bytes()
    segment.write_bytes(whole + bytes(zeros))
    reboot(path)
    assert await names_in(storage(path)) == numbers(3)
    assert segment.read_bytes() == whole


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


async def test_segment_copied_over_another_is_damage(four_segments):
    for source in range(4):
        for target in range(4):
            if source != target:
                files = segments(four_segments)
                saved = files[target].read_bytes()
                shutil.copyfile(files[source], files[target])
                await is_refused(four_segments)
                files[target].write_bytes(saved)


async def test_segment_of_another_journal_is_damage(four_segments, tmp_path):
    await write_journal(tmp_path / "other", 17, segment_bytes=540)
    for number, file in enumerate(segments(four_segments)):
        saved = file.read_bytes()
        shutil.copyfile(segments(tmp_path / "other")[number], file)
        await is_refused(four_segments)
        file.write_bytes(saved)


async def test_missing_middle_segment_is_damage(four_segments):
    missing = segments(four_segments)[1]
    missing.unlink()
    error = await is_refused(four_segments)
    assert error.sequence == int(missing.stem)


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

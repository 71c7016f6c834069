"""Framed records are what TensorFlow writes, byte for byte."""

import pyarrow as pa
import tensorflow as tf

from preprocessing.framing import framed, masked_crc

RECORDS = [b"", b"a", b"\x00" * 300, "ümläut".encode(), b"a"]


def test_frames_are_those_of_tensorflow(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)
    for kind in (pa.binary(), pa.large_binary()):
        assert bytes(framed(pa.array(RECORDS, kind))) == (tmp_path / "theirs").read_bytes()


def test_a_slice_is_framed_alone():
    records = pa.array(RECORDS, pa.binary())
    assert bytes(framed(records.slice(1, 2))) == bytes(framed(pa.array(RECORDS[1:3], pa.binary())))


def test_no_records_are_no_bytes():
    assert bytes(framed(pa.array([], pa.binary()))) == b""


def test_the_checksum_of_a_known_text():
    """CRC-32C of "123456789" is 0xE3069283; rotated right by 15 bits, plus 0xA282EAD8."""
    assert masked_crc(b"123456789") == (0x2507C60D + 0xA282EAD8) & 0xFFFFFFFF

"""No bad sample is lost without a count, whatever the policy."""

import json
import pickle

import pytest

from mmfm.data.bad import BadSamples, SampleError
from mmfm.errors import DataError, InputError, OutputError


def error(number=0, cause="truncated"):
    return SampleError(f"s.tar: sample {number} is bad", "s.tar", f"k{number}", cause)


def test_an_error_survives_the_way_between_processes():
    got = pickle.loads(pickle.dumps(error(3)))
    assert (str(got), got.shard, got.key, got.cause) == (
        "s.tar: sample 3 is bad", "s.tar", "k3", "truncated",
    )  # fmt: skip
    assert isinstance(got, InputError)


def test_a_cause_is_a_stable_word():
    with pytest.raises(ValueError, match="short word"):
        SampleError("x", cause="It broke at byte 7")


def test_raise_is_the_default_and_gives_the_very_error():
    bad, one = BadSamples(), error()
    with pytest.raises(SampleError) as caught:
        bad.record(one)
    assert caught.value is one


def test_skip_counts_by_cause_and_lists_in_order(tmp_path):
    bad = BadSamples("skip", max_fraction=1)
    for number, cause in enumerate(["truncated", "no-caption", "truncated"]):
        bad.record(error(number, cause))
    assert bad.counts == {"truncated": 2, "no-caption": 1}
    bad.write(tmp_path / "deep" / "bad.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "deep" / "bad.jsonl").open()]
    assert [line["key"] for line in lines] == ["k0", "k1", "k2"]
    assert lines[1] == {
        "shard": "s.tar", "key": "k1", "cause": "no-caption", "message": "s.tar: sample 1 is bad",
    }  # fmt: skip


@pytest.mark.parametrize(("allowed", "bad_ones"), [(0.01, 1), (0.01, 2), (0.1, 10), (0.1, 11)])
def test_the_share_is_exact(allowed, bad_ones):
    bad = BadSamples("skip", max_fraction=allowed)
    for number in range(bad_ones):
        bad.record(error(number))
    if bad_ones <= allowed * 100:
        bad.seen(100)
        bad.check()
    else:
        with pytest.raises(DataError, match=f"{bad_ones} of 100 .*truncated {bad_ones}.*sample 0"):
            bad.seen(100)


def test_a_few_samples_are_judged_only_at_the_end():
    bad = BadSamples("skip", max_fraction=0.01)
    bad.seen(50)
    bad.record(error())
    bad.seen(49)
    with pytest.raises(DataError, match="1 of 99"):
        bad.check()
    with pytest.raises(DataError, match=r"1 of 100|1 of 101"):
        bad.max_fraction = 0.001
        bad.seen(1)


def test_a_fault_that_took_many_samples_weighs_as_many():
    bad = BadSamples("skip", max_fraction=0.1)
    bad.seen(1000)
    with pytest.raises(DataError, match="500 of 1000"):
        bad.record(error(), samples=500)
    assert bad.counts == {"truncated": 1}


def test_a_list_may_hold_any_name(tmp_path):
    bad = BadSamples("skip", max_fraction=1)
    bad.record(SampleError("x", "s", "é\udcff", "truncated"))
    bad.write(tmp_path / "list.jsonl")
    assert json.loads((tmp_path / "list.jsonl").read_bytes())["key"] == "é\udcff"


def test_quarantine_keeps_bytes_and_reason_once(tmp_path):
    folder = tmp_path / "q"
    for _ in range(2):  # a run, and the same run after a restart
        bad = BadSamples("quarantine", max_fraction=1, folder=folder)
        bad.record(error(1, "not-an-image"), b"\x00bytes")
        bad.record(error(2, "missing-shard"))
        assert sum(bad.counts.values()) == 2
    lines = [json.loads(line) for line in (folder / "reasons.jsonl").open()]
    assert [line["cause"] for line in lines] == ["not-an-image", "missing-shard"]
    assert (folder / lines[0]["file"]).read_bytes() == b"\x00bytes"
    assert lines[1]["file"] is None
    assert len(list(folder.iterdir())) == 2


def test_names_from_data_never_become_paths(tmp_path):
    bad = BadSamples("quarantine", max_fraction=1, folder=tmp_path / "q")
    bad.record(SampleError("x", "../../s", "../../../etc/passwd\n", "truncated"), b"1")
    bad.record(SampleError("x", "s", "\udcff", "truncated"), b"2")
    assert {path.parent for path in tmp_path.rglob("*.bin")} == {tmp_path / "q"}
    assert len((tmp_path / "q" / "reasons.jsonl").read_text().splitlines()) == 2


def test_a_line_that_a_crash_cut_off_does_no_harm(tmp_path):
    (tmp_path / "reasons.jsonl").write_text('{"name": "abc"}\n{"nam')
    bad = BadSamples("quarantine", max_fraction=1, folder=tmp_path)
    bad.record(error())
    last = (tmp_path / "reasons.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["key"] == "k0"


def test_a_quarantine_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    bad = BadSamples("quarantine", folder=tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write the quarantine"):
        bad.record(error(), b"1")
    with pytest.raises(OutputError, match="cannot write"):
        bad.write(tmp_path / "file" / "list.jsonl")


@pytest.mark.parametrize(
    "arguments",
    [{"on_error": "ignore"}, {"max_fraction": 1.5}, {"on_error": "quarantine"}, {"folder": "x"}],
)
def test_wrong_policies_are_refused(arguments):
    with pytest.raises(DataError):
        BadSamples(**arguments)

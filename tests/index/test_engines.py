"""Approximate search, addresses, missing libraries, and what one engine has that others lack."""

import subprocess
import sys
import time

import numpy as np
import pytest

from mmfm.errors import DataError, InputError
from mmfm.index import Index
from mmfm.index.engines import open_engine

DIM = 32


def clustered(count, seed=0):
    """Unit vectors around 50 centres, as those of pictures are."""
    centres = np.random.default_rng(42).standard_normal((50, DIM))
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(0, 50, count)] + 0.5 * rng.standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


IDS = [f"r{number:04}" for number in range(3000)]


def with_ann(url, engine):
    """3,000 rows in an index of that engine that searches approximately."""
    settings = {
        "hnsw": "?factory=HNSW16&search=efSearch=32",
        "ivf": "?factory=IVF32,Flat&search=nprobe=8",
        "codes": "?factory=PQ16x4fs",
        "lance": "?nprobes=4",
        "pgvector": "&ef_search=100",
    }
    index = open_engine(url + settings[engine], DIM, create=True)
    index.add(IDS, clustered(3000), [{"even": number % 2 == 0} for number in range(3000)])
    if engine == "lance":
        index.create_ann_index(num_partitions=16, num_sub_vectors=8)
    if engine == "pgvector":
        index.create_ann_index(m=16, ef_construction=64)
    return index


@pytest.fixture(params=["hnsw", "ivf", "codes", "lance", "pgvector"])
def ann(request, new_url):
    engine = request.param if request.param in ("lance", "pgvector") else "faiss"
    index = with_ann(new_url(engine), request.param)
    yield index
    index.close()


def test_approximate_search_has_recall_and_exact_scores(ann):
    stored, queries = clustered(3000), clustered(50, 7)
    cosines = queries @ stored.T
    best = np.argsort(-cosines, axis=1)[:, :10]
    found = ann.search(queries, 10)
    hits = [len({IDS[row] for row in rows} & set(ids)) for rows, ids in zip(best, found.ids)]
    assert sum(hits) / best.size >= 0.95
    for query, ids, scores in zip(cosines, found.ids, found.scores):
        np.testing.assert_allclose(scores, [query[IDS.index(name)] for name in ids], atol=1e-5)
        assert np.all(np.diff(scores) <= 0)


def test_an_approximate_search_sees_changes_and_filters_exactly(ann):
    stored, queries = clustered(3000), clustered(5, 8)
    ann.add(["new", "r0007"], -stored[[3, 9]])
    assert ann.remove(IDS[100:2500]) == 2400
    found = ann.search(-stored[[3, 9]], 1)
    assert found.ids == [["new"], ["r0007"]]
    alive = [*range(7), *range(8, 100), *range(2500, 3000)]
    for query, ids in zip(queries, ann.search(queries, 20, {"even": True}).ids):
        order = sorted((-float(query @ stored[row]), IDS[row]) for row in alive if row % 2 == 0)
        assert ids == [name for _, name in order[:20]]
    found = ann.search(queries, 5000)
    assert found.scores.shape == (5, 601) and np.isfinite(found.scores).all()
    assert all(sorted(ids) == ann.ids() for ids in found.ids)


@pytest.mark.parametrize("ef_search", [None, 50])
def test_the_database_uses_its_approximate_index_only_when_asked(ef_search, new_url, postgres):
    import psycopg

    url = new_url("pgvector")
    with_ann(url, "pgvector").close()
    index = open_engine(url)
    index.ef_search = ef_search
    index.search(clustered(3, 4), 5)
    index.search(clustered(3, 4), 5, {"even": True})
    index.close()
    counts = (
        "SELECT t.seq_scan, i.idx_scan FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i "
        "USING (relid) WHERE i.indexrelname = %s"
    )
    with psycopg.connect(postgres, autocommit=True) as connection:
        for _ in range(100):  # what a connection counted is told when it has gone
            seq, ann = connection.execute(counts, [f"{url.rpartition('=')[2]}_ann"]).fetchone()
            if ann == (3 if ef_search else 0) and seq >= (3 if ef_search else 6):
                return
            time.sleep(0.1)
    raise AssertionError((seq, ann))


def test_too_few_rows_to_train_are_searched_exactly(new_url):
    index = open_engine(new_url("faiss") + "?factory=IVF16,PQ8", DIM, create=True)
    index.add(IDS[:200], clustered(200))
    assert index.search(clustered(200)[:50], 1).ids == [[name] for name in IDS[:50]]
    index.close()
    lance = open_engine(new_url("lance"), DIM, create=True)
    lance.add(IDS[:300], clustered(300))
    with pytest.raises(DataError, match="LanceDB made no index"):
        lance.create_ann_index(num_sub_vectors=7)


def test_a_kept_faiss_index_is_read_and_an_outdated_or_damaged_one_is_not(tmp_path, monkeypatch):
    from mmfm.index.faiss_index import FaissIndex

    built = []
    build = FaissIndex._build
    monkeypatch.setattr(FaissIndex, "_build", lambda self: (built.append(1), build(self)))

    def asked():
        index = FaissIndex.open(tmp_path / "i")
        answer = index.search(clustered(3, 9), 5).ids
        index.close()
        return answer

    index = FaissIndex.create(tmp_path / "i", DIM, "HNSW16")
    index.add(IDS[:500], clustered(500))
    first = index.search(clustered(3, 9), 5).ids
    index.remove([first[0][0]])
    index.close()
    assert len(built) == 1 and asked()[0][:4] == first[0][1:] and len(built) == 1
    kept = tmp_path / "i" / "faiss.index"
    index = FaissIndex.open(tmp_path / "i")
    index.add(["new"], clustered(3, 9)[:1])
    assert not kept.exists()  # a process that dies here leaves nothing that is wrong
    assert asked()[0][0] == "new" and len(built) == 2 and kept.exists()
    kept.write_bytes(kept.read_bytes()[:1000])
    assert asked()[0][0] == "new" and len(built) == 3
    with pytest.raises(DataError, match="was made with 'HNSW16', not 'Flat'"):
        FaissIndex.open(tmp_path / "i", factory="Flat")
    with pytest.raises(DataError, match="faiss knows no index 'Nonsense7'"):
        FaissIndex.create(tmp_path / "j", DIM, "Nonsense7")
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("engine", ["lance", "pgvector"])
def test_two_that_have_one_table_open_see_each_other(engine, new_url):
    url = new_url(engine)
    one, two = open_engine(url, DIM, create=True), open_engine(url, DIM, create=True)
    one.add(IDS[:5], clustered(5), [{"a": 1}] * 5)
    assert two.ids() == IDS[:5]
    two.add(IDS[3:8], clustered(5, 1), [{"b": 2}] * 5)
    assert one.remove(IDS[:1]) == 1 and two.ids() == IDS[1:8] == one.ids()
    assert one.search(clustered(1, 1), 1, "b=2").ids == [["r0003"]]
    one.close()
    two.close()


@pytest.mark.parametrize("engine", ["lance", "pgvector"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_a_text_that_no_database_holds_is_refused(engine, text, new_url):
    index = open_engine(new_url(engine), DIM, create=True)
    index.add(["a"], clustered(1))
    for call in (
        lambda: index.add([text], clustered(1)),
        lambda: index.add(["b"], clustered(1), [{"a": text}]),
        lambda: index.search(clustered(1), 1, {"a": ("<", text)}),
        lambda: index.vectors([text]),
    ):
        with pytest.raises(DataError):
            call()
    assert index.remove([text, "b"]) == 0 and index.ids() == ["a"]
    index.close()


def test_what_the_server_refuses_is_one_sentence_and_changes_nothing(new_url):
    wide = open_engine(new_url("pgvector"), 2001, create=True)
    wide.add(["a"], np.random.default_rng(0).standard_normal((1, 2001)))
    with pytest.raises(DataError, match=r"^PostgreSQL refused: .*2000 dimensions.*\.$"):
        wide.create_ann_index()
    long = "".join(chr(33 + number % 90) + chr(number) for number in range(200, 3000))
    with pytest.raises(DataError, match=r"^PostgreSQL refused: .*maximum"):
        wide.add(["b", long], np.random.default_rng(0).standard_normal((2, 2001)))
    assert wide.ids() == ["a"]
    wide._connection.close()
    with pytest.raises(DataError, match="connection is closed"):
        wide.add(["b"], np.ones((1, 2001)))


def test_lance_refuses_a_number_that_its_filters_cannot_tell_from_others(new_url):
    index = open_engine(new_url("lance"), DIM, create=True)
    for number in (2**64, -(2**63) - 1, 10**400):
        with pytest.raises(DataError, match="64 bits"):
            index.add(["a"], clustered(1), [{"n": number}])
    index.add(["a"], clustered(1), [{"n": 2**64 - 1}])
    assert index.search(clustered(1), 1, {"n": ("<", 10**400)}).ids == [["a"]]
    assert index.search(clustered(1), 1, {"n": 2**64}).ids == [[]]
    index.close()


def test_lance_stays_right_when_its_files_are_joined(new_url):
    url = new_url("lance") + "?nprobes=2"
    index = open_engine(url, DIM, create=True)
    for start in range(0, 1000, 250):
        index.add(IDS[start : start + 250], clustered(1000)[start : start + 250])
        if start == 250:
            index.create_ann_index(num_partitions=2, num_sub_vectors=8)
    index.remove(IDS[:3])
    before = index.search(clustered(20, 1), 5)
    index.compact()
    after = index.search(clustered(20, 1), 5)
    assert before.ids == after.ids and index.ids() == IDS[3:1000]
    index.close()


@pytest.mark.parametrize(
    ("engine", "module", "extra"),
    [
        ("faiss", "faiss", "faiss"),
        ("lance", "lancedb", "lance"),
        ("pgvector", "psycopg", "pgvector"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(engine, module, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    url = "postgresql://nobody@/x" if engine == "pgvector" else f"{engine}:{tmp_path / 'i'}"
    with pytest.raises(DataError, match=rf"{module}.*pip install 'mmfm\[{extra}\]'"):
        open_engine(url, DIM, create=True)


@pytest.mark.parametrize("engine", ["flat", "faiss", "lance", "pgvector"])
def test_an_index_that_is_not_there_is_not_made_unasked(engine, new_url):
    url = new_url(engine)
    for _ in range(2):
        with pytest.raises(DataError):
            open_engine(url)
    with pytest.raises(DataError, match="dim"):
        open_engine(url, create=True)
    open_engine(url, DIM, create=True).close()
    with pytest.raises(DataError, match="length 32; wanted 8"):
        open_engine(url, 8)
    assert open_engine(url).dim == DIM


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("faiss:{0}/a?size=3", "'size' for faiss"),
        ("lance:{0}/a?nprobes=many", "whole number"),
        ("postgresql://postgres:hushhush@127.0.0.1:1/x", "cannot be reached"),
        ("postgresql://postgres:hushhush@/x?nonsense=1", "cannot be read"),
        ("{pg}&table=two words", "wanted NAME or SCHEMA.NAME"),
        ("{pg}&table=pg_catalog.pg_class", "no index of ours"),
        ("lance:s3://no-such/place?aws_endpoint=http://127.0.0.1:1", "s3://no-such/place"),
    ],
)
def test_a_wrong_address_is_one_clear_sentence(url, words, tmp_path, postgres):
    with pytest.raises(InputError, match=words) as caught:
        open_engine(url.format(tmp_path, pg=postgres), DIM, create=True)
    assert "hushhush" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_all_libraries_live_in_one_process(new_url):
    """faiss, torch and LanceDB each bring threads and OpenMP of their own."""
    script = (
        "import sys, numpy as np, torch\n"
        "from mmfm.index.engines import open_engine, copy\n"
        "rows = np.random.default_rng(0).standard_normal((2000, 32)).astype(np.float32)\n"
        "faiss, lance = (open_engine(url, 32, create=True) for url in sys.argv[1:])\n"
        "faiss.add([f'{n:04}' for n in range(2000)], rows)\n"
        "copy(faiss, lance)\n"
        "for turn in range(3):\n"
        "    torch.randn(300, 300) @ torch.randn(300, 300)\n"
        "    a, b = faiss.search(rows[:99], 5), lance.search(rows[:99], 5)\n"
        "    assert a.ids == b.ids and torch.from_numpy(a.scores).sum() > 0\n"
    )
    urls = [new_url("faiss"), new_url("lance")]
    subprocess.run([sys.executable, "-c", script, *urls], check=True, timeout=120)


@pytest.mark.parametrize("engine", ["faiss", "lance", "pgvector"])
def test_pictures_over_another_engine_are_found_as_over_ours(
    engine, new_url, embedder, gallery, tmp_path
):
    def answers(index):
        red = index.search("red", 4, where="width>=8")
        green = index.search(image=gallery / "green.png", k=20)
        hits = [*red, *green]
        return [hit.path for hit in hits], [hit.score for hit in hits]

    def same(index, wanted):
        (paths, scores), (others, theirs) = answers(index), answers(wanted)
        return paths == others and scores == pytest.approx(theirs, abs=1e-5)  # as the protocol says

    url = new_url(engine)
    rows = open_engine(url, 32, create=True)
    Index.build(embedder, gallery, tmp_path / "other", engine=rows)
    Index.build(embedder, gallery, tmp_path / "ours")
    rows.close()
    (gallery / "red.png").unlink()
    (gallery / "noise03.png").replace(gallery / "new.png")
    rows = open_engine(url)
    other = Index.build(embedder, gallery, tmp_path / "other", engine=rows)
    ours = Index.build(embedder, gallery, tmp_path / "ours")
    assert other.report["removed"] == ours.report["removed"] > 0
    assert same(other, ours)
    rows.close()
    assert same(Index.open(tmp_path / "other", embedder, engine=open_engine(url)), ours)

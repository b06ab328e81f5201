"""The contract of sentence-transformers, on the tiny model: shapes, types, names and refusals."""

import inspect

import numpy as np
import pytest
import torch

from mmfm.errors import ImageError, InputError, TextError
from mmfm.sentence import SentenceEncoder

TEXTS = ["a red circle", "tree", "a green square on a blue table"]


@pytest.fixture
def model(tiny_bundle):
    """One of its own for each test that sets prompts and names."""
    import mmfm

    return mmfm.load(tiny_bundle, device="cpu")


def test_arguments_have_their_names_order_and_defaults():
    theirs = pytest.importorskip("sentence_transformers").SentenceTransformer
    for method in ("encode", "similarity", "similarity_pairwise", "truncate_embeddings"):
        wanted = inspect.signature(getattr(theirs, method)).parameters
        ours = inspect.signature(getattr(SentenceEncoder, method)).parameters
        names = [name for name in wanted if name != "kwargs"]
        assert list(ours)[: len(names)] == names
        assert [ours[n].default for n in names] == [wanted[n].default for n in names]


def test_texts_and_pictures_in_any_mixture_keep_their_vectors(tiny_model, ellipses):
    texts, images = tiny_model.embed_texts(TEXTS), tiny_model.embed_images(ellipses)
    mixed = [ellipses[0], TEXTS[0], {"image": ellipses[1]}, {"text": TEXTS[1]}, TEXTS[2]]
    wanted = np.stack([images[0], texts[0], images[1], texts[1], texts[2]])
    for batch_size in (1, 2, 32):
        found = tiny_model.encode(mixed, batch_size=batch_size)
        assert found.shape == (5, 32)
        assert np.allclose(found, wanted, atol=1e-5)
    assert np.array_equal(tiny_model.encode(TEXTS), texts)
    assert np.array_equal(tiny_model.encode(np.array(TEXTS)), texts)
    assert tiny_model.encode([]).shape == (0, 32)


def test_one_input_gives_one_vector(tiny_model, ellipses, tmp_path, monkeypatch):
    ellipses[0].save(tmp_path / "red.png")
    wanted = tiny_model.embed_images(ellipses[0])[0]
    for one in (ellipses[0], tmp_path / "red.png", str(tmp_path / "red.png"),
                np.asarray(ellipses[0]), {"image": ellipses[0]}):  # fmt: skip
        vector = tiny_model.encode(one)
        assert vector.shape == (32,)
        assert np.allclose(vector, wanted, atol=1e-6)
    monkeypatch.chdir(tmp_path)
    assert np.allclose(tiny_model.encode("red.png"), wanted, atol=1e-6)
    words = tiny_model.encode("red.png", modality="text")
    assert np.array_equal(words, tiny_model.embed_texts("red.png")[0])


def test_results_come_as_asked(tiny_model):
    array = tiny_model.encode(TEXTS)
    tensor = tiny_model.encode(TEXTS, convert_to_tensor=True)
    several = tiny_model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(tensor, torch.Tensor)
    assert isinstance(several, list)
    assert np.array_equal(tensor.numpy(), array)
    assert np.array_equal(torch.stack(several).numpy(), array)
    assert tiny_model.encode(TEXTS[0], convert_to_tensor=True).shape == (32,)
    assert tiny_model.encode(TEXTS, precision="int8").dtype == np.int8
    assert tiny_model.encode(TEXTS, precision="ubinary").shape == (3, 4)
    assert tiny_model.encode(TEXTS, precision="binary", convert_to_tensor=True).dtype == torch.int8


def test_vectors_have_unit_length_with_and_without_asking(tiny_model):
    for normalise in (False, True):
        vectors = tiny_model.encode(TEXTS, normalize_embeddings=normalise)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_truncated_vectors_are_the_first_numbers_and_unit_only_when_asked(model):
    whole = model.encode(TEXTS)
    assert np.array_equal(model.encode(TEXTS, truncate_dim=8), whole[:, :8])
    unit = model.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    with model.truncate_embeddings(4):
        assert model.encode(TEXTS).shape == (3, 4)
        assert model.get_embedding_dimension() == 4
    assert model.get_sentence_embedding_dimension() == 32
    assert np.array_equal(model.encode(TEXTS, truncate_dim=1000), whole)


def test_prompts_go_before_texts_and_never_before_pictures(model, ellipses):
    plain = model.encode(["a drawing of tree"])
    model.prompts["draw"] = "a drawing of "
    assert np.array_equal(model.encode(["tree"], prompt_name="draw"), plain)
    assert np.array_equal(model.encode(["tree"], prompt="a drawing of "), plain)
    assert np.array_equal(model.encode(ellipses, prompt_name="draw"), model.encode(ellipses))
    model.default_prompt_name = "draw"
    assert np.array_equal(model.encode(["tree"]), plain)
    assert np.array_equal(model.encode(["tree"], prompt=""), model.embed_texts("tree"))
    with pytest.raises(InputError, match="no prompt 'sing'"):
        model.encode("tree", prompt_name="sing")


def test_queries_and_documents_have_prompts_of_their_own(model):
    assert np.array_equal(model.encode_query(TEXTS), model.encode_document(TEXTS))
    model.prompts.update(query="find ", document="page: ")
    for method, prompt in ((model.encode_query, "find "), (model.encode_document, "page: ")):
        assert np.array_equal(method("tree"), model.encode(prompt + "tree"))
        assert np.array_equal(method("tree", prompt=""), model.encode("tree"))
    assert model.embed_query("tree") == model.encode("find tree").tolist()
    assert model.embed_documents(["tree"]) == model.encode(["page: tree"]).tolist()
    # another model's prompts do not change
    assert SentenceEncoder().prompts == {"query": "", "document": ""}


def test_tokens_come_without_padding_and_in_order(tiny_model, ellipses):
    mixed = ["tree", ellipses[0], "a green square on a blue table", ellipses[1]]
    tokens = tiny_model.encode(mixed, output_value="token_embeddings", batch_size=2)
    assert [len(t) for t in tokens] == [3, len(tokens[1]), 9, len(tokens[1])]
    alone = tiny_model.encode("tree", output_value="token_embeddings")
    assert torch.allclose(tokens[0], alone, atol=1e-5)
    both = tiny_model.encode(mixed, output_value=None)
    vectors = tiny_model.encode(mixed)
    for one, several, vector in zip(both, tokens, vectors):
        assert np.allclose(one["sentence_embedding"], vector, atol=1e-5)
        assert torch.allclose(one["token_embeddings"], several, atol=1e-5)


def test_likeness_equals_theirs_for_every_name(model):
    util = pytest.importorskip("sentence_transformers.util")
    a, b = model.encode(TEXTS), model.encode(["circle", "house", "sky"])
    names = {"cosine": "cos_sim", "dot": "dot_score", "euclidean": "euclidean_sim",
             "manhattan": "manhattan_sim"}  # fmt: skip
    assert model.similarity_fn_name == "cosine"
    for name, theirs in names.items():
        model.similarity_fn_name = name
        wanted = getattr(util, theirs)(a, b)
        assert torch.allclose(model.similarity(a, b), wanted, atol=1e-5)
        assert torch.allclose(model.similarity(torch.from_numpy(a), list(b)), wanted, atol=1e-5)
        assert torch.allclose(model.similarity_pairwise(a, b), wanted.diagonal(), atol=1e-5)
    model.similarity_fn_name = None
    assert model.similarity_fn_name == "cosine"
    with pytest.raises(InputError, match="'maxsim'"):
        model.similarity_fn_name = "maxsim"


def test_what_the_model_says_of_itself(tiny_model):
    assert tiny_model.modalities == ["text", "image"]
    assert tiny_model.supports("image")
    assert not tiny_model.supports(("image", "text"))
    assert tiny_model.max_seq_length == tiny_model.config.backbone.context_length
    assert tiny_model.to("cpu") is tiny_model
    assert tiny_model.encode("tree", device="cpu").shape == (32,)


def test_an_empty_text_has_a_finite_vector(tiny_model):
    vectors = tiny_model.encode(["", "tree"])
    assert np.isfinite(vectors).all()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_too_long_a_text_is_cut_with_a_warning_or_refused(tiny_model):
    text = "a long description of a tree with many green leaves, some red flowers, one small bird"
    with pytest.warns(UserWarning, match="one small bird"):
        tiny_model.encode([text, "tree"])
    with pytest.raises(TextError, match="one small bird"):
        tiny_model.encode(text, truncate="error")


@pytest.mark.parametrize(
    ("inputs", "options", "error"),
    [
        ("a", {"batch_size": 0}, InputError),
        ("a", {"output_value": "logits"}, InputError),
        ("a", {"precision": "int4"}, InputError),
        ("a", {"precision": "int8"}, InputError),
        ("a", {"truncate_dim": 0}, InputError),
        ("a", {"compute": "fp8"}, InputError),
        ("https://example.org/cat.png", {}, ImageError),
        ({"audio": "a"}, {}, InputError),
        ([["a", "b"]], {}, InputError),
    ],
)
def test_wrong_calls_are_refused(tiny_model, inputs, options, error):
    with pytest.raises(error):
        tiny_model.encode(inputs, **options)


@pytest.mark.slow
def test_several_processes_give_the_same_vectors(model, ellipses):
    mixed = [*TEXTS, *ellipses] * 3
    wanted = model.encode(mixed)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        for chunk_size in (None, 1, 5, 100):
            found = model.encode(mixed, pool=pool, chunk_size=chunk_size)
            assert np.allclose(found, wanted, atol=1e-5)
        with pytest.raises(ImageError, match="No file"):
            model.encode([*TEXTS, {"image": "absent.png"}], pool=pool, chunk_size=1)
        assert np.allclose(model.encode(TEXTS, pool=pool), wanted[:3], atol=1e-5)
        pool["processes"][0].kill()
        pool["processes"][1].kill()
        with pytest.raises(RuntimeError, match="died"):
            model.encode(TEXTS, pool=pool)
    finally:
        model.stop_multi_process_pool(pool)
    assert np.allclose(model.encode(TEXTS, device=["cpu"]), wanted[:3], atol=1e-5)

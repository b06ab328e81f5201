"""Our model in the hands of code that was written for sentence-transformers, unchanged.

The model is `mini`, which knows what things are called, so that answers can be right or wrong.
"""

import asyncio

import numpy as np
import pytest
import torch
from PIL import Image

import mmfm
from mmfm.cli import gallery

st = pytest.importorskip("sentence_transformers")
util = pytest.importorskip("sentence_transformers.util")
evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")


@pytest.fixture(scope="module")
def model():
    return mmfm.load("mini", device="cpu")


@pytest.fixture(scope="module")
def drawings():
    """{name: path} of drawings that ship with the package."""
    found = {one.text: str(one.path) for one in gallery.read()}
    return dict(list(found.items())[:12])


def test_their_search_finds_drawings_by_name(model, drawings):
    corpus = model.encode(list(drawings.values()), convert_to_tensor=True)
    queries = model.encode(list(drawings), convert_to_tensor=True)
    hits = util.semantic_search(queries, corpus, top_k=3)
    found = [any(hit["corpus_id"] == place for hit in some) for place, some in enumerate(hits)]
    assert np.mean(found) > 0.7
    scores = model.similarity(queries, corpus)
    assert hits[0][0]["score"] == pytest.approx(scores[0].max().item(), abs=1e-5)


def test_their_mining_and_clustering_take_our_vectors(model):
    texts = ["a red car", "a blue whale", "a red car", "green tree", "a blue whale"]
    pairs = util.paraphrase_mining(model, texts)
    assert {tuple(sorted(pair[1:])) for pair in pairs[:2]} == {(0, 2), (1, 4)}
    assert pairs[0][0] == pytest.approx(1, abs=1e-5)
    assert util.paraphrase_mining_embeddings(model.encode(texts, convert_to_tensor=True))
    groups = util.community_detection(
        model.encode(texts, convert_to_tensor=True), threshold=0.99, min_community_size=2
    )
    assert sorted(map(sorted, groups)) == [[0, 2], [1, 4]]


def test_their_retrieval_evaluator_agrees_with_ours(model, drawings):
    from mmfm.evaluation import recall_at_k

    names = list(drawings)
    evaluator = evaluation.InformationRetrievalEvaluator(
        queries={f"q{i}": name for i, name in enumerate(names)},
        corpus={f"d{i}": path for i, path in enumerate(drawings.values())},
        relevant_docs={f"q{i}": {f"d{i}"} for i in range(len(names))},
        accuracy_at_k=[1, 5], mrr_at_k=[5], ndcg_at_k=[5], precision_recall_at_k=[1], map_at_k=[5],
        name="gallery",
    )  # fmt: skip
    theirs = evaluator(model)
    ours = recall_at_k(
        model.embed_texts(names), model.embed_images(list(drawings.values())), names, names
    )
    for k in (1, 5):
        wanted = ours[f"text_to_image_recall@{k}"]
        assert theirs[f"gallery_cosine_accuracy@{k}"] == pytest.approx(wanted)
    assert model.model_card_data.metrics[-1][1] == theirs


def test_their_other_evaluators_run(model):
    same = evaluation.EmbeddingSimilarityEvaluator(
        ["a red car", "a tree", "a cat"], ["a red car", "a plant", "a bus"], [1.0, 0.6, 0.0]
    )
    figures = same(model)
    assert figures["spearman_cosine"] > 0.9
    triplet = evaluation.TripletEvaluator(["a cat"], ["a cat"], ["a bus"])
    assert triplet(model)["cosine_accuracy"] == 1
    pairs = evaluation.BinaryClassificationEvaluator(
        ["a cat", "a bus"], ["a cat", "a tree"], [1, 0]
    )
    assert pairs(model)["cosine_accuracy"] == 1


def test_their_hard_negatives_are_mined(model):
    datasets = pytest.importorskip("datasets")
    names = ["a red car", "a blue whale", "a green tree", "a black cat", "the moon"]
    data = datasets.Dataset.from_dict({"query": names, "positive": [f"{n}." for n in names]})
    mined = util.mine_hard_negatives(data, model, num_negatives=2, verbose=False)
    assert len(mined) == 2 * len(names)
    assert all(row["negative"] != row["positive"] for row in mined)


def test_langchain_stores_take_the_model_itself(model):
    stores = pytest.importorskip("langchain_core.vectorstores")
    texts = ["a red car", "a blue whale", "a green tree"]
    store = stores.InMemoryVectorStore.from_texts(texts, embedding=model)
    assert store.similarity_search("a blue whale", k=1)[0].page_content == "a blue whale"
    found = asyncio.run(store.asimilarity_search("a green tree", k=1))
    assert found[0].page_content == "a green tree"
    assert store.similarity_search_by_vector(model.embed_query("a red car"), k=1)
    # a document that is a path is a document
    assert model.embed_query("no.png") == model.embed_texts("no.png")[0].tolist()


def test_llama_index_takes_the_model_as_langchain_ones(model):
    """LlamaIndex's own class for objects with LangChain's two methods; nothing of ours between."""
    core = pytest.importorskip("llama_index.core")
    theirs = pytest.importorskip("llama_index.embeddings.langchain")
    texts = ["a red car", "a blue whale", "a green tree"]
    index = core.VectorStoreIndex.from_documents(
        [core.Document(text=text) for text in texts],
        embed_model=theirs.LangchainEmbedding(model),
    )
    [hit] = index.as_retriever(similarity_top_k=1).retrieve("a blue whale")
    assert hit.node.text == "a blue whale"


# ---------------------------------------------------------------------- a bundle by its path


@pytest.fixture(scope="module")
def theirs(tiny_bundle):
    return st.SentenceTransformer(str(tiny_bundle), trust_remote_code=True, device="cpu")


def test_a_bundle_is_a_model_of_theirs_with_equal_vectors(theirs, tiny_model, ellipses):
    texts = ["a red circle", "tree", "a green square on a blue table"]
    assert np.allclose(theirs.encode(texts), tiny_model.encode(texts), atol=1e-6)
    assert np.allclose(theirs.encode(ellipses), tiny_model.encode(ellipses), atol=1e-6)
    assert theirs.encode("tree", prompt="a ").shape == (32,)
    assert np.allclose(theirs.encode("tree", prompt="a "), tiny_model.encode("a tree"), atol=1e-6)
    for ours, wanted in zip(
        tiny_model.encode(texts, output_value="token_embeddings"),
        theirs.encode(texts, output_value="token_embeddings"),
    ):
        assert torch.allclose(ours, wanted, atol=1e-5)


def test_it_says_the_same_of_itself(theirs, tiny_model):
    assert theirs.modalities == tiny_model.modalities
    assert theirs.get_embedding_dimension() == tiny_model.get_embedding_dimension()
    assert theirs.max_seq_length == tiny_model.max_seq_length
    assert theirs.similarity_fn_name == tiny_model.similarity_fn_name
    with pytest.raises(ValueError, match="reads"):
        theirs[0].max_seq_length = 5


def test_what_they_save_we_load_whole(theirs, tiny_model, ellipses, tmp_path):
    theirs.save(str(tmp_path / "saved"))
    back = mmfm.load(tmp_path / "saved", device="cpu")
    assert np.array_equal(back.encode(ellipses), tiny_model.encode(ellipses))
    assert set(back.parts) == set(tiny_model.parts)
    again = st.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    assert np.array_equal(again.encode(["tree"]), theirs.encode(["tree"]))


def test_their_losses_reach_both_towers(tiny_bundle):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    model = st.SentenceTransformer(str(tiny_bundle), trust_remote_code=True, device="cpu")
    red, blue = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    features = [model.preprocess([red, blue]), model.preprocess(["red", "blue"])]
    losses.MultipleNegativesRankingLoss(model)(features, None).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(".visual." in name for name in moved)
    assert any(".transformer." in name and ".visual." not in name for name in moved)


def test_langchain_and_llama_index_take_a_bundle_by_its_path(tiny_bundle, tiny_model, ellipses,
                                                             tmp_path):  # fmt: skip
    wanted = tiny_model.encode("a red circle")
    langchain = pytest.importorskip("langchain_huggingface")
    how = {"trust_remote_code": True, "device": "cpu"}
    embeddings = langchain.HuggingFaceEmbeddings(model_name=str(tiny_bundle), model_kwargs=how)
    assert np.allclose(embeddings.embed_query("a red circle"), wanted, atol=1e-6)
    llama = pytest.importorskip("llama_index.embeddings.huggingface")
    embeddings = llama.HuggingFaceEmbedding(model_name=str(tiny_bundle), **how)
    assert np.allclose(embeddings.get_text_embedding("a red circle"), wanted, atol=1e-6)
    ellipses[0].save(tmp_path / "red.png")
    found = embeddings.get_image_embedding(str(tmp_path / "red.png"))
    assert np.allclose(found, tiny_model.encode(ellipses[0]), atol=1e-6)

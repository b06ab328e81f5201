"""A small text tower of Hugging Face, as files, without weights."""

import json


def roberta(folder):
    """`folder`, filled with the config of a RoBERTa and a tokenizer of three whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "red": 5, "tree": 6}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>",
        unk_token="<unk>", sep_token="</s>",
    ).save_pretrained(folder)  # fmt: skip
    config = {
        "model_type": "roberta", "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 20,
        "pad_token_id": 1, "architectures": ["RobertaModel"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def text_of(folder):
    """The `text_cfg` of open_clip that names it."""
    return {
        "hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_proj_type": "mlp",
        "context_length": 16, "hf_pooler_type": "mean_pooler",
    }  # fmt: skip

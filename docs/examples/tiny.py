"""The model of the examples: a Llama that trains on a laptop."""

from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import cdgen


def tiny_llama(corpus: cdgen.Corpus) -> LlamaForCausalLM:
    """Two layers, for the corpus's own tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(corpus.folder / "tokenizer")
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))

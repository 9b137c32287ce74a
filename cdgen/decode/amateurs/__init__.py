"""The kinds of amateur, each a LanguageModel: `opening` makes the pair a recipe asks for.

- checkpoint, model: a second model, on the expert's path (`models.open_model`)
- dropout: the expert with attention dropout, its own cache (`dropout`)
- early_exit, temperature: what the expert's last forward pass said (`overheard`)
- quantized: the expert with rounded weights (`quantized`)
- truncated_context: the expert with less context (`truncated`)
- ngram: counts of the train split (`cdgen.decode.ngram`)
"""

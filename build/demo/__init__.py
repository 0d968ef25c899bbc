"""The demo checkpoint's own recipe: text, tokenizer, training and evaluation."""

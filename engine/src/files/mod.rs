//! Model files in and out: Hugging Face folders, GGUF, tokenizers, PEFT adapters, merged models. No mathematics.

"""Tokens in, tokens and logprobs out: tokenizer, KV cache, scheduler, sampler, engine."""

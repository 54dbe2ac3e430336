"""On a CPU a cache takes memory for what is asked for again, not for every prompt."""

import torch

from unshard.engine.block_pool import BLOCK_TOKENS
from unshard.engine.engine import Engine
from unshard.engine.paged_cache import UNUSED_TOKENS, PagedCache
from unshard.engine.request import GenerationRequest, SamplingParams
from unshard.engine.runner import Runner


def test_prompts_that_nobody_repeats_do_not_fill_the_cache(model, tokenizer, run):
    kept = UNUSED_TOKENS // BLOCK_TOKENS
    cache = PagedCache(model.config, 4 * kept, torch.float32, model.device)
    engine = Engine(Runner(model, cache), tokenizer, 1)
    once = SamplingParams(max_tokens=1, temperature=0)
    for number in range(kept):
        ids = (2, *[4 + number] * (2 * BLOCK_TOKENS))
        run(engine, [GenerationRequest("a", ids, once)])
    written = cache.layers[0][: cache.num_blocks].flatten(1).any(1)
    assert written.sum() <= kept + 3

"""A step takes nothing from the CPU but its numbers: on a device without values, which no operation
mixes with a CPU's, it comes to its end."""

import pytest
import torch

from unshard.architectures.opt import OPTConfig
from unshard.engine.paged_cache import PagedCache
from unshard.engine.runner import Runner
from unshard.engine.step import StepLayout
from unshard.models.opt import OPTModel

META = torch.device("meta")


@pytest.mark.parametrize("embedding_size", [256, 128])
@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(torch.float32, None), (torch.bfloat16, None), (torch.float16, None), (torch.bfloat16, 4)],
)
def test_a_step_stays_on_its_device(dtype, bits, embedding_size):
    config = OPTConfig(3, 256, 4, 1024, 520, 64, embedding_size, pre_norm=embedding_size == 256)
    with torch.inference_mode():
        model = OPTModel(config, dtype, META, matrix_bits=bits)
        model.finalize()
        runner = Runner(model, PagedCache(config, 8, dtype, META))
        decoding_and_prompt = StepLayout(((0,), (1,), (2,)), (1, 1, 4), (9, 12, 4))
        hidden = runner.compute([1, 2, 3, 4, 5, 6], decoding_and_prompt)
        logits = runner.logits(hidden)
    assert {tensor.device for tensor in model.tensors()} == {META}
    assert (hidden.device, hidden.dtype) == (META, dtype)
    assert (logits.shape, logits.dtype) == ((6, 520), torch.float32)

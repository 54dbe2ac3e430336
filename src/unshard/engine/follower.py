"""A rank other than 0: computes what it is told, until it is told to stop."""

from __future__ import annotations

import torch

from unshard.engine.messages import LOGITS, STEP, STOP, WIPE, StepMessage
from unshard.engine.runner import Runner
from unshard.parallel.ranks import Ranks


def follow(runner: Runner, ranks: Ranks) -> None:
    """Returns when rank 0 says so; any exception means that the group is over."""
    with torch.inference_mode():
        while (message := ranks.receive())[0] != STOP:
            if message[0] == STEP:
                step = StepMessage.read(message)
                runner.compute(step.token_ids, step.layout, step.num_kept)
            elif message[0] == LOGITS:
                runner.logits(ranks.spread(runner.empty_hidden(message[1])))
            elif message[0] == WIPE:
                runner.wipe(message[1:])

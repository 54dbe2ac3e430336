"""What an engine is doing and has done, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from unshard.engine.block_pool import CacheUse


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """One moment of an engine, between two steps; what is counted is counted from its start."""

    cache: CacheUse
    num_running: int
    """Sequences that hold blocks: those that decode, and those that read their prompts."""
    num_waiting: int
    """Requests that wait to be started, or started again."""
    batch_size: int
    """Sequences that the last step advanced; 0 when there is nothing to do."""
    num_steps: int
    num_step_tokens: int
    """Tokens that all steps computed, those of prompts and those generated."""
    num_preempted: int
    """How often a sequence had to give its blocks back and start again."""

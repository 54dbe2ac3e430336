"""The configuration that a metaseq trainer would have stored in the checkpoint."""

from argparse import Namespace
from typing import Any

from .settings import Architecture, Recipe, ShardGrid


def model_namespace(architecture: Architecture, recipe: Recipe, parts: int) -> Namespace:
    """The arguments of the model, under OPT's names."""
    return Namespace(
        _name="transformer_lm_megatron",
        arch="transformer_lm_megatron",
        activation_fn="relu",
        dropout=recipe.dropout,
        attention_dropout=0.0,
        decoder_embed_dim=architecture.width,
        decoder_input_dim=architecture.width,
        decoder_output_dim=architecture.width,
        decoder_ffn_embed_dim=architecture.ffn_width,
        decoder_layers=architecture.layers,
        decoder_attention_heads=architecture.heads,
        decoder_normalize_before=True,
        decoder_learned_pos=True,
        no_scale_embedding=True,
        share_decoder_input_output_embed=True,
        max_target_positions=architecture.max_positions,
        tokens_per_sample=architecture.max_positions,
        model_parallel_size=parts,
        memory_efficient_fp16=True,
        use_sharded_state=True,
        checkpoint_activations=True,
        adam_betas=str(recipe.adam_betas),
        clip_norm=recipe.clip_norm,
        weight_decay=recipe.weight_decay,
        lr=[recipe.adam_learning_rate],
        seed=recipe.seed,
    )


def task_namespace(architecture: Architecture) -> Namespace:
    """The arguments of the task: where the tokenizer files are, how documents end."""
    return Namespace(
        _name="streaming_language_modeling",
        data="data",
        vocab_filename="gpt2-vocab.json",
        merges_filename="gpt2-merges.txt",
        end_of_document_symbol="</s>",
        max_target_positions=architecture.max_positions,
        tokens_per_sample=architecture.max_positions,
    )


def configuration(architecture: Architecture, recipe: Recipe, grid: ShardGrid) -> dict[str, Any]:
    """The whole `cfg` dictionary."""
    return {
        "_name": None,
        "common": {
            "seed": recipe.seed,
            "fp16": True,
            "memory_efficient_fp16": True,
            "model_parallel_size": grid.parts,
        },
        "distributed_training": {
            "distributed_world_size": grid.parts * grid.shards,
            "ddp_backend": "fully_sharded",
            "use_sharded_state": True,
        },
        "checkpoint": {
            "save_dir": "checkpoints",
            "restore_file": f"{grid.stem}.pt",
            "checkpoint_suffix": "",
            "checkpoint_shard_count": 1,
        },
        "optimization": {
            "max_update": recipe.steps,
            "lr": [recipe.adam_learning_rate],
            "clip_norm": recipe.clip_norm,
        },
        "bpe": None,
        "model": model_namespace(architecture, recipe, grid.parts),
        "task": task_namespace(architecture),
    }

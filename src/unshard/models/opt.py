"""OPT in PyTorch: exact arithmetic, few calls per layer, weights allocated once and unfilled.

Source: metaseq's transformer decoder; arXiv:2205.01068. Plain objects, not `nn.Module`s: a
decode step is some hundred small kernels, and a module call costs as much as the smallest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from unshard.architectures.opt import POSITION_OFFSET, OPTConfig
from unshard.errors import UsageError
from unshard.kernels import embedding
from unshard.kernels.attention import PagedAttention
from unshard.kernels.stack import DecoderStack
from unshard.library.precisions import output_bits
from unshard.models.attention import Attention
from unshard.models.copies import copier_for
from unshard.models.decoder_layer import DecoderLayer, Target, empty_norm, stack_of
from unshard.models.linear import Form, Linear
from unshard.models.prefetch import Prefetch, spread
from unshard.parallel.group import ALONE, Group


class OPTModel:
    """An OPT decoder: token ids in, hidden states and logits out.

    Life: construct (weights allocated, not filled), fill `weight_targets()`, `finalize()`.
    All methods that compute are to be called under `torch.inference_mode()`, and by all ranks of
    `group` in the same order.

    `matrix_bits` (8 or 4) rounds every matrix as it is filled; embeddings, norms and biases stay
    in `dtype` (the table of tokens in `table_dtype`), and with 4 the output projection.
    """

    def __init__(
        self,
        config: OPTConfig,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        group: Group = ALONE,
        *,
        matrix_bits: int | None = None,
        table_dtype: torch.dtype | None = None,
        num_away: int = 0,
    ) -> None:
        """The slice of the model that `group.rank` holds; heads and `ffn_dim` have to divide by
        `group.size`. The weights of `num_away` layers stay in the host's memory. `table_dtype` is
        that of an embedding table which is not the output projection too, `dtype` by itself."""
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        self.group = group
        # A vocabulary that does not divide is held whole by every rank.
        self._vocab_group = group if config.vocab_size % group.size == 0 else ALONE
        hidden, embedding = config.hidden_size, config.embedding_size
        vocab = config.vocab_size // self._vocab_group.size
        form = Form(dtype, self.device, matrix_bits)
        output_form = replace(form, matrix_bits=output_bits(matrix_bits))
        is_shared = config.tied_embeddings and output_form.matrix_bits is None
        table_form = form if is_shared else replace(form, dtype=table_dtype or dtype)
        self._embed_tokens = table_form.empty_matrix(vocab, embedding)
        self._embed_positions = form.empty(config.max_positions + POSITION_OFFSET, hidden)
        away, away_form = spread(num_away, config.num_layers), replace(form, is_away=True)
        self._layers = [
            DecoderLayer(config, away_form if number in away else form, group)
            for number in range(config.num_layers)
        ]
        self._prefetch: Prefetch[DecoderLayer] | None = None
        if away:
            rooms = DecoderLayer(config, form, group), DecoderLayer(config, form, group)
            for linear in (*rooms[0].linears(), *rooms[1].linears()):
                linear.stays = True
                linear.pack()
            self._prefetch = Prefetch(self._layers, away, rooms, copier_for(self.device))
        self._norm = empty_norm(hidden, form) if config.pre_norm else None
        self._project_in = self._project_out = None
        if embedding != hidden:
            self._project_in = Linear.empty(embedding, hidden, form, bias=False)
            self._project_out = Linear.empty(hidden, embedding, form, bias=False)
        if is_shared:
            self._output = Linear(self._embed_tokens)
            self._output.stays = True
        else:
            self._output = Linear.empty(embedding, vocab, output_form, bias=False)
        self._stack: DecoderStack | None = None
        self._finalized = False

    def map_weights(self, mapped: Mapping[str, Tensor]) -> None:
        """Use these filled matrices, by canonical name, where they lie, in place of memory to
        fill: parts of files that may be larger than the memory. They have the model's dtype.

        What is used so is its own target of `weight_targets`. Without `matrix_bits` only.
        """
        tokens, positions = "decoder.embed_tokens.weight", "decoder.embed_positions.weight"
        self._embed_positions = mapped.get(positions, self._embed_positions)
        linears = {
            "decoder.project_in_dim.weight": self._project_in,
            "decoder.project_out_dim.weight": self._project_out,
            "decoder.output_projection.weight": self._output,
        }
        if tokens in mapped:
            self._embed_tokens = mapped[tokens]
            if self.config.tied_embeddings:
                self._output.stay_in(mapped[tokens])
        for name, linear in linears.items():
            if linear is not None and name in mapped:
                linear.stay_in(mapped[name])
        for number, layer in enumerate(self._layers):
            prefix = f"decoder.layers.{number}."
            layer.map_weights(
                {n.removeprefix(prefix): t for n, t in mapped.items() if n.startswith(prefix)}
            )

    def weight_targets(self) -> dict[str, Target]:
        """Canonical tensor name -> the tensor (often a view) that has to be filled with it.

        Raises:
            UsageError: the model was finalized; its weights are no longer in these tensors.
        """
        if self._finalized:
            raise UsageError("the model's weights are final and cannot be filled again")
        targets: dict[str, Target] = {
            "decoder.embed_tokens.weight": self._embed_tokens,
            "decoder.embed_positions.weight": self._embed_positions,
        }
        if self._norm is not None:
            targets["decoder.layer_norm.weight"] = self._norm.weight
            targets["decoder.layer_norm.bias"] = self._norm.bias
        if self._project_in is not None and self._project_out is not None:
            (targets["decoder.project_in_dim.weight"],) = self._project_in.weight_targets()
            (targets["decoder.project_out_dim.weight"],) = self._project_out.weight_targets()
        if not self.config.tied_embeddings:
            (targets["decoder.output_projection.weight"],) = self._output.weight_targets()
        elif self._output.weight is not self._embed_tokens:
            (both,) = self._output.weight_targets(exact=self._embed_tokens)
            targets["decoder.embed_tokens.weight"] = both
        for number, layer in enumerate(self._layers):
            for name, tensor in layer.weight_targets():
                targets[f"decoder.layers.{number}.{name}"] = tensor
        return targets

    def finalize(self) -> None:
        """Give the filled weights the layout that computes fastest, one by one. Idempotent."""
        if self._finalized:
            return
        self._finalized = True
        for linear in self._linears():
            linear.pack()
        if self._prefetch is None:
            places = self._embed_positions[POSITION_OFFSET:]
            tables = embedding.native(self._embed_tokens, places)
            self._stack = stack_of(self._layers, self._norm, tables)

    def _linears(self) -> Iterator[Linear]:
        for layer in self._layers:
            yield from layer.linears()
        yield from self._outer_linears()

    def _outer_linears(self) -> Iterator[Linear]:
        if self._project_in is not None and self._project_out is not None:
            yield from (self._project_in, self._project_out)
        yield self._output

    def tensors(self) -> list[Tensor]:
        """All memory of the weights; what two uses share is there twice."""
        layers = [tensor for layer in self._layers for tensor in layer.tensors()]
        outer = [tensor for linear in self._outer_linears() for tensor in linear.tensors()]
        norm = [] if self._norm is None else [*self._norm]
        return [self._embed_tokens, self._embed_positions, *layers, *norm, *outer]

    def hidden_states(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: Attention,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states of a step's tokens, normalised (pre-norm) and projected (350M).

        Args:
            token_ids: (T,) int64.
            positions: (T,) int64, each token's place in its own sequence, from 0.
            attention: which rows attend to what.
            kept: (R,) int64, the rows that are asked for, None for all: the last layer computes
                no more of the others than their keys and values.

        Returns:
            (T, E), or (R, E), in the model's dtype, E = `embedding_size`.
        """
        stack = self._stack
        if stack and isinstance(attention, PagedAttention) and len(token_ids) <= stack.most_rows:
            x = self._through_stack(stack, token_ids, positions, attention)
            x = x if kept is None else x[kept]
        else:
            x = self._through_layers(self._embed(token_ids, positions), attention, kept)
        return x if self._project_out is None else self._project_out(x)

    def _through_stack(
        self, stack: DecoderStack, token_ids: Tensor, positions: Tensor, attention: PagedAttention
    ) -> Tensor:
        if stack.embeds:
            return stack.of_tokens(token_ids, positions, attention)
        return stack(self._embed(token_ids, positions), attention)

    def _through_layers(self, x: Tensor, attention: Attention, kept: Tensor | None) -> Tensor:
        last = len(self._layers) - 1
        for number, layer in enumerate(self._prefetch or self._layers):
            x = layer(x, number, attention, kept if number == last else None)
        return x if self._norm is None else self._norm(x)

    @property
    def fetches_layers(self) -> bool:
        """Whether layers are in the host's memory."""
        return self._prefetch is not None

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, E) -> (R, V) fp32, all rows of the vocabulary, padding rows too. Where the group
        splits the vocabulary, ranks other than 0 get their part alone."""
        return self._vocab_group.gather_columns(self._output(hidden).float())

    @property
    def splits_vocabulary(self) -> bool:
        """Whether `logits` takes all ranks."""
        return self._vocab_group.size > 1

    def _embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """(T,) and (T,) -> (T, D)."""
        x = self._of_tokens(token_ids)
        if self._project_in is not None:
            x = self._project_in(x)
        x += torch.embedding(self._embed_positions, positions + POSITION_OFFSET)
        return x

    def _of_tokens(self, token_ids: Tensor) -> Tensor:
        """(T,) -> (T, E). A row that another rank holds is 0 here, so the sum is exact."""
        if not self.splits_vocabulary:
            return torch.embedding(self._embed_tokens, token_ids).to(self.dtype)
        num_rows = len(self._embed_tokens)
        rows = token_ids - self._vocab_group.rank * num_rows
        elsewhere = (rows < 0) | (rows >= num_rows)
        x = torch.embedding(self._embed_tokens, rows.masked_fill(elsewhere, 0)).to(self.dtype)
        return self._vocab_group.sum(x.masked_fill_(elsewhere[:, None], 0))

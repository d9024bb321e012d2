"""The native engine without its thread: schedule and run until every prompt is answered."""

from collections.abc import Sequence as Prompt
from dataclasses import dataclass
from pathlib import Path

import torch

from inference_server.engines import kernels
from inference_server.engines.decode_graphs import DecodeGraphs, Record, recorded
from inference_server.engines.native import architecture, weights
from inference_server.engines.native.attention import Group
from inference_server.engines.native.kv_cache import BLOCK, BlockAllocator, KVCache
from inference_server.engines.native.model import Batch, Model
from inference_server.engines.native.runner import Runner
from inference_server.engines.native.scheduler import Scheduler, Sequence
from inference_server.engines.sampler import Chooser, Sampling

CPU = torch.device("cpu")
RUNNING = 8
GREEDY = Sampling(temperature=0.0)


@dataclass
class Parts:
    """A model in memory with its scheduler, in steps of ``budget`` tokens at most."""

    of: architecture.Architecture
    model: Model
    runner: Runner
    scheduler: Scheduler
    graphs: DecodeGraphs | None = None

    @classmethod
    def of_directory(
        cls,
        directory: Path,
        *,
        blocks: int = 64,
        budget: int = 512,
        dtype: torch.dtype = torch.float32,
        int4: bool = False,
        compiled: bool = True,
        record: Record | None = None,
    ) -> "Parts":
        """Loads it; ``compiled`` with our own kernels, where they are and the dtype has them; ``record`` its steps."""
        of = architecture.read(directory)
        own = kernels.find(CPU, dtype) if compiled else None
        packed = weights.load(directory, of, dtype=dtype, device=CPU, int4=int4, kernels=own)
        sizes = {"layers": of.layers, "kv_heads": of.kv_heads, "head_dim": of.head_dim}
        cache, allocator = KVCache(**sizes, blocks=blocks + 1, dtype=dtype, device=CPU), BlockAllocator(blocks)
        model = Model(of, packed, cache, own)
        known = {"most": RUNNING, "context": of.context, "spare": blocks, "dtype": dtype, "device": CPU}
        graphs = recorded(model, of, **known, record=record) if record else None
        scheduler = Scheduler(allocator, token_budget=budget, most_running=RUNNING)
        return cls(of, model, Runner(model, allocator, device=CPU, graphs=graphs), scheduler, graphs)

    def generated(self, prompts: Prompt[Prompt[int]], *, new: int) -> list[list[int]]:
        """The greedy continuations, all prompts at once."""
        return self.answered(prompts, [Chooser(GREEDY) for _ in prompts], new=new)

    def answered(self, prompts: Prompt[Prompt[int]], choosers: Prompt[Chooser], *, new: int) -> list[list[int]]:
        """The continuations, all prompts at once, each as its chooser wants it."""
        sequences = [
            Sequence(list(prompt), new, chooser, rope_variant=self.of.rope.variant(len(prompt) + new))
            for prompt, chooser in zip(prompts, choosers, strict=True)
        ]
        for sequence in sequences:
            self.scheduler.add(sequence)
        while work := self.scheduler.schedule():
            for sequence, _ in self.runner.run(work):
                if sequence.full:
                    self.scheduler.finish(sequence)
        return [sequence.output for sequence in sequences]

    def logits(self, tokens: Prompt[int], *, chunk: int | None = None) -> torch.Tensor:
        """Of every token [tokens, vocabulary], computed ``chunk`` tokens at a time."""
        parts, variant = [], self.of.rope.variant(len(tokens))
        for start in range(0, len(tokens), chunk or len(tokens)):
            end = min(len(tokens), start + (chunk or len(tokens)))
            places = torch.arange(start, end)
            tables, counts = torch.arange(-(-end // BLOCK))[None], torch.tensor([end - start])
            group = Group(start=0, end=end - start, positions=places[None], tables=tables, counts=counts)
            batch = Batch(
                tokens=torch.tensor(tokens[start:end]),
                positions=places,
                slots=places,
                rows=torch.arange(end - start),
                groups=(group,),
                variants=torch.full((end - start,), variant) if variant else None,
            )
            with torch.inference_mode():
                parts.append(self.model.forward(batch).float())
        return torch.cat(parts)

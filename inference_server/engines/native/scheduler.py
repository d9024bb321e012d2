"""Which requests compute which tokens in the next step: decodes first, then prompts in chunks, first come first served.

When the cache is full the youngest running request gives its blocks back and waits to be computed again (preemption by
recomputation, as in vLLM); its text so far is kept.
"""

from collections import deque
from dataclasses import dataclass, field

from inference_server.engines.native.kv_cache import BlockAllocator, NoBlocks, Table
from inference_server.engines.sampler import Chooser


@dataclass(slots=True, eq=False)
class Sequence:
    """One request on its way: its tokens, its blocks, how its tokens are chosen."""

    tokens: list[int]
    """The prompt, and then what came."""
    limit: int
    """New tokens at most."""
    chooser: Chooser
    adapter: int = 0
    """Its row in the table of adapters; 0 is none."""
    rope_variant: int = 0
    table: Table = field(default_factory=Table)
    cancelled: bool = False
    prompt_length: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

    @property
    def kind(self) -> bytes:
        """What keys and values depend on beside the tokens; nothing for most."""
        return f"{self.adapter},{self.rope_variant}".encode() if self.adapter or self.rope_variant else b""

    @property
    def prompt(self) -> list[int]:
        """What was asked."""
        return self.tokens[: self.prompt_length]

    @property
    def output(self) -> list[int]:
        """What came so far."""
        return self.tokens[self.prompt_length :]

    @property
    def untold(self) -> range:
        """Places of the prompt whose logits are still wanted, for what they say of the next token."""
        wanted = self.chooser.sampling.prompt_logprobs is not None
        return range(len(self.chooser.of_prompt), self.prompt_length - 1 if wanted else 0)

    @property
    def full(self) -> bool:
        """Whether it has as many new tokens as it may."""
        return len(self.tokens) - self.prompt_length >= self.limit

    @property
    def uncomputed(self) -> int:
        """Tokens whose keys and values are not in the cache; 1 while decoding."""
        return len(self.tokens) - self.table.computed


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's part of a step: its next ``tokens`` uncomputed tokens."""

    sequence: Sequence
    tokens: int

    @property
    def last(self) -> bool:
        """Whether the step computes its last known token, so that the next one can be chosen."""
        return self.tokens == self.sequence.uncomputed

    @property
    def asked(self) -> range:
        """Those of its places whose logits are wanted for the prompt's sake."""
        start, untold = self.sequence.table.computed, self.sequence.untold
        return range(max(start, untold.start), min(start + self.tokens, untold.stop))


@dataclass(slots=True)
class Scheduler:
    """The waiting and the running, over one block allocator."""

    allocator: BlockAllocator
    token_budget: int
    """Tokens in one step at most: prompts longer than what is left are computed in chunks."""
    most_running: int
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)

    def add(self, sequence: Sequence) -> None:
        """To the end of the queue."""
        self.waiting.append(sequence)

    def schedule(self) -> list[Work]:
        """The next step's work, decodes first. Empty when there is nothing to do."""
        self._drop_cancelled()
        work: list[Work] = []
        budget = self.token_budget
        for sequence in list(self.running):
            if sequence in self.running and budget > 0:
                tokens = min(sequence.uncomputed, budget)
                if self._make_room(sequence, sequence.table.computed + tokens):
                    work.append(Work(sequence, tokens))
                    budget -= tokens
        work = [w for w in work if w.sequence in self.running]
        if budget > 0:
            work += self._admit(budget)
        return sorted(work, key=lambda w: w.tokens > 1)

    def finish(self, sequence: Sequence) -> None:
        """Takes it out and gives its blocks back."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self.allocator.release(sequence.table)

    def _admit(self, budget: int) -> list[Work]:
        work: list[Work] = []
        while self.waiting and budget > 0 and len(self.running) < self.most_running:
            sequence = self.waiting[0]
            known = sequence.tokens[: sequence.untold.start + 1] if sequence.untold else sequence.tokens
            sequence.table = self.allocator.match(known, kind=sequence.kind)
            tokens = min(sequence.uncomputed, budget)
            try:
                self.allocator.grow(sequence.table, sequence.table.computed + tokens)
            except NoBlocks:
                self.allocator.release(sequence.table)
                break
            self.running.append(self.waiting.popleft())
            work.append(Work(sequence, tokens))
            budget -= tokens
        return work

    def _make_room(self, sequence: Sequence, tokens: int) -> bool:
        """Grows its table, preempting the youngest while there is none; False if that was ``sequence`` itself."""
        while True:
            try:
                self.allocator.grow(sequence.table, tokens)
            except NoBlocks:
                youngest = self.running[-1]
                self._preempt(youngest)
                if youngest is sequence:
                    return False
            else:
                return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.allocator.release(sequence.table)
        self.waiting.appendleft(sequence)

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in (*self.running, *self.waiting) if s.cancelled]:
            self.finish(sequence)
